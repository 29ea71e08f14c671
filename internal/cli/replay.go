// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/pcap"
)

// replaying is a command's run.
type replaying struct {
	in      string // interface
	write   string
	json    bool
	out     *pcap.Writer // nil: nothing is written
	counts  map[string]uint64
	packets uint64
	skipped uint64
}

func (a *app) replayCommand() *cobra.Command {
	r := &replaying{counts: map[string]uint64{}}
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Tell what would become of the packets of a capture",
		Long: "Tell what would become of the packets of a capture, in the format pcap or pcapng, if they came\n" +
			"in now. The daemon gives them, one after the other, to the program that packets meet, with a\n" +
			"copy of the tables: nothing that is in force changes. Time goes by in it as in the capture, so\n" +
			"that connections end as they would. What a capture says was sent is left out, as is what was\n" +
			"cut off.",
		Example: "  director replay client.pcapng\n  director replay - -w left.pcapng < tcpdump.pcap",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&r.in, "interface", "", "`NAME` of the interface for packets of others than the director's, the first one if absent")
	cmd.Flags().StringVarP(&r.write, "write", "w", "", "`FILE` to write what left to, - for standard output")
	_ = cmd.MarkFlagFilename("write", "pcapng") // the error is for a flag that does not exist
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if r.json = format.json(); r.write == "" {
			return a.replayFile(cmd.Context(), r, args[0])
		}
		return a.toFile(r.write, func(w io.Writer) (err error) {
			if r.out, err = pcap.NewWriter(w, "director "+a.build().Version, maxFrame); err != nil {
				return err
			}
			return a.replayFile(cmd.Context(), r, args[0])
		})
	}
	return cmd
}

// maxFrame is longer than any frame that can be replayed.
const maxFrame = 64 << 10

func (a *app) replayFile(ctx context.Context, r *replaying, name string) error {
	capture := a.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		capture = f
	}
	client := a.client()
	defer client.Close()
	err := client.Replay(ctx, capture, r.in, func(line *director.TraceLine) error { return a.replayed(r, line) })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !r.json && r.write != "-" {
		fmt.Fprintf(a.out, "%d packets%s, %d skipped\n", r.packets, r.summary(), r.skipped)
	}
	return nil
}

// replayed shows a packet, and writes it as it left.
func (a *app) replayed(r *replaying, line *director.TraceLine) error {
	if s := line.Skipped; s != nil {
		r.skipped++
		fmt.Fprintf(a.Stderr, "director: packet %d is skipped: %s\n", s.Number, s.Why)
		return nil
	}
	p := line.Packet
	r.packets++
	r.counts[p.Verdict]++
	if r.out != nil && p.Left > 0 {
		err := r.out.Write(&pcap.Packet{Time: p.Time, Interface: p.Egress, Direction: pcap.Outbound, Data: p.After, Length: p.Left,
			ID: p.Number, Comment: packetComment(p)})
		if err != nil {
			return err
		}
	}
	switch {
	case r.write == "-":
		return nil
	case r.json:
		return json.NewEncoder(a.out).Encode(p)
	}
	_, err := fmt.Fprintf(a.out, "%6d %s\n", p.Number, appendPacket(nil, p))
	return err
}

// summary counts the verdicts, the most frequent first.
func (r *replaying) summary() string {
	names := slices.SortedFunc(maps.Keys(r.counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.counts[b], r.counts[a]), strings.Compare(a, b))
	})
	text := ""
	for _, name := range names {
		text += fmt.Sprintf(", %d %s", r.counts[name], name)
	}
	return text
}
