// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"xdplvs/internal/packet"
)

// forwards are the verdicts of packets that leave as they came.
var forwards = []string{"tx_forward", "tx_new", "tx_untracked", "tx_one_packet", "tx_icmp"}

// answerMax is what an answer's IP packet has at most, unless it is an echo.
const answerMax = 1280

// judge tells what is wrong with what became of a frame, whatever it was.
func (r *rig) judge(in []byte, got result) error {
	if !got.transmitted() {
		return nil
	}
	if slices.Contains(forwards, got.verdict) {
		return r.judgeForwarded(in, got)
	}
	return judgeAnswer(in, got)
}

// judgeForwarded wants the same packet with another head, for a real server.
func (r *rig) judgeForwarded(in []byte, got result) error {
	if len(got.out) < 14 || r.reals[string(got.out[5])] == 0 {
		return errors.New("it is sent to no real server")
	}
	row := r.real(string(got.out[5]))
	if !bytes.Equal(got.out[:12], row.Mac[:]) {
		return errors.New("the link-layer addresses are nobody's")
	}
	want, err := forwarded(in, row)
	if err != nil {
		return fmt.Errorf("what came was %w", err)
	}
	if !bytes.Equal(got.out, want) {
		return fmt.Errorf("it should be\n     %x", want)
	}
	if grown := len(got.out) - len(in); grown > 4*int(row.Vlans) {
		return fmt.Errorf("it grew by %d bytes", grown)
	}
	return judgePacket(in, got.out)
}

// judgePacket wants a packet that is as right as it came.
func judgePacket(in, out []byte) error {
	was, err := look(in)
	if err != nil {
		return err
	}
	is, err := look(out)
	if err != nil {
		return err
	}
	if err := is.transport(out); err != nil {
		return err
	}
	if is.ttl == 0 || is.ttl != was.ttl-1 {
		return fmt.Errorf("TTL %d became %d", was.ttl, is.ttl)
	}
	if is.length != was.length || is.checksum4%0xffff != was.checksum4%0xffff {
		return fmt.Errorf("length %d became %d, checksum off by %#x became off by %#x", was.length, is.length, was.checksum4, is.checksum4)
	}
	return nil
}

// judgeAnswer wants a packet back to its sender, well formed and not too long.
func judgeAnswer(in []byte, got result) error {
	was, err := look(in)
	if err != nil {
		return fmt.Errorf("what is answered was %w", err)
	}
	is, err := look(got.out)
	if err != nil {
		return err
	}
	if err := is.transport(got.out); err != nil {
		return err
	}
	switch {
	case !bytes.Equal(got.out[:12], slices.Concat(in[6:12], in[:6])):
		return errors.New("it does not go back where it came from")
	case is.src != was.dst || is.dst != was.src:
		return fmt.Errorf("%v to %v is answered from %v to %v", was.src, was.dst, is.src, is.dst)
	case is.tags != was.tags || is.checksum4 != 0 || is.ttl == 0:
		return fmt.Errorf("the head is wrong: %+v", is)
	case got.verdict == "tx_echo":
		return judgeEcho(in, got.out, was, is)
	case is.length > answerMax || is.checksum(got.out) != 0:
		return fmt.Errorf("%d bytes, checksum off by %#x", is.length, is.checksum(got.out))
	}
	return nil
}

// judgeEcho wants a reply that is as long, and its checksum as right, as the request.
func judgeEcho(in, out []byte, was, is parsed) error {
	if len(in) != len(out) || is.length != was.length || is.checksum(out)%0xffff != was.checksum(in)%0xffff {
		return fmt.Errorf("an echo of %d bytes is of %d, checksum off by %#x became off by %#x",
			was.length, is.length, was.checksum(in), is.checksum(out))
	}
	return nil
}

// goldenFrames are the packets of all cases, in both families.
func goldenFrames() (frames [][]byte) {
	seen := map[string]bool{}
	for _, f := range families {
		for _, test := range programTests() {
			for _, s := range test.steps {
				if test.only != "" && test.only != f.name {
					continue
				}
				frame := s.send(f)
				if !seen[string(frame)] {
					seen[string(frame)] = true
					frames = append(frames, frame)
				}
			}
		}
	}
	return frames
}

// judgeTwice runs a frame in a fresh world, and once more when it is known.
func (r *rig) judgeTwice(t *testing.T, frame []byte) {
	t.Helper()
	r.forgetConns()
	for range 2 {
		got := r.send(t, bytes.Clone(frame))
		if err := r.judge(frame, got); err != nil {
			t.Fatalf("%v\n  in %x\n got %v", err, frame, got)
		}
	}
}

