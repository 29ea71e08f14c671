// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/api"
)

func (a *app) planCommand() *cobra.Command {
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show what a configuration would change",
		Long: "Show the difference between a configuration and what is in force, run-time changes\n" +
			"included: + added, - removed, ~ changed, and what becomes of the connections that there are.",
		Args: oneFile,
	}
	format := addFormat(cmd, "text", "json")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 2 if there is a difference")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := a.client()
		defer client.Close()
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		p, err := client.Plan(cmd.Context(), args[0], text)
		if err != nil {
			return a.configurationError("plan", err)
		}
		if format.json() {
			err = writeJSON(a.out, p)
		} else {
			printPreview(a.out, &p)
		}
		if err == nil && exitCode && !p.Empty() {
			err = errCode(exitUsage)
		}
		return err
	}
	return cmd
}

func (a *app) applyCommand() *cobra.Command {
	var confirm time.Duration
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Put a configuration in force, and in the place of the daemon's",
		Long: "Put a configuration in force, show what it changes, and write it to the file that the\n" +
			"daemon was started with; the former one is kept. With --confirm, it is in force until\n" +
			"that time is over, and stays only if director confirm is said before.",
		Example: "  director apply new.yaml --confirm 2m && curl http://192.0.2.10/ && director confirm",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm < 0 {
				return usagef("--confirm is above 0")
			}
			return a.apply(cmd.Context(), args[0], confirm)
		},
	}
	cmd.Flags().DurationVar(&confirm, "confirm", 0, "return to the former configuration after this `TIME`, unless it is confirmed")
	return cmd
}

func (a *app) apply(ctx context.Context, file string, confirm time.Duration) error {
	client := a.client()
	defer client.Close()
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	p, err := client.Plan(ctx, file, text)
	if err == nil {
		printPreview(a.out, &p)
		err = client.Apply(ctx, file, text, confirm)
	}
	if err != nil {
		return a.configurationError("apply", err)
	}
	if confirm > 0 {
		fmt.Fprintf(a.out, "in force for %s: director confirm lets it stay, director rollback ends it\n", confirm)
	} else {
		fmt.Fprintln(a.out, "in force")
	}
	return nil
}

// configurationError prints the mistakes of a configuration as they are.
func (a *app) configurationError(what string, err error) error {
	var answer *api.Error
	if errors.As(err, &answer) && answer.Status == http.StatusUnprocessableEntity {
		fmt.Fprintln(a.Stderr, answer.Message)
		return errPrinted
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (a *app) confirmCommand() *cobra.Command {
	return a.askCommand("confirm", "Let a configuration stay that was applied with --confirm", "confirmed", (*api.Client).Confirm)
}

func (a *app) rollbackCommand() *cobra.Command {
	cmd := a.askCommand("rollback", "Return to the former configuration", "the former configuration is in force", (*api.Client).Rollback)
	cmd.Long = "Return to the configuration that was in force before the last apply or reload, and write it to\n" +
		"the file that the daemon was started with. Said again, it returns to the one before that; ten\n" +
		"are kept until the next boot."
	return cmd
}

// askCommand asks the daemon for something that has no arguments.
func (a *app) askCommand(name, short, done string, ask func(*api.Client, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := a.client()
			defer client.Close()
			if err := ask(client, cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintln(a.out, done)
			return nil
		},
	}
}

func printPreview(w io.Writer, p *director.Preview) {
	for _, part := range p.Other {
		fmt.Fprintf(w, "~ %s\n", part)
	}
	for i := range p.Services {
		s := &p.Services[i]
		fmt.Fprintf(w, "%s service %s%s\n", s.Op, s.Key, named(s.Name))
		printKeys(w, "    ", s.Keys)
		for j := range s.Reals {
			r := &s.Reals[j]
			fmt.Fprintf(w, "  %s real server %s%s%s\n", r.Op, r.Key, named(r.Name), effectText(r))
			printKeys(w, "      ", r.Keys)
		}
	}
	if p.Empty() {
		fmt.Fprint(w, "No difference. ")
	}
	u := p.Unchanged
	fmt.Fprintf(w, "Not touched: %d services, %d real servers, %d connections.\n", u.Services, u.RealServers, u.Connections)
}

func printKeys(w io.Writer, indent string, keys []director.KeyChange) {
	for _, k := range keys {
		switch {
		case k.Old == "":
			fmt.Fprintf(w, "%s%s: %s\n", indent, k.Key, k.New)
		case k.New == "":
			fmt.Fprintf(w, "%s%s: %s -> absent\n", indent, k.Key, k.Old)
		default:
			fmt.Fprintf(w, "%s%s: %s -> %s\n", indent, k.Key, k.Old, k.New)
		}
	}
}

func named(name string) string {
	if name == "" {
		return ""
	}
	return " (" + name + ")"
}

// effectText is what becomes of a real server's connections.
func effectText(r *director.RealPreview) string {
	n := r.Connections
	switch {
	case r.Op == director.PreviewAdd:
		return ""
	case r.Effect == director.EffectDrain:
		return fmt.Sprintf(": drains %d connections, moves 0", n)
	case r.Effect == director.EffectReschedule:
		return fmt.Sprintf(": moves %d connections to other real servers", n)
	case r.Effect == director.EffectReset:
		return fmt.Sprintf(": resets %d connections", n)
	case r.Effect == director.EffectDrop:
		return fmt.Sprintf(": drops %d connections", n)
	default:
		return fmt.Sprintf(": %d connections go on", n)
	}
}
