// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplvs/director"
	"xdplvs/internal/api/connfilter"
)

const packetFilterHelp = `A FILTER is written in ss's words; all its terms must hold:

  src PREFIX, dst PREFIX, real PREFIX       the client's, virtual, real server's address
  sport = :PORT, dport = …, rport = …       their ports; also != < <= > >=
  protocol tcp,icmp                         any of these protocols, by name or number
  service web                               any of these services
  verdict tx_new,drop                       any of these verdicts; pass, tx, drop: all of the kind
  interface eth0                            any of these interfaces that packets come in by

as in: src 10.0.0.0/8 and dport = :443 verdict drop

What a real server sends by nat or fullnat is a packet of its connection: src is the client there, too.`

// limits are where a command that watches packets ends by itself.
type limits struct {
	count uint64
	time  time.Duration
}

func addLimits(flags *pflag.FlagSet) *limits {
	l := &limits{}
	flags.Uint64VarP(&l.count, "count", "c", 0, "end after so many packets; 0: go on")
	flags.DurationVar(&l.time, "for", 0, "end after this time, as in 10s; 0: go on")
	return l
}

// within is ctx with the limit of time.
func (l *limits) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.time <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, l.time)
}

// errEnough ends a stream of packets that is not wanted any longer.
var errEnough = errors.New("enough")

func (a *app) traceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace [FILTER]",
		Short: "Show what becomes of packets as they go by",
		Long: "Show what becomes of packets as they go by, one a line: when, where and what came in, the\n" +
			"verdict, the real server and the way out. Several may trace at a time. What is too much to be\n" +
			"shown is counted, and said at the end. It ends with SIGINT, or by --count or --for.\n\n" + packetFilterHelp,
		Example: "  director trace src 198.51.100.7\n  director trace service web verdict drop --for 10s\n  director trace dport = :443 -c 20 -o json",
		Args:    cobra.ArbitraryArgs,
	}
	limits := addLimits(cmd.Flags())
	format := addFormat(cmd, "text", "json")
	addNumeric(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var line []byte
		return a.watchPackets(cmd.Context(), args, 0, limits, func(p *director.Traced) error {
			if format.json() {
				return json.NewEncoder(a.out).Encode(p)
			}
			line = append(appendPacket(line[:0], p), '\n')
			_, err := a.out.Write(line)
			return err
		})
	}
	return cmd
}

// packetFilter joins the arguments and checks them before anybody is asked.
func packetFilter(args []string) (string, error) {
	text := strings.Join(args, " ")
	if _, err := connfilter.ParsePackets(text); err != nil {
		return "", &usageError{err}
	}
	return text, nil
}

// watchPackets calls show for packets until it fails, a limit is reached, or ctx ends, which all but the first are no
// errors; then it says how many are missing.
func (a *app) watchPackets(ctx context.Context, args []string, bytes int, l *limits, show func(*director.Traced) error) error {
	filter, err := packetFilter(args)
	if err != nil {
		return err
	}
	client := a.client()
	defer client.Close()
	ctx, cancel := l.within(ctx)
	defer cancel()
	var seen, lost uint64
	err = client.Trace(ctx, filter, bytes, func(line *director.TraceLine) error {
		lost = max(lost, line.Lost)
		if line.Packet == nil {
			if lost == 0 {
				fmt.Fprintln(a.Stderr, "director: packets are seen from now on")
			}
			return nil
		}
		if err := show(line.Packet); err != nil {
			return err
		}
		if seen++; seen == l.count {
			return errEnough
		}
		return nil
	})
	if lost > 0 {
		fmt.Fprintf(a.Stderr, "director: %d packets are missing: there were more than could be told of\n", lost)
	}
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		return nil
	}
	return cmp.Or(err, errors.New("the daemon has ended the trace"))
}

// packetTime is how times of packets are written, of the local day.
const packetTime = "15:04:05.000000"

// appendPacket appends what came and what became of it.
func appendPacket(dst []byte, p *director.Traced) []byte {
	dst = p.Time.Local().AppendFormat(dst, packetTime)
	dst = fmt.Appendf(dst, " %s %s", p.Ingress, p.Protocol)
	if p.Source.IsValid() {
		dst = appendEnd(append(dst, ' '), p.Source)
		dst = appendEnd(append(dst, " > "...), p.Destination)
	}
	if p.Flags != "" {
		dst = append(append(dst, ' '), p.Flags...)
	}
	dst = fmt.Appendf(dst, ", %d bytes: %s", p.Length, p.Verdict)
	return append(dst, packetFate(p)...)
}

// packetFate is what is known of a packet besides its verdict.
func packetFate(p *director.Traced) string {
	text := before(", service ", p.Service)
	if p.Real.IsValid() {
		text += ", real server " + strings.TrimSpace(p.RealName+" "+p.Real.String())
	}
	if p.Client != p.Source && p.Client.IsValid() {
		text += ", client " + p.Client.String()
	}
	if p.Mark != 0 {
		text += fmt.Sprintf(", mark %d", p.Mark)
	}
	return text + before(", out by ", p.Egress)
}

// appendEnd leaves a port out that there is none of.
func appendEnd(dst []byte, a netip.AddrPort) []byte {
	if a.Port() == 0 {
		return a.Addr().AppendTo(dst)
	}
	return a.AppendTo(dst)
}
