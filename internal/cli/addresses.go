// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
)

func (a *app) addressesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "addresses",
		Short: "Show who has the virtual addresses",
		Long: "Show the virtual addresses that the configuration lists under addresses, how far the\n" +
			"director is with each, and other hosts that have one, too.",
		Args: noArgs,
	}
	format := addFormat(cmd, "text", "json")
	addNumeric(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		list, err := client.Addresses(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			list.Addresses = append([]director.AddressState{}, list.Addresses...)
			return writeJSON(a.out, list)
		}
		a.printAddresses(a.out, list)
		return nil
	}
	return cmd
}

func (a *app) printAddresses(w io.Writer, list director.AddressList) {
	if len(list.Addresses) == 0 {
		fmt.Fprintln(w, "The configuration lists no addresses: somebody else sees to all of them.")
		return
	}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "Address\tMode\tInterface\tStatus\tAnnounced\tDetails")
	for _, s := range list.Addresses {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Addr, s.Mode, cmp.Or(s.Interface, "-"), s.Status,
			ago(list.Time, s.Announced), strings.Join(addressDetails(list.Time, &s), "; "))
	}
	_ = table.Flush() // into memory
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

// addressDetails is what is remarkable about an address.
func addressDetails(now time.Time, s *director.AddressState) (details []string) {
	add := func(format string, args ...any) { details = append(details, fmt.Sprintf(format, args...)) }
	if s.Reason != "" {
		add("%s", s.Reason)
	}
	if s.Foreign {
		add("was there already, and will not be removed")
	}
	if s.Rival != nil && s.Status == director.AddressHeld {
		who := s.Rival.MAC
		if s.Rival.Who != "" {
			who += ", " + s.Rival.Who
		}
		add("another host has it, too: %s (seen %s)", who, ago(now, s.Rival.Seen))
	}
	if s.Repaired > 0 {
		add("was taken away, and put back, %s (%s)", times(s.Repaired), ago(now, s.RepairedAt))
	}
	return details
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// ago is how long something is past, in the two largest units at most.
func ago(now, then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	d := now.Sub(then).Round(time.Second)
	switch {
	case d >= time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%dm ago", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds ago", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%ds ago", max(0, int(d.Seconds())))
	}
}
