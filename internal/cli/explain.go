// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

func (a *app) explainCommand() *cobra.Command {
	var q director.Question
	var mark uint32
	var in string
	segment := newChoice("syn", "ack", "fin", "rst")
	cmd := &cobra.Command{
		Use:   "explain tcp|udp|sctp CLIENT:PORT VIRTUAL:PORT",
		Short: "Tell what would become of a client's packet, and why",
		Long: "Tell what would become of a client's packet, and why: which service it belongs to, what\n" +
			"persistence and the connection table know of it, which real servers it could go to and which\n" +
			"not, and its bytes before and after. The daemon gives it to the program that packets meet,\n" +
			"with a copy of the tables: nothing that is in force changes. That takes some seconds, and\n" +
			"as much memory as the tables have.",
		Example: "  director explain tcp 198.51.100.7:40000 192.0.2.10:80\n" +
			"  director explain tcp 198.51.100.7:40000 192.0.2.10:80 --segment ack --interface eth1\n" +
			"  director explain udp [2001:db8::7]:4000 [2001:db8:1::10]:53 --mark 7",
		Args: func(_ *cobra.Command, args []string) (err error) {
			q, err = parseQuestion(args)
			return err
		},
	}
	addChoice(cmd, &segment, "segment", "", "kind of TCP segment")
	cmd.Flags().Uint32Var(&mark, "mark", 0, "as if the packet had this firewall mark")
	cmd.Flags().StringVar(&in, "interface", "", "`NAME` of the interface that it comes in by, the first one if absent")
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q.Mark, q.Interface = mark, in
		if q.Protocol == director.TCP {
			q.Segment = segment.value
		} else if cmd.Flags().Changed("segment") {
			return usagef("only tcp has segments, not %s", q.Protocol)
		}
		client := a.client()
		defer client.Close()
		e, err := client.Explain(cmd.Context(), q)
		if err != nil {
			return err
		}
		if format.json() {
			return writeJSON(a.out, e)
		}
		printExplanation(a.out, e)
		return nil
	}
	return cmd
}

func parseQuestion(args []string) (q director.Question, err error) {
	if len(args) != 3 {
		return q, fmt.Errorf("want protocol, client and virtual address, not %d arguments", len(args))
	}
	if err := q.Protocol.UnmarshalText([]byte(args[0])); err != nil {
		return q, err
	}
	for i, end := range []*netip.AddrPort{&q.Client, &q.Virtual} {
		if *end, err = netip.ParseAddrPort(args[1+i]); err != nil {
			return q, fmt.Errorf("%q is no address with a port, as 192.0.2.10:80 or [2001:db8::10]:80", args[1+i])
		}
	}
	return q, q.Validate()
}

// printExplanation prints the packet's way, from top to bottom.
func printExplanation(w io.Writer, e *director.Explanation) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", what, fmt.Sprintf(format, args...))
	}
	q := &e.Question
	line("packet", "%s %s -> %s%s, in by %s", q.Protocol, q.Client, q.Virtual, before(", ", q.Segment), e.Interface)
	if q.Mark != 0 {
		line("mark", "%d, as asked", q.Mark)
	}
	if e.Service == nil {
		line("service", "none")
	} else {
		line("service", "%s%s", before("", e.Name, ", "), e.Service)
		if e.Persistence.Timeout != 0 {
			line("persistence", "%s; %s", e.Persistence.Timeout, entry(e.TemplateBefore, "the client is not known"))
		}
		line("connection", "%s", entry(e.ConnBefore, "not known"))
		line("scheduler", "%s", choiceTaken(e))
		printCandidates(w, e.Reals)
	}
	line("verdict", "%s: %s%s", e.Verdict, e.Action, before(", out by ", e.Egress))
	line("afterwards", "%s", entry(e.ConnAfter, "no connection"))
	if e.TemplateAfter != nil {
		line("", "persistence: %s", entry(e.TemplateAfter, ""))
	}
	fmt.Fprintf(w, "before, %d bytes\n%s", len(e.FrameBefore), hex.Dump(e.FrameBefore))
	if e.Action != "drop" {
		fmt.Fprintf(w, "after, %d bytes\n%s", len(e.FrameAfter), hex.Dump(e.FrameAfter))
	}
}

// before puts text around words that are not empty.
func before(prefix, text string, suffix ...string) string {
	if text == "" {
		return ""
	}
	return prefix + text + strings.Join(suffix, "")
}

// choiceTaken tells whether the plan was asked.
func choiceTaken(e *director.Explanation) string {
	if e.ChoicesAfter == e.ChoicesBefore {
		return e.Scheduler + ", no choice of its plan was taken"
	}
	return fmt.Sprintf("%s, choice %d of its plan was taken", e.Scheduler, e.ChoicesAfter)
}

// entry is a connection or a template in a few words.
func entry(c *director.Conn, none string) string {
	if c == nil {
		return none
	}
	return fmt.Sprintf("%s to %s%s, for %s", c.State, c.Real, from(c), c.Expires.Round(time.Second))
}

// from is where the real server sees the connection come from, if that is not the client.
func from(c *director.Conn) string {
	if !c.Local.IsValid() {
		return ""
	}
	return " from " + c.Local.String()
}

func printCandidates(w io.Writer, list []director.Candidate) {
	fmt.Fprintf(w, "real servers\n")
	for i := range list {
		r := &list[i]
		arrow := "  "
		if r.Chosen {
			arrow = "->"
		}
		fmt.Fprintf(w, "  %s %-24s %-8s weight %d of %d, active %d, inactive %d%s\n", arrow, cmp.Or(r.Name, r.Key.String()), r.Method,
			r.EffectiveWeight, r.Weight, r.Active, r.Inactive, before("; excluded: ", r.Excluded))
	}
}
