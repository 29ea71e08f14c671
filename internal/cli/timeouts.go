// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

func (a *app) timeoutsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "timeouts",
		Short: "Show how long connections live after their last packet",
		Long: "Show the timeouts in force: those of ipvsadm -L --timeout in seconds, then all of\n" +
			"them by the names that the configuration has.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	addNumeric(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		t, err := client.Timeouts(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, t)
		}
		a.printTimeouts(a.out, t)
		return nil
	}
	cmd.AddCommand(a.setTimeoutsCommand())
	return cmd
}

// printTimeouts begins with the line of ipvsadm -L --timeout.
func (a *app) printTimeouts(w io.Writer, t director.Timeouts) {
	a.printThree(w, t)
	for _, name := range director.TimeoutNames() {
		fmt.Fprintf(w, "%-22s %s\n", name, director.FormatTimeout(t.Get(name)))
	}
}

func (a *app) printThree(w io.Writer, t director.Timeouts) {
	seconds := func(name string) int64 { return int64(t.Get(name).Seconds()) }
	fmt.Fprintf(w, "Timeout (tcp tcpfin udp): %d %d %d\n", seconds("tcp"), seconds("tcpfin"), seconds("udp"))
}

func (a *app) setTimeoutsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME=DURATION… | TCP TCPFIN UDP",
		Short: "Change timeouts until the next reload",
		Long: "Change timeouts until the next reload or restart of the daemon, which make those of\n" +
			"the configuration valid again. Connections that exist follow at once.\n\n" +
			"A NAME is one that director timeouts shows, a DURATION as in 15m or 900. Three\n" +
			"durations without names are those of ipvsadm --set; 0 leaves one as it is.",
		Example: "  director timeouts set tcp=10m tcp_syn_recv=20\n  director timeouts set 900 0 300",
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := parseTimeouts(args)
			if err != nil {
				return err
			}
			client := a.client()
			defer client.Close()
			t, err := client.SetTimeouts(cmd.Context(), change)
			if err != nil {
				return err
			}
			a.printThree(a.out, t)
			fmt.Fprintln(a.out, "in force until the next reload or restart, which make the configuration's valid again")
			return nil
		},
	}
}

// parseTimeouts reads the arguments of timeouts set; what is not to change is 0.
func parseTimeouts(args []string) (change director.Timeouts, err error) {
	named := strings.Contains(strings.Join(args, ""), "=")
	if !named && len(args) != 3 {
		return change, usagef("want NAME=DURATION, or three durations: tcp, tcpfin and udp")
	}
	for i, arg := range args {
		name, text := director.TimeoutNames()[i%3], arg
		if named {
			var ok bool
			if name, text, ok = strings.Cut(arg, "="); !ok {
				return change, usagef("want NAME=DURATION, not %q", arg)
			}
			if change.Get(name) != 0 {
				return change, usagef("timeout %s twice", name)
			}
		} else if text == "0" {
			continue
		}
		if err := setTimeout(&change, name, text); err != nil {
			return change, &usageError{err}
		}
	}
	return change, nil
}

func setTimeout(change *director.Timeouts, name, text string) error {
	if err := change.Set(name, director.MinTimeout); err != nil { // an unknown name is said first
		return err
	}
	timeout, err := director.ParseTimeout(text)
	if err != nil {
		return fmt.Errorf("timeout %s: %w", name, err)
	}
	return change.Set(name, timeout)
}
