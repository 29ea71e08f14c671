// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// TraceFilter says which packets a trace wants, as far as the program looks. Zero values let all through.
type TraceFilter struct {
	Verdicts        []string     // any of these; empty: all
	Client, Virtual netip.Prefix // of one family
	Real            netip.Prefix
	// Ports of both. Last 0: all.
	ClientPorts, VirtualPorts PortRange
	Protocol                  uint8
	Bytes                     int // of each frame, TraceBytes at most
}

// Traced is a packet that a trace wanted.
type Traced struct {
	Traces      uint8         // that wanted it: bit n is trace n
	Age         time.Duration // since the packet
	Source      netip.AddrPort
	Destination netip.AddrPort // as it came; not valid if it is no IP
	// Client and Virtual are Source and Destination, but of what a real server sent: of its connection.
	Client, Virtual netip.AddrPort
	Reply           bool
	Real            uint32 // id; NoReal
	Protocol        uint8
	TCP             uint8 // flags
	Later           bool  // a fragment without transport header
	Mark            uint32
	Verdict         string
	Action          uint32 // of XDP
	Ingress, Egress int    // interfaces
	Length, Left    int    // bytes of the frame, as it came, and as it left; 0: it did not
	Before, After   []byte // of those, as many as were wanted; void when the next one is read
}

// Traces are what single packets are told by. The methods may be called from several goroutines at once, but Read.
type Traces struct {
	tables *Tables
	reader *ringbuf.Reader
	record ringbuf.Record
}

// OpenTraces ends all traces of a former process, and begins to read.
func (d *DataPlane) OpenTraces() (*Traces, error) {
	t := &Traces{tables: d.Tables}
	atomic.StoreUint32(&t.tables.Settings.Trace, 0)
	for i := range t.tables.Traces {
		t.End(i)
	}
	var err error
	if t.reader, err = ringbuf.NewReader(d.objects.Maps[directorMapTraceRing]); err != nil {
		return nil, fmt.Errorf("open trace ring: %w", err)
	}
	return t, nil
}

// Close ends Read with os.ErrClosed, too.
func (t *Traces) Close() error {
	atomic.StoreUint32(&t.tables.Settings.Trace, 0)
	return t.reader.Close()
}

// Begin lets trace n have the packets that it wants. Packets are told of while Switch is on.
func (t *Traces) Begin(n int, f *TraceFilter) {
	row := &t.tables.Traces[n]
	*row = f.row()
	atomic.StoreUint32(&row.Active, 1)
}

// End is the end of trace n.
func (t *Traces) End(n int) { atomic.StoreUint32(&t.tables.Traces[n].Active, 0) }

// Lost is how many packets trace n wanted and was not told of.
func (t *Traces) Lost(n int) uint64 { return atomic.LoadUint64(&t.tables.Traces[n].Lost) }

// Rate is how many packets each CPU tells of in a second at most, 0: all; bytes, how much of their frames
// any trace wants.
func (t *Traces) Rate(rate, bytes int) {
	atomic.StoreUint32(&t.tables.Settings.TraceRate, uint32(rate))
	atomic.StoreUint32(&t.tables.Settings.TraceBytes, uint32(bytes))
}

// Until is when packets stop to be told of, unless it is called again; in jiffies.
func (t *Traces) Until(jiffies uint32) {
	atomic.StoreUint32(&t.tables.Settings.TraceUntil, jiffies)
}

// Switch turns tracing on, by a number that no former one had, or with 0 off.
func (t *Traces) Switch(number uint32) { atomic.StoreUint32(&t.tables.Settings.Trace, number) }

// Number is that of Switch; 0: tracing is off, as it is when it was not renewed in time.
func (t *Traces) Number() uint32 { return atomic.LoadUint32(&t.tables.Settings.Trace) }

// row is the filter as the program has it.
func (f *TraceFilter) row() TraceRow {
	row := TraceRow{Protocol: f.Protocol, Bytes: uint16(min(f.Bytes, TraceBytes)), Last: [2]uint16{math.MaxUint16, math.MaxUint16}}
	for i, name := range verdictNames() {
		if len(f.Verdicts) == 0 || slices.Contains(f.Verdicts, name) {
			row.Verdicts |= 1 << i
		}
	}
	for i, p := range []netip.Prefix{f.Client, f.Virtual} {
		if p.IsValid() {
			row.Family = map[bool]uint8{true: 4, false: 6}[p.Addr().Is4()]
			flowWords(&row.Flow, &row.FlowMask, p, i)
		}
	}
	if f.Real.IsValid() {
		row.Real, row.RealMask = mappedWords(f.Real)
	}
	for i, ports := range []PortRange{f.ClientPorts, f.VirtualPorts} {
		if ports.Last != 0 {
			row.First[i], row.Last[i] = ports.First, ports.Last
		}
	}
	return row
}

