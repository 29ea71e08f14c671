// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/api"
)

func (a *app) healthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health [SERVICE…]",
		Short: "Show what the health checks say",
		Long: "Show what the health checks of real servers say: the condition, the share of the weight\n" +
			"that is used, since when, and each check's newest result in the manner of HAProxy's\n" +
			"LastChk, as L7STS/503. A SERVICE is a service's name, ADDRESS:PORT or \"fwmark N\".",
	}
	format := addFormat(cmd, "text", "json")
	repeat := addRepeat(cmd.Flags())
	addNumeric(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := a.client()
		defer client.Close()
		return a.print(cmd.Context(), repeat, func(w io.Writer) error {
			list, err := client.Health(cmd.Context())
			if err == nil {
				list.Services, err = selectHealth(list.Services, args)
			}
			if err != nil {
				return err
			}
			if format.json() {
				return writeJSON(w, list)
			}
			a.printHealth(w, list)
			return nil
		})
	}
	cmd.AddCommand(a.healthHistoryCommand(), a.orderCommand("up", "Use a real server whatever its checks say"),
		a.orderCommand("drain", "Give a real server no new connections whatever its checks say"),
		a.orderCommand("down", "Take a real server out whatever its checks say"),
		a.orderCommand("auto", "Let a real server be what its checks say again"))
	return cmd
}

// selectHealth keeps the services that are named; without a name, all.
func selectHealth(all []director.ServiceHealth, names []string) ([]director.ServiceHealth, error) {
	chosen := all[:0:0]
	for _, name := range names {
		i := slices.IndexFunc(all, func(s director.ServiceHealth) bool {
			_, where, _ := strings.Cut(s.Key.String(), " ")
			return name == s.Name || name == s.Key.String() || name == where
		})
		if i < 0 {
			return nil, fmt.Errorf("no service %q is checked", name)
		}
		chosen = append(chosen, all[i])
	}
	if len(names) == 0 {
		return append(chosen, all...), nil
	}
	return chosen, nil
}

// printHealth has the shape of a listing: a line for each service, and its real servers below.
func (a *app) printHealth(w io.Writer, list director.HealthList) {
	if len(list.Services) == 0 {
		fmt.Fprintln(w, "No real server is checked.")
		return
	}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "Service\tHealth\tSince\tCheck\tLastChk")
	for i := range list.Services {
		s := &list.Services[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t\t\n", cmp.Or(s.Name, s.Key.String()), quorumText(&s.Quorum), ago(list.Time, s.Quorum.Since))
		for j := range s.Reals {
			printRealHealth(table, list.Time, &s.Reals[j])
		}
	}
	_ = table.Flush() // into memory
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

func quorumText(q *director.QuorumState) string {
	state := "quorum"
	switch {
	case !q.Decided:
		state = "quorum unknown"
	case q.Lost:
		state = "QUORUM LOST"
	}
	return fmt.Sprintf("%s %g/%d", state, q.Up, q.Weight)
}

// printRealHealth has one line for each check.
func printRealHealth(w io.Writer, now time.Time, r *director.RealHealth) {
	name := "  -> " + cmp.Or(r.Name, addrPort(r.Key.Addr, r.Key.Port))
	if r.Sorry {
		name += " (sorry)"
	}
	if !r.Checked {
		fmt.Fprintf(w, "%s\tnot checked\t\t\t\n", name)
		return
	}
	first := fmt.Sprintf("%s\t%s\t%s", name, conditionText(&r.Health), ago(now, r.Health.Since))
	for i := range r.Checks {
		c := &r.Checks[i]
		fmt.Fprintf(w, "%s\t%s\t%s\n", first, strings.TrimSpace(c.Name+" "+c.Way), checkText(c))
		first = "\t\t"
	}
}

// conditionText is as up, up 50% or down (forced).
func conditionText(h *director.Health) string {
	text := h.Condition.String()
	if h.Condition == director.Up && h.Factor != 100 {
		text += fmt.Sprintf(" %d%%", h.Factor)
	}
	if h.Forced {
		text += " (forced)"
	}
	return text
}

// checkText is the newest result, with what it lets expect.
func checkText(c *director.CheckHealth) string {
	text := cmp.Or(c.Last, "no result yet")
	switch {
	case c.Silent > 0:
		text += fmt.Sprintf(" [%d probes could not be sent]", c.Silent)
	case c.Pending < 0:
		text += fmt.Sprintf(" [%s, failed %s]", c.Condition, times(uint64(-c.Pending)))
	case c.Pending > 0:
		text += fmt.Sprintf(" [%s, passed %s]", c.Condition, times(uint64(c.Pending)))
	}
	return text
}

func (a *app) healthHistoryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history REAL [SERVICE]",
		Short: "Show when and why the condition of a real server changed",
		Long: "Show the last changes of a real server's condition with their evidence, and the last\n" +
			"results of its checks. REAL is its name, ADDRESS or ADDRESS:PORT.",
		Args: cobra.RangeArgs(1, 2),
	}
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := a.client()
		defer client.Close()
		history, err := client.HealthHistory(cmd.Context(), args[0], second(args))
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, history)
		}
		for i := range history {
			printHistory(a.out, &history[i])
		}
		return nil
	}
	return cmd
}

// second is the second argument, or nothing.
func second(args []string) string {
	if len(args) < 2 {
		return ""
	}
	return args[1]
}

// stamp is a time for people who look for it in logs.
const stamp = "2006-01-02 15:04:05.000"

func printHistory(w io.Writer, h *director.HealthHistory) {
	fmt.Fprintf(w, "%s in %s\n", cmp.Or(h.Name, h.Real.String()), h.Service)
	for _, t := range h.Transitions {
		fmt.Fprintf(w, "  %s  %s -> %s  %s\n", t.Time.UTC().Format(stamp), t.From, t.To, t.Evidence)
	}
	if len(h.Transitions) == 0 {
		fmt.Fprintln(w, "  no change so far")
	}
	for _, r := range h.Results {
		fmt.Fprintf(w, "    %s  %s  %s\n", r.Time.UTC().Format(stamp), r.Check, r.Result)
	}
}

func (a *app) orderCommand(condition, short string) *cobra.Command {
	return &cobra.Command{
		Use:   condition + " REAL [SERVICE]",
		Short: short,
		Long: short + ", in one service or in all that have it, until it is ordered\n" +
			"otherwise: director health auto. REAL is its name, ADDRESS or ADDRESS:PORT.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			return a.order(cmd, client, director.HealthOrder{Real: args[0], Service: second(args), Condition: condition})
		},
	}
}

func (a *app) order(cmd *cobra.Command, client *api.Client, order director.HealthOrder) error {
	n, err := client.OrderHealth(cmd.Context(), order)
	if err != nil {
		return err
	}
	services := "1 service"
	if n != 1 {
		services = fmt.Sprintf("%d services", n)
	}
	fmt.Fprintf(a.out, "%s is %s in %s\n", order.Real, order.Condition, services)
	return nil
}

// healthMarker is that of a real server that gets nothing for its health.
func (l *listing) healthMarker(r *director.RealState) string {
	h := r.Health
	if h == nil || h.Condition == director.Up && h.Factor > 0 {
		return ""
	}
	text := conditionText(h)
	if h.Evidence != "" {
		text += ": " + h.Evidence
	}
	return "  " + l.style.red(text)
}
