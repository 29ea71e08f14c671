// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/ipvsadm"
)

// serviceCommand is what list, stats and rate have in common.
type serviceCommand struct {
	*app
	cmd    *cobra.Command
	format *format
	repeat *repeat
	nosort bool
	exact  bool

	text func(*listing, *director.Snapshot) // prints the layout
	json func(*director.Snapshot) any       // is what -o json shows
}

func (a *app) serviceCommand(name, short string) *serviceCommand {
	c := &serviceCommand{app: a, cmd: &cobra.Command{
		Use:   name + " [SERVICE…]",
		Short: short,
		Long: short + ".\n\nA SERVICE is a service's name, ADDRESS:PORT or \"fwmark N\"; without one all are shown.\n" +
			"The layout is that of ipvsadm; -o wide adds what it has no column for.",
		ValidArgsFunction: a.completeServices,
	}}
	c.format = addFormat(c.cmd, "text", "wide", "json")
	c.repeat = addRepeat(c.cmd.Flags())
	c.cmd.Flags().BoolVar(&c.nosort, "nosort", false, "keep the director's order: real servers as the schedulers see them")
	addNumeric(c.cmd.Flags())
	c.cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) }
	return c
}

func (c *serviceCommand) addExact() {
	c.cmd.Flags().BoolVar(&c.exact, "exact", false, "do not shorten numbers with K, M, G and T")
}

func (a *app) listCommand() *cobra.Command {
	c := a.serviceCommand("list", "List services and real servers")
	var thresholds, persistent, shares bool
	c.cmd.Flags().BoolVar(&thresholds, "thresholds", false, "show real servers' upper and lower thresholds")
	c.cmd.Flags().BoolVar(&persistent, "persistent-conn", false, "show how many clients persistence sends to real servers")
	c.cmd.Flags().BoolVar(&shares, "shares", false, "show real servers' shares of the new connections of the last minute")
	c.cmd.MarkFlagsMutuallyExclusive("thresholds", "persistent-conn", "shares")
	c.text = func(l *listing, s *director.Snapshot) {
		switch {
		case thresholds:
			l.printThresholds(s)
		case persistent:
			l.printPersistent(s)
		case shares:
			l.printShares(s)
		default:
			l.printState(s)
		}
	}
	c.json = func(s *director.Snapshot) any { return withoutNulls(s) }
	return c.cmd
}

func (a *app) statsCommand() *cobra.Command {
	c := a.serviceCommand("stats", "Show totals of connections, packets and bytes")
	c.addExact()
	var verdicts bool
	c.cmd.Flags().BoolVar(&verdicts, "verdicts", false, "show what became of packets instead, the most frequent first")
	c.text = func(l *listing, s *director.Snapshot) {
		if verdicts {
			l.printVerdicts(s)
		} else {
			l.printStats(s)
		}
	}
	c.json = func(s *director.Snapshot) any {
		if verdicts {
			return verdictsJSON{s.Time, withoutNulls(s).Verdicts}
		}
		return statsOf(s)
	}
	c.cmd.PreRunE = func(_ *cobra.Command, args []string) error {
		if verdicts && len(args) > 0 {
			return usagef("verdicts are counted for all services together: unexpected argument %q", args[0])
		}
		return nil
	}
	return c.cmd
}

func (a *app) rateCommand() *cobra.Command {
	c := a.serviceCommand("rate", "Show connections, packets and bytes per second")
	c.addExact()
	c.text = (*listing).printRate
	c.json = func(s *director.Snapshot) any { return ratesOf(s) }
	return c.cmd
}

func (c *serviceCommand) run(ctx context.Context, names []string) error {
	client := c.client()
	defer client.Close()
	return c.print(ctx, c.repeat, func(w io.Writer) error { return c.page(ctx, w, client, names) })
}

// page asks the daemon and prints its answer.
func (c *serviceCommand) page(ctx context.Context, w io.Writer, client *api.Client, names []string) error {
	s, err := client.Snapshot(ctx)
	if err != nil {
		return err
	}
	if !c.nosort {
		sortServices(s.Services)
	}
	if s.Services, err = selectServices(s.Services, names); err != nil {
		return err
	}
	if c.format.json() {
		return writeJSON(w, c.json(s))
	}
	c.warnInterfaces(s)
	c.text(c.newListing(w, s.Services, c.format.wide(), c.exact), s)
	return nil
}

// withoutNulls makes empty lists of missing ones, for programs that read them.
func withoutNulls(s *director.Snapshot) *director.Snapshot {
	s.Interfaces = append([]director.InterfaceState{}, s.Interfaces...)
	s.Services = append([]director.ServiceState{}, s.Services...)
	for i := range s.Services {
		s.Services[i].Reals = append([]director.RealState{}, s.Services[i].Reals...)
	}
	if s.Verdicts == nil {
		s.Verdicts = map[string]uint64{}
	}
	return s
}

// warnInterfaces tells of interfaces that no packet comes through, or not every one: the
// layout has no place for them.
func (a *app) warnInterfaces(s *director.Snapshot) {
	for _, i := range s.Interfaces {
		if i.Device == "" {
			fmt.Fprintf(a.Stderr, "director: warning: interface %s is not attached: %s\n", i.Name, i.Error)
		} else if trouble := cmp.Or(i.Error, i.Warning); trouble != "" {
			fmt.Fprintf(a.Stderr, "director: warning: interface %s: %s\n", i.Name, trouble)
		}
	}
}

// completeServices offers the services' names to the shell.
func (a *app) completeServices(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	client := a.client()
	defer client.Close()
	s, err := client.Snapshot(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, service := range s.Services {
		names = append(names, serviceName(&service))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// verdict is a reason packets left for.
type verdict struct {
	name    string
	packets uint64
}

// verdictsOf are the verdicts, the most frequent first.
func verdictsOf(s *director.Snapshot) (verdicts []verdict) {
	for name, packets := range s.Verdicts {
		verdicts = append(verdicts, verdict{name, packets})
	}
	slices.SortFunc(verdicts, func(a, b verdict) int {
		return cmp.Or(cmp.Compare(b.packets, a.packets), cmp.Compare(a.name, b.name))
	})
	return verdicts
}

// printVerdicts has the columns of printStats.
func (l *listing) printVerdicts(s *director.Snapshot) {
	l.printBold(fmt.Sprintf("%-*s %8s", realWidth+5, "Verdict", "Packets"))
	for _, v := range verdictsOf(s) {
		fmt.Fprintf(l.w, "%-*s%s\n", realWidth+5, v.name, ipvsadm.Column(v.packets, l.exact))
	}
}