// flowWords puts a prefix where struct packet has its source, or with at 1 its destination.
func flowWords(words, mask *[4]uint64, p netip.Prefix, at int) {
	size := p.Addr().BitLen() / 8
	var addr, bits [32]byte
	copy(addr[at*size:], p.Masked().Addr().AsSlice())
	copy(bits[at*size:], maskBytes(p.Bits(), size))
	for i := range words {
		words[i] |= binary.NativeEndian.Uint64(addr[8*i:])
		mask[i] |= binary.NativeEndian.Uint64(bits[8*i:])
	}
}

// mappedWords are those of an address as a real server's row has it.
func mappedWords(p netip.Prefix) (words, mask [2]uint64) {
	addr := p.Masked().Addr().As16()
	bits := maskBytes(p.Bits()+128-p.Addr().BitLen(), len(addr))
	for i := range words {
		words[i], mask[i] = binary.NativeEndian.Uint64(addr[8*i:]), binary.NativeEndian.Uint64(bits[8*i:])
	}
	return words, mask
}

// maskBytes are those of a prefix length.
func maskBytes(length, size int) []byte {
	mask := make([]byte, size)
	for i := range mask {
		n := max(0, min(8, length-8*i))
		mask[i] = ^byte(0xff >> n)
	}
	return mask
}

// Read waits for the next packet, up to a deadline, which is os.ErrDeadlineExceeded; the zero time is none.
func (t *Traces) Read(p *Traced, deadline time.Time) error {
	t.reader.SetDeadline(deadline)
	err := t.reader.ReadInto(&t.record)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		return err
	}
	if err != nil {
		return fmt.Errorf("read trace ring: %w", err)
	}
	return p.decode(t.record.RawSample)
}

func (p *Traced) decode(raw []byte) error {
	var h directorTraceHead
	n, err := binary.Decode(raw, binary.NativeEndian, &h)
	if err != nil || len(raw) < n+int(h.Before)+int(h.After) || int(h.Verdict) >= len(verdictNames()) {
		return errors.New("a record of the trace ring is not whole")
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read monotonic clock: %w", err)
	}
	*p = Traced{
		Traces: h.Traces, Age: time.Duration(now.Nano() - int64(h.TimeNs)),
		Reply: h.Reply != 0, Real: h.Real, Protocol: h.Protocol, TCP: h.Tcp, Later: h.Fragment == fragmentLater,
		Mark: bits.ReverseBytes32(h.Mark), Verdict: verdictNames()[h.Verdict], Action: uint32(h.Action),
		Ingress: int(h.Ingress), Egress: int(h.Egress), Length: int(h.Length), Left: int(h.Left),
		Before: raw[n:][:h.Before], After: raw[n+int(h.Before):][:h.After],
	}
	p.Source, p.Destination = ends(&h.Addr, h.Ports)
	p.Client, p.Virtual = ends(&h.Flow, h.FlowPorts)
	if p.Egress == 0 && p.Left != 0 {
		p.Egress = p.Ingress
	}
	return nil
}

// fragmentLater is FRAGMENT_LATER of packet.h.
const fragmentLater = 2

// ends are the addresses and ports of a packet as struct packet has them.
func ends(words *[4]uint64, ports uint32) (src, dst netip.AddrPort) {
	var b [32]byte
	for i, w := range words {
		binary.NativeEndian.PutUint64(b[8*i:], w)
	}
	from, to := netip.AddrFrom16([16]byte(b[:16])), netip.AddrFrom16([16]byte(b[16:]))
	switch {
	case *words == [4]uint64{}:
		return src, dst
	case words[1]|words[2]|words[3] == 0:
		from, to = netip.AddrFrom4([4]byte(b[:4])), netip.AddrFrom4([4]byte(b[4:]))
	}
	return netip.AddrPortFrom(from, bits.ReverseBytes16(uint16(ports))), netip.AddrPortFrom(to, bits.ReverseBytes16(uint16(ports>>16)))
}

// Owned are the parts of the settings that only their owner writes, as they are in memory: who traces, and
// who opens a door, may write the others at any time.
func (s *Settings) Owned() [][]byte {
	all := unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s))
	return [][]byte{
		all[:unsafe.Offsetof(s.Door)], // and Probe
		all[unsafe.Offsetof(s.HashKey):unsafe.Offsetof(s.Trace)],
		all[unsafe.Offsetof(s.Timeout):unsafe.Offsetof(s.TraceUntil)],
	}
}
