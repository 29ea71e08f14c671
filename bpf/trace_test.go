// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/packet"
)

// wholeFrames is a trace that lets all through.
var wholeFrames = TraceFilter{Bytes: TraceBytes}

// trace begins traces, until the test ends.
func (r *rig) trace(t *testing.T, filters ...TraceFilter) *Traces {
	t.Helper()
	traces := need(r.plane.OpenTraces())(t)
	t.Cleanup(func() {
		r.traces = nil
		must(t, traces.Close())
	})
	for i := range filters {
		traces.Begin(i, &filters[i])
	}
	traces.Rate(0, TraceBytes)
	traces.Until(need(r.clock.Now())(t) + r.clock.Jiffies(time.Hour))
	traces.Switch(1)
	for traces.Read(new(Traced), time.Unix(1, 0)) == nil { // what a former test has left
	}
	return traces
}

// told are the packets that were told of.
func (t *Traces) told(test testing.TB) (list []Traced) {
	test.Helper()
	for {
		var p Traced
		err := t.Read(&p, time.Unix(1, 0))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return list
		}
		must(test, err)
		p.Before, p.After = bytes.Clone(p.Before), bytes.Clone(p.After)
		list = append(list, p)
	}
}

// checkTrace compares what is told of a packet with what has become of it.
func (r *rig) checkTrace(t testing.TB, in []byte, got result) {
	t.Helper()
	list := r.traces.told(t)
	if len(list) != 1 {
		t.Fatalf("%d packets were told of, not one", len(list))
	}
	p := &list[0]
	if p.Verdict != got.verdict || p.Action != got.action || p.Ingress != ingress || p.Length != len(in) || !bytes.Equal(p.Before, in) {
		t.Errorf("told of\n%+v\n  in %x\n got %v", p, in, got)
	}
	var left []byte
	if got.transmitted() {
		left = got.out
	}
	if p.Left != len(left) || !bytes.Equal(p.After, left) {
		t.Errorf("left as told %x, by the program %x", p.After, left)
	}
}

// TestTraceOfPrograms: a packet that is traced has the verdict, and leaves as, one that is not; and that is what is told.
func TestTraceOfPrograms(t *testing.T) {
	for _, f := range families {
		for _, test := range programTests() {
			if test.only != "" && test.only != f.name {
				continue
			}
			setup := test.setup
			t.Run(f.name+"/"+test.name, func(t *testing.T) {
				test.setup = func(r *rig) {
					if setup != nil {
						setup(r)
					}
					r.traces = r.trace(t, wholeFrames)
				}
				test.run(t, smallRig(t, f))
			})
		}
	}
}

// The ends that a trace shows are the connection's, whoever has sent the packet.
func TestTraceOfReplies(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			from := r.natReal("b", "web", 8080)
			r.plan("web", 0, "b")
			traces := r.trace(t, TraceFilter{}, TraceFilter{Bytes: 60, Real: netip.PrefixFrom(from, from.BitLen())},
				TraceFilter{Bytes: 30, Client: netip.PrefixFrom(f.vip, f.vip.BitLen())})
			client, virtual := netip.AddrPortFrom(f.client, 40000), netip.AddrPortFrom(f.vip, webPort)
			real := netip.AddrPortFrom(from, 8080)
			r.send(t, newSend(packet.TCP{SrcPort: 40000, DstPort: webPort, Flags: packet.SYN})(f))
			answer := newSend(packet.TCP{SrcPort: 8080, DstPort: 40000, Flags: packet.SYN | packet.ACK},
				func(m *message) { m.src, m.dst = from, f.client })(f)
			r.send(t, answer)
			list := traces.told(t)
			if len(list) != 2 {
				t.Fatalf("%d packets were told of, not 2", len(list))
			}
			for i, want := range []struct {
				verdict  string
				from, to netip.AddrPort
				reply    bool
			}{{"tx_new", client, virtual, false}, {"tx_reply", real, client, true}} {
				p := &list[i]
				if p.Verdict != want.verdict || p.Source != want.from || p.Destination != want.to || p.Reply != want.reply {
					t.Errorf("packet %d: %+v\nwant %+v", i, p, want)
				}
				if p.Client != client || p.Virtual != virtual || r.names[p.Real] != "b" {
					t.Errorf("packet %d is of %s -> %s by %s, want %s -> %s by b", i, p.Client, p.Virtual, r.names[p.Real], client, virtual)
				}
				if p.Traces != 0b11 || len(p.Before) != min(60, p.Length) || len(p.After) != min(60, p.Left) {
					t.Errorf("packet %d: traces %b have %d and %d bytes", i, p.Traces, len(p.Before), len(p.After))
				}
			}
		})
	}
}