// judgeWorld is the world that the tests below send everything into. Real
// servers want different tags, one service answers, and one schedules anything.
func judgeWorld(r *rig) {
	wantTags(r.real("b"), 1)
	wantTags(r.real("c"), 2)
	wantTags(r.real("d"), 0)
	r.service("web").Flags = ServiceSloppy
	r.addService("none", 12, Key{Addr: r.f.vip, Port: 81, Protocol: tcpProto})
	r.service("none").Answer = uint8(directorServiceAnswerANSWER_RESET)
	r.addService("unreachable", 13, Key{Addr: r.f.vip, Port: 54, Protocol: udpProto})
	r.service("unreachable").Answer = uint8(directorServiceAnswerANSWER_UNREACHABLE)
}

// bothWorlds has the services of both families.
func bothWorlds(r *rig) {
	for _, f := range families {
		r.f = f
		for _, name := range []string{"web", "dns"} {
			port, protocol := uint16(webPort), uint8(tcpProto)
			if name == "dns" {
				port, protocol = dnsPort, udpProto
			}
			r.setKey(Key{Addr: f.vip, Port: port, Protocol: protocol}, r.services[name])
		}
		r.setKey(Key{Addr: f.vip, Port: 0, Protocol: f.icmp()}, 0)
		judgeWorld(r)
	}
}

// TestTruncated cuts golden frames, one of each length and kind, at every byte,
// and again with the lengths of IP made to fit.
func TestTruncated(t *testing.T) {
	r := smallRig(t, families[0])
	bothWorlds(r)
	frames := 0
	for _, frame := range oneOfEachKind(goldenFrames()) {
		for n := 14; n <= len(frame); n++ {
			r.judgeTwice(t, frame[:n])
			r.judgeTwice(t, fitted(frame[:n]))
		}
		frames++
	}
	r.check(t)
	t.Logf("%d frames were cut", frames)
}

// oneOfEachKind drops frames that look like others, and long ones.
func oneOfEachKind(frames [][]byte) (some [][]byte) {
	seen := map[string]bool{}
	for _, frame := range frames {
		p, err := look(frame)
		kind := fmt.Sprint(len(frame), p.tags, p.v6, p.protocol, p.l4, p.fragment, err)
		if !seen[kind] && len(frame) <= 160 {
			seen[kind] = true
			some = append(some, frame)
		}
	}
	return some
}

// fitted is a frame whose IP header says that it ends where the frame ends.
func fitted(frame []byte) []byte {
	f := bytes.Clone(frame)
	l3 := 14
	for len(f) >= l3+4 && (f[l3-2] == 0x81 && f[l3-1] == 0 || f[l3-2] == 0x88 && f[l3-1] == 0xa8) {
		l3 += 4
	}
	switch n := len(f) - l3; {
	case n >= 20 && f[l3]>>4 == 4:
		f[l3+2], f[l3+3] = byte(n>>8), byte(n)
		f[l3+10], f[l3+11] = 0, 0
		sum := packet.Checksum(f[l3 : l3+min(n, int(f[l3]&15)*4)])
		f[l3+10], f[l3+11] = byte(sum>>8), byte(sum)
	case n >= 40 && f[l3]>>4 == 6:
		f[l3+4], f[l3+5] = byte((n-40)>>8), byte(n-40)
	}
	return f
}

// TestFlippedBits changes every bit of the headers of some frames.
func TestFlippedBits(t *testing.T) {
	r := smallRig(t, families[0])
	bothWorlds(r)
	for _, f := range families {
		for _, s := range []send{tcp(syn, options), tcp(ack, tag(0x8100, 5)), udp(padded, noData), echo(), icmpError(tcpQuote), piece(0), piece(1)} {
			frame := s(f)
			for i := range min(len(frame), 160) * 8 {
				flipped := bytes.Clone(frame)
				flipped[i/8] ^= 1 << (i % 8)
				r.judgeTwice(t, flipped)
			}
		}
	}
	r.check(t)
}

// frameMax is more than any of ours has, and less than a test run takes.
const frameMax = 3000

// FuzzPacket sends arbitrary bytes. Whatever they are: the run succeeds, one
// verdict is counted, the action is that of the verdict, what passes is
// untouched, and what leaves is a packet as right as it came, for a real server
// or back to its sender.
func FuzzPacket(f *testing.F) {
	for _, frame := range goldenFrames() {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 14 || len(frame) > frameMax {
			t.Skip("no frame that a test run takes")
		}
		r := fuzzRig(t)
		r.forget()
		r.judgeTwice(t, frame)
		r.judgeTwice(t, fitted(frame))
		r.check(t)
	})
}

// fuzzRig is the shared rig in the world that takes everything; it is set up once.
func fuzzRig(t *testing.T) *rig {
	if r := rigs[smallSizes]; r != nil && r.fuzzed {
		return r
	}
	r := smallRig(t, families[0])
	bothWorlds(r)
	r.fuzzed = true
	return r
}
