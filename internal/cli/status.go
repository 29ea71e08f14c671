// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

// statusReport is what director status prints as JSON.
type statusReport struct {
	Ready      bool                      `json:"ready"` // attached everywhere
	Interfaces []director.InterfaceState `json:"interfaces"`
	Services   int                       `json:"services"`
	Reals      int                       `json:"real_servers"`
	Reachable  int                       `json:"reachable"`
	Repaired   []director.Drift          `json:"repaired"` // what others changed, and was put back
}

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether all is as configured, and what had to be put back",
		Long: "Show whether the program is on every interface, how many real servers can be reached, and what\n" +
			"others changed of the director's (map entries, pins, the program on an interface, virtual\n" +
			"addresses, rules for the firewall's marks). It is noticed within some seconds, put back,\n" +
			"said in the log, and counted since the daemon's start.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		report, err := a.status(cmd.Context())
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		if format.json() {
			return writeJSON(a.out, report)
		}
		a.printStatus(report)
		return nil
	}
	return cmd
}

func (a *app) status(ctx context.Context) (*statusReport, error) {
	client := a.client()
	defer client.Close()
	s, err := client.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	addresses, err := client.Addresses(ctx)
	if err != nil {
		return nil, err
	}
	marks, err := client.Marks(ctx)
	if err != nil {
		return nil, err
	}
	r := &statusReport{Ready: true, Interfaces: s.Interfaces, Services: len(s.Services), Repaired: s.Drift}
	for i := range s.Interfaces {
		r.Ready = r.Ready && s.Interfaces[i].Error == ""
	}
	for i := range s.Services {
		for j := range s.Services[i].Reals {
			r.Reals++
			if s.Services[i].Reals[j].Reachable {
				r.Reachable++
			}
		}
	}
	for _, address := range addresses.Addresses {
		r.repaired("address "+address.Addr.String(), address.Repaired, address.RepairedAt)
	}
	if marks.Door != nil {
		r.repaired("firewall marks", uint64(marks.Door.Repaired), marks.Door.RepairedAt)
	}
	slices.SortFunc(r.Repaired, func(a, b director.Drift) int { return cmp.Compare(a.What, b.What) })
	return r, nil
}

func (r *statusReport) repaired(what string, times uint64, last time.Time) {
	if times > 0 {
		r.Repaired = append(r.Repaired, director.Drift{What: what, Times: times, Last: last})
	}
}

func (a *app) printStatus(r *statusReport) {
	for i := range r.Interfaces {
		n := &r.Interfaces[i]
		if n.Error != "" {
			fmt.Fprintf(a.out, "interface %s: not attached: %s\n", n.Name, n.Error)
		} else {
			fmt.Fprintf(a.out, "interface %s: attached, %s mode\n", n.Name, n.Mode)
		}
	}
	fmt.Fprintf(a.out, "%d services, %d real servers, %d of them reachable\n", r.Services, r.Reals, r.Reachable)
	if len(r.Repaired) == 0 {
		fmt.Fprintln(a.out, "nobody has changed what is the director's")
		return
	}
	fmt.Fprintln(a.out, "others changed, and the director put back:")
	for _, d := range r.Repaired {
		fmt.Fprintf(a.out, "  %-20s %d, last at %s\n", d.What, d.Times, d.Last.Format(time.RFC3339))
	}
}