// TestTraceFilters: which packets a trace has.
func TestTraceFilters(t *testing.T) {
	for _, f := range families {
		host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
		other, foreign := host(f.client.Next()), netip.MustParsePrefix(both(f, "::/0", "0.0.0.0/0"))
		for name, c := range map[string]struct {
			filter TraceFilter
			want   string // by its first letters: a SYN of web, its ACK, a datagram of dns, a SYN of nobody's
		}{
			"all":            {TraceFilter{}, "saun"},
			"client":         {TraceFilter{Client: host(f.client)}, "saun"},
			"another client": {TraceFilter{Client: other}, ""},
			"its network":    {TraceFilter{Client: netip.PrefixFrom(other.Addr(), other.Bits()-8)}, "saun"},
			"virtual":        {TraceFilter{Virtual: host(f.vip), Client: host(f.client)}, "saun"},
			"another one":    {TraceFilter{Virtual: host(f.vip.Next())}, ""},
			"other family":   {TraceFilter{Client: foreign}, ""},
			"real":           {TraceFilter{Real: host(natAddr(f, "a"))}, "sa"},
			"other real":     {TraceFilter{Real: host(natAddr(f, "d"))}, "u"},
			"ports":          {TraceFilter{VirtualPorts: PortRange{First: 53, Last: 80}}, "sau"},
			"port":           {TraceFilter{VirtualPorts: PortRange{First: 9, Last: 9}}, "n"},
			"client's ports": {TraceFilter{ClientPorts: PortRange{First: 1, Last: 39999}}, ""},
			"protocol":       {TraceFilter{Protocol: udpProto}, "u"},
			"verdict":        {TraceFilter{Verdicts: []string{"tx_forward", "pass_no_service"}}, "an"},
			"several":        {TraceFilter{Verdicts: []string{"tx_new"}, Protocol: tcpProto, Client: host(f.client)}, "s"},
		} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				r := smallRig(t, f)
				for _, name := range []string{"a", "d"} {
					r.real(name).Addr = natAddr(f, name).As16()
				}
				r.plan("web", 0, "a")
				traces := r.trace(t, c.filter)
				got := ""
				for _, p := range []struct {
					name string
					send send
				}{{"s", tcp(syn)}, {"a", tcp(ack)}, {"u", udp()}, {"n", tcp(syn, to(9))}} {
					r.send(t, p.send(f))
					got += strings.Repeat(p.name, len(traces.told(t)))
				}
				if got != c.want {
					t.Errorf("told of %q, want %q", got, c.want)
				}
			})
		}
	}
}

// TestTraceEnds: without anybody who renews it, a trace ends by itself; and it is over at once where it is ended.
func TestTraceEnds(t *testing.T) {
	r := smallRig(t, families[0])
	traces := r.trace(t, wholeFrames)
	frame := tcp(syn)(r.f)
	sent := func(want int) {
		t.Helper()
		r.send(t, bytes.Clone(frame))
		if n := len(traces.told(t)); n != want {
			t.Errorf("%d packets were told of, want %d", n, want)
		}
	}
	sent(1)
	traces.End(0)
	sent(0)
	traces.Begin(0, &wholeFrames)
	sent(1)
	traces.Until(need(r.clock.Now())(t) - 1)
	sent(0)
	if traces.Number() != 0 {
		t.Error("it is still switched on")
	}
	traces.Until(math.MaxInt32 + need(r.clock.Now())(t))
	sent(0)
	traces.Switch(2)
	sent(1)
	traces.Switch(0)
	sent(0)
}

// TestTraceLosses: what is not told is counted, for those who wanted it.
func TestTraceLosses(t *testing.T) {
	r := smallRig(t, families[0])
	traces := r.trace(t, wholeFrames, TraceFilter{Protocol: udpProto})
	frame := tcp(syn, dataOf(1400))(r.f)
	const packets = 3000 // of 2,800 bytes each
	for range packets {
		need(r.plane.Run(bytes.Clone(frame), ingress))(t)
	}
	r.counted = nil
	told := len(traces.told(t))
	if told == 0 || told >= packets || uint64(told)+traces.Lost(0) != packets || traces.Lost(1) != 0 {
		t.Errorf("told of %d of %d, lost %d and %d", told, packets, traces.Lost(0), traces.Lost(1))
	}
	traces.Begin(0, &wholeFrames)
	traces.Rate(5, TraceBytes)
	start := time.Now()
	for range 100 {
		need(r.plane.Run(tcp(ack)(r.f), ingress))(t)
	}
	told = len(traces.told(t))
	limit := 5 * r.CPUs * (2 + int(time.Since(start)/time.Second)) // seconds begin at any moment, and tests change CPUs
	if told < 5 || told > limit || uint64(told)+traces.Lost(0) != 100 {
		t.Errorf("told of %d of 100, lost %d, want 5 to %d", told, traces.Lost(0), limit)
	}
}
