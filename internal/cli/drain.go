// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/api"
)

// drain empties one real server of one service.
type drain struct {
	*app
	client        *api.Client
	service, real string
	untilIdle     bool
	deadline      time.Duration
	then          string
	every         time.Duration
}

func (a *app) drainCommand() *cobra.Command {
	d := &drain{app: a}
	then := newChoice("keep", "remove")
	cmd := &cobra.Command{
		Use:   "drain SERVICE REAL",
		Short: "Let a real server come to an end of its work",
		Long: "Set the weight of a real server to 0: known connections go on, new ones go elsewhere.\n" +
			"With --until-idle, wait until it has no connection, and no client by persistence, or\n" +
			"until the deadline; then leave it quiesced (keep) or remove it. Whoever is still\n" +
			"connected at the deadline is treated as on_remove says.\n\n" +
			"Interrupted, it leaves the real server quiesced; the same command goes on.",
		Example: "  director drain web rs2 --until-idle --deadline 10m --then remove",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("want SERVICE and REAL")
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return a.completeReals(cmd.Context(), args[0]), cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeServices(cmd, args, text)
		},
	}
	cmd.Flags().BoolVar(&d.untilIdle, "until-idle", false, "wait until it has no connections")
	cmd.Flags().DurationVar(&d.deadline, "deadline", 0, "wait so long at most (0: for as long as it takes)")
	cmd.Flags().DurationVar(&d.every, "interval", time.Second, "time between two looks")
	addChoice(cmd, &then, "then", "", "what becomes of it at the end")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d.service, d.real, d.then = args[0], args[1], then.value
		switch {
		case !d.untilIdle && (d.deadline != 0 || d.then != "keep"):
			return usagef("--deadline and --then are for --until-idle")
		case d.deadline < 0 || d.every <= 0:
			return usagef("--deadline and --interval are above 0")
		}
		d.client = a.client()
		defer d.client.Close()
		return d.run(cmd.Context())
	}
	return cmd
}

func (d *drain) run(ctx context.Context) error {
	err := d.client.Edit(ctx, director.Edit{Op: director.EditReal, Service: d.service, Real: d.real,
		Set: map[string]json.RawMessage{"weight": json.RawMessage("0")}})
	if err != nil {
		return err
	}
	if !d.untilIdle {
		fmt.Fprintf(d.out, "%s of %s is quiesced\n", d.real, d.service)
		return nil
	}
	idle, err := d.wait(ctx)
	if err != nil {
		return err
	}
	if d.then == "remove" {
		err = d.client.Edit(ctx, director.Edit{Op: director.RemoveReal, Service: d.service, Real: d.real})
	}
	if err != nil {
		return err
	}
	return d.tell(idle)
}

// tell says how it ended. Who had to leave it busy has failed, for scripts.
func (d *drain) tell(idle bool) error {
	what := "is idle"
	if !idle {
		what = "is still busy at the deadline"
	}
	end := "left with weight 0"
	if d.then == "remove" {
		end = "removed"
	}
	fmt.Fprintf(d.out, "%s of %s %s: %s\n", d.real, d.service, what, end)
	if !idle {
		return errPrinted
	}
	return nil
}

// wait shows how many are left, whenever that changes, until there are none.
func (d *drain) wait(ctx context.Context) (idle bool, err error) {
	begun := time.Now()
	ticker := time.NewTicker(d.every)
	defer ticker.Stop()
	for last := ""; ; {
		r, err := d.look(ctx)
		if err != nil {
			return false, err
		}
		passed := time.Since(begun).Round(time.Second)
		if line := fmt.Sprintf("%d active, %d inactive, %d clients by persistence", r.Active, r.Inactive, r.Templates); line != last {
			fmt.Fprintf(d.out, "%s  %s\n", passed, line)
			last = line
		}
		if r.Active == 0 && r.Inactive == 0 && r.Templates == 0 {
			return true, nil
		}
		if d.deadline > 0 && time.Since(begun) >= d.deadline {
			return false, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// look is the real server as it is.
func (d *drain) look(ctx context.Context) (*director.RealState, error) {
	s, err := d.client.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	for i := range s.Services {
		service := &s.Services[i]
		if service.Name != d.service && serviceRef(service.Key) != d.service && service.Key.String() != d.service {
			continue
		}
		for j := range service.Reals {
			if r := &service.Reals[j]; isReal(r, service.Key.Port, d.real) {
				return r, nil
			}
		}
	}
	return nil, fmt.Errorf("somebody else removed real server %s of %s", d.real, d.service)
}

// isReal tells whether a text means a real server of a service with this port.
func isReal(r *director.RealState, port uint16, text string) bool {
	if a, err := netip.ParseAddr(text); err == nil {
		return r.Key == director.RealKey{Addr: a, Port: port}
	}
	return r.Name != "" && r.Name == text || r.Key.String() == text
}

func realName(r *director.RealState) string { return cmp.Or(r.Name, r.Key.String()) }
