// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/pcap"
)

// sizeFlag is a number of bytes, as 10M.
type sizeFlag int64

// sizeUnits are what a size may end with.
var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"", 1}}

// String implements pflag.Value.
func (s *sizeFlag) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type implements pflag.Value.
func (s *sizeFlag) Type() string { return "size" }

// Set implements pflag.Value.
func (s *sizeFlag) Set(text string) error {
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/unit.bytes {
			break
		}
		*s = sizeFlag(n * unit.bytes)
		return nil
	}
	return errors.New("want a number of bytes, as 500K, 10M or 1G")
}

// capture is a command's run.
type capture struct {
	*limits
	file  string
	bytes int
	size  sizeFlag
}

func (a *app) captureCommand() *cobra.Command {
	c := &capture{}
	cmd := &cobra.Command{
		Use:   "capture [FILTER] -w FILE",
		Short: "Write packets to a file, as they came and as they left",
		Long: "Write packets to a file in the format pcapng, as they came and as they left: each is there once\n" +
			"for the interface that it came in by and, if it was transmitted, once for the one that it left\n" +
			"by, with a comment that tells the verdict, the service, the real server and the connection.\n" +
			"Wireshark and tcpdump read it, and director replay does. It ends with SIGINT, or by --count,\n" +
			"--for or --size.\n\n" + packetFilterHelp,
		Example: "  director capture src 198.51.100.7 -w client.pcapng\n  director capture verdict drop -w - --for 1m | tcpdump -nr -",
		Args: func(*cobra.Command, []string) error {
			if c.file == "" {
				return errors.New("no file to write: -w FILE is missing")
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&c.file, "write", "w", "", "`FILE` to write, - for standard output")
	_ = cmd.MarkFlagFilename("write", "pcapng") // the error is for a flag that does not exist
	flags.IntVar(&c.bytes, "bytes", director.TracedBytes, "how much of each frame is kept")
	flags.Var(&c.size, "size", "end when the file has this size, as in 10M")
	c.limits = addLimits(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if c.bytes < 1 || c.bytes > director.TracedBytes {
			return usagef("--bytes %d is not between 1 and %d", c.bytes, director.TracedBytes)
		}
		if _, err := packetFilter(args); err != nil {
			return err // before there is a file
		}
		return a.toFile(c.file, func(w io.Writer) error { return a.capture(cmd.Context(), c, args, w) })
	}
	return cmd
}

// toFile lets write fill a file that only its owner may read, or standard output.
func (a *app) toFile(name string, write func(io.Writer) error) error {
	if name == "-" {
		return write(a.out)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func (a *app) capture(ctx context.Context, c *capture, args []string, to io.Writer) error {
	w, err := pcap.NewWriter(to, "director "+a.build().Version, c.bytes)
	if err != nil {
		return err
	}
	var n uint64
	err = a.watchPackets(ctx, args, c.bytes, c.limits, func(p *director.Traced) error {
		n++
		if err := writeTraced(w, p, n); err != nil {
			return err
		}
		if c.size != 0 && w.Written() >= int64(c.size) {
			return errEnough
		}
		return nil
	})
	fmt.Fprintf(a.Stderr, "director: %d packets were captured\n", n)
	return err
}

// writeTraced writes a packet as it came and, if it left, as it left.
func writeTraced(w *pcap.Writer, p *director.Traced, id uint64) error {
	out := pcap.Packet{Time: p.Time, Interface: p.Ingress, Direction: pcap.Inbound, Data: p.Before, Length: p.Length, ID: id, Comment: packetComment(p)}
	if err := w.Write(&out); err != nil {
		return err
	}
	if p.Left == 0 {
		return nil
	}
	out.Interface, out.Direction, out.Data, out.Length = p.Egress, pcap.Outbound, p.After, p.Left
	return w.Write(&out)
}

// packetComment tells what became of a packet.
func packetComment(p *director.Traced) string {
	text := p.Verdict + ": " + p.Action + before(", service ", p.Service)
	if p.Real.IsValid() {
		text += ", real server " + strings.TrimSpace(p.RealName+" "+p.Real.String())
		text += ", connection " + p.Client.String() + " -> " + p.Virtual.String()
	}
	if p.Mark != 0 {
		text += fmt.Sprintf(", mark %d", p.Mark)
	}
	return text
}
