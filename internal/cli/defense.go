// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

func (a *app) defenseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "defense",
		Short: "Show the defenses against denial of service",
		Long: "Show how the director defends itself: IPVS's strategies with their modes, what makes\n" +
			"the automatic ones act, and how many packets the defenses have dropped.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	addNumeric(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		s, err := client.Defense(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, s)
		}
		return printDefense(a.out, &s)
	}
	cmd.AddCommand(a.setDefenseCommand(), a.reportDefenseCommand())
	return cmd
}

func printDefense(w io.Writer, s *director.DefenseState) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	strategy := func(name string, mode director.DefenseMode, does string) {
		state := "inactive"
		if mode.Active() {
			state = does
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", name, mode, state)
	}
	fmt.Fprintln(table, "Strategy\tMode\tState")
	strategy("drop_entry", s.DropEntry, "half-open connections are ended at random")
	strategy("drop_packet", s.DropPacket, dropping(s.Rate))
	strategy("secure_tcp", s.SecureTCP, "connections are established by the server's packets")
	strategy("syn_cookies", s.SynCookies, "SYNs are answered with cookies")
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nPressure: %s\n", causes(s))
	fmt.Fprintf(w, "  memory: %s; fewer than %d press (amemthresh)\n", memoryPages(s.Pressure.Pages), s.MemThresh)
	fmt.Fprintf(w, "  fullest connection table: %d of %d places in use; %s (occupancy)\n", s.Pressure.Used, s.Pressure.Places, presses(s.Occupancy))
	fmt.Fprintf(w, "  half-open: %d of %d places that connections can have, or kept from them by cookies; %s (half_open)\n", s.Pressure.HalfOpen, s.Pressure.HalfPlaces, presses(s.HalfOpen))
	fmt.Fprintf(w, "drop_packet, where it is always on: %s (am_droprate %d)\n", dropping(s.DropRate), s.DropRate)
	fmt.Fprintf(w, "\nSYN cookies: %d SYNs answered, %d connections proven; %d of %d services that can give them do so now\n", s.Cookies.Answered, s.Cookies.Proven, s.Cookies.Services, s.Cookies.Able)
	fmt.Fprintf(w, "\nDropped since the tables were made:\n")
	printDropped(w, s.Dropped, s.Evicted)
	return nil
}

func printDropped(w io.Writer, packets map[string]uint64, connections uint64) {
	for _, name := range sortedKeys(packets) {
		fmt.Fprintf(w, "  %-16s %d packets\n", name, packets[name])
	}
	fmt.Fprintf(w, "  %-16s %d connections and templates, since the daemon began\n", "drop_entry", connections)
}

func dropping(rate int32) string {
	switch {
	case rate == 0:
		return "no new connection is dropped: am_droprate is 0"
	case rate <= 1:
		return "all new connections are dropped"
	default:
		return fmt.Sprintf("one of %d new connections is dropped", rate)
	}
}

func causes(s *director.DefenseState) string {
	if s.Cause == "" {
		return "none"
	}
	return string(s.Cause)
}

func memoryPages(n int64) string {
	if n == director.UnknownPages {
		return "not known"
	}
	return fmt.Sprintf("%d pages available", n)
}

func presses(percent uint8) string {
	if percent == 0 {
		return "never presses"
	}
	return fmt.Sprintf("more than %d %% press", percent)
}

func sortedKeys(m map[string]uint64) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func (a *app) setDefenseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME=VALUE…",
		Short: "Change settings of the defenses until the next reload",
		Long: "Change settings of the defenses until the next reload or restart of the daemon, which\n" +
			"make those of the configuration valid again.\n\n" +
			"A NAME is one of " + strings.Join(director.DefenseNames(), ", ") + ",\n" +
			"with or without net.ipv4.vs. in front, as the sysctls of IPVS. The mode of a strategy\n" +
			"is off, auto or always; or a sysctl's number: 0, 1 or 2, 3.",
		Example: "  director defense set drop_packet=3 am_droprate=5\n  director defense set drop_entry=auto amemthresh=4096",
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := parseDefense(args)
			if err != nil {
				return err
			}
			client := a.client()
			defer client.Close()
			s, err := client.SetDefense(cmd.Context(), change)
			if err != nil {
				return err
			}
			if err := printDefense(a.out, &s); err != nil {
				return err
			}
			fmt.Fprintln(a.out, "\nin force until the next reload or restart, which make the configuration's valid again")
			return nil
		},
	}
}

// parseDefense reads the arguments of defense set.
func parseDefense(args []string) (director.DefenseChange, error) {
	if len(args) == 0 {
		return nil, usagef("want NAME=VALUE (known: %s)", strings.Join(director.DefenseNames(), ", "))
	}
	change := director.DefenseChange{}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, usagef("want NAME=VALUE, not %q", arg)
		}
		if _, twice := change[name]; twice {
			return nil, usagef("setting %s twice", name)
		}
		change[name] = value
	}
	if err := change.Validate(); err != nil {
		return nil, &usageError{err}
	}
	return change, nil
}
