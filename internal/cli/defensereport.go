// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

func (a *app) reportDefenseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show who begins connections, and what was dropped",
		Long: "Show which prefixes of clients have sent most packets that would begin connections in the\n" +
			"last one to two minutes, and what became of them: they were let in, answered with a SYN\n" +
			"cookie, whose proof is a packet of its own then, or dropped. Numbers are estimated from\n" +
			"samples when many are sent. Nothing is counted unless the configuration has defenses.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	addNumeric(cmd.Flags())
	most := cmd.Flags().IntP("lines", "l", 20, "show so many prefixes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *most < 1 || *most > director.MostReported {
			return usagef("between 1 and %d prefixes can be shown, not %d", director.MostReported, *most)
		}
		client := a.client()
		defer client.Close()
		r, err := client.DefenseReport(cmd.Context())
		if err != nil {
			return err
		}
		r.Hitters = r.Hitters[:min(*most, len(r.Hitters))]
		if format.json() {
			return writeJSON(a.out, r)
		}
		return printReport(a.out, &r)
	}
	return cmd
}

func printReport(w io.Writer, r *director.DefenseReport) error {
	fmt.Fprintf(w, "Since %s: %d packets would begin a connection; %d were let in, %d answered with a SYN cookie\n\n",
		r.Since.Format(time.DateTime+" MST"), r.Total.All(), r.Total.Admitted, r.Total.Cookies)
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "Prefix\tPackets\tLet in\tCookies\tDropped")
	for i := range r.Hitters {
		h := &r.Hitters[i]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\n", h.Prefix, h.All(), h.Admitted, h.Cookies, drops(h.Dropped))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nDropped since the tables were made, whoever sent it:")
	printDropped(w, r.Dropped, r.Evicted)
	return nil
}

func drops(dropped map[string]uint64) string {
	if len(dropped) == 0 {
		return "-"
	}
	var all []string
	for _, name := range sortedKeys(dropped) {
		all = append(all, fmt.Sprintf("%s %d", name, dropped[name]))
	}
	return strings.Join(all, ", ")
}
