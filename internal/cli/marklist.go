// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

func (a *app) listMarksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the rules that mark packets",
		Long: "Show the rules that mark packets, in their order, and how many packets of no known\n" +
			"connection each has marked since the rules are in force. The first rule that\n" +
			"matches a packet counts. What the firewall marks is shown below.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		list, err := client.Marks(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, list)
		}
		printMarks(a.out, list)
		return nil
	}
	return cmd
}

func printMarks(w io.Writer, list director.MarkList) {
	if len(list.Rules) == 0 {
		fmt.Fprintln(w, "The configuration has no rules that mark packets.")
	} else {
		table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(table, "No\tMark\tPackets\tService\tRule")
		for i, r := range list.Rules {
			fmt.Fprintf(table, "%d\t%d\t%d\t%s\t%s\n", i+1, r.Mark, r.Packets, cmp.Or(strings.Join(r.Services, ", "), "-"), r.Rule)
		}
		_ = table.Flush() // the output remembers its error
	}
	if list.Door != nil {
		printDoor(w, list.Time, list.Door)
	}
}

func printDoor(w io.Writer, now time.Time, d *director.DoorState) {
	fmt.Fprintf(w, "The firewall's packets are routed into %s: marks %s (IPv4), %s (IPv6).\n", d.Interface, numbers(d.Marks4), numbers(d.Marks6))
	if d.Repaired > 0 {
		fmt.Fprintf(w, "Others took something of that away, and it was put back, %s (%s).\n", times(uint64(d.Repaired)), ago(now, d.RepairedAt))
	}
	if d.Problem != "" {
		fmt.Fprintf(w, "They do not come: %s\n", d.Problem)
	}
}

func numbers(list []uint32) string {
	return cmp.Or(strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]"), "none")
}

func (a *app) explainMarkCommand() *cobra.Command {
	var q director.MarkQuestion
	cmd := &cobra.Command{
		Use:   "explain PROTOCOL SOURCE:PORT DESTINATION:PORT",
		Short: "Tell which rule marks a packet, and which service takes it",
		Long: "Tell which rule marks a packet that begins a connection, and which service takes\n" +
			"it. The daemon asks the program that packets run through. What the firewall would\n" +
			"do with it nobody can tell from here: say what it marks with --mark.",
	}
	cmd.Flags().StringVar(&q.Interface, "interface", "", "the interface that it comes in by")
	cmd.Flags().Uint8Var(&q.DSCP, "dscp", 0, "its differentiated services code point")
	cmd.Flags().Uint32Var(&q.Mark, "mark", 0, "the mark that the firewall gives it")
	format := addFormat(cmd, "text", "json")
	cmd.Args = func(_ *cobra.Command, args []string) error { return markArgs(&q, args) }
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		answer, err := client.ExplainMark(cmd.Context(), q)
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, answer)
		}
		printMark(a.out, &q, answer)
		return nil
	}
	return cmd
}

// markArgs reads what a packet is made of.
func markArgs(q *director.MarkQuestion, args []string) (err error) {
	if len(args) != 3 {
		return fmt.Errorf("want a protocol, a source and a destination, not %s", plural(len(args), "argument"))
	}
	if err := q.Protocol.UnmarshalText([]byte(args[0])); err != nil {
		return err
	}
	for i, end := range []*netip.AddrPort{&q.Source, &q.Dest} {
		if *end, err = netip.ParseAddrPort(args[i+1]); err != nil {
			return fmt.Errorf("%q is no address with a port, such as 192.0.2.1:80 or [2001:db8::1]:80", args[i+1])
		}
	}
	return nil
}

func printMark(w io.Writer, q *director.MarkQuestion, a director.MarkAnswer) {
	switch {
	case a.Rule > 0:
		fmt.Fprintf(w, "Rule %d gives it mark %d: %s\n", a.Rule, a.Mark, a.Text)
	case q.Mark > 0:
		fmt.Fprintf(w, "The firewall gives it mark %d.\n", a.Mark)
	default:
		fmt.Fprintln(w, "No rule marks it.")
	}
	if a.Service == "" {
		fmt.Fprintln(w, "No service takes it.")
	} else {
		fmt.Fprintf(w, "Service %s takes it.\n", a.Service)
	}
}
