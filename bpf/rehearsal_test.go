// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"xdplvs/internal/packet"
)

// dump is the content of all maps: of what lies in memory its bytes, of others their entries in order.
func (d *DataPlane) dump(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for name, m := range d.objects.Maps {
		if name == directorMapTxPorts || !isState(name) { // has no content in a rig, or cannot change
			continue
		}
		if m.Flags()&unix.BPF_F_MMAPABLE != 0 {
			memory := need(mapArray[byte](m))(t)
			all[name] = bytes.Clone(memory.items)
			must(t, memory.close())
			continue
		}
		var entries []string
		var key []byte
		for {
			next := make([]byte, m.KeySize())
			if key == nil && m.NextKey(nil, &next) != nil || key != nil && m.NextKey(key, &next) != nil {
				break
			}
			key = next
			entries = append(entries, fmt.Sprintf("%x=%x;", key, rawValue(t, m, key)))
		}
		slices.Sort(entries)
		for _, e := range entries {
			all[name] = append(all[name], e...)
		}
	}
	return all
}

func rawValue(t *testing.T, m *ebpf.Map, key []byte) any {
	t.Helper()
	if m.Type() == ebpf.PerCPUArray {
		var perCPU [][]byte
		must(t, m.Lookup(key, &perCPU))
		return perCPU
	}
	return need(m.LookupBytes(key))(t)
}

// TestRehearsal: what a rehearsal says of a packet is what becomes of it right afterwards, and until then
// no table has changed.
func TestRehearsal(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			r.persist("dns", 300)
			r.natReal("b", "web", 8080)
			syn := packet.TCP{SrcPort: 40001, DstPort: webPort, Flags: packet.SYN}
			ack := packet.TCP{SrcPort: 40001, DstPort: webPort, Flags: packet.ACK}
			second := packet.TCP{SrcPort: 40002, DstPort: webPort, Flags: packet.SYN}
			for i, c := range []struct {
				verdict string
				real    string
				layer   packet.Layer
			}{
				{"tx_new", "a", syn},
				{"tx_forward", "a", ack},
				{"tx_new", "b", second}, // by nat: two entries
				{"tx_new", "d", packet.UDP{SrcPort: 40003, DstPort: dnsPort}}, // a template, too
				{"tx_forward", "d", packet.UDP{SrcPort: 40003, DstPort: dnsPort}},
				{"pass_no_service", "", packet.TCP{SrcPort: 40004, DstPort: 9, Flags: packet.SYN}},
				{"pass_no_connection", "", packet.TCP{SrcPort: 40005, DstPort: webPort, Flags: packet.ACK}},
			} {
				frame := newSend(c.layer)(f)
				said := r.rehearse(t, frame)
				if name := r.names[said.Real]; said.Verdict != c.verdict || name != c.real {
					t.Errorf("packet %d: %s of %q, want %s of %q", i, said.Verdict, name, c.verdict, c.real)
				}
				if did := r.send(t, frame); did.verdict != said.Verdict || did.action != said.Action || !bytes.Equal(did.out, said.Frame) {
					t.Errorf("packet %d: said %s, action %d, %x\ndid %v", i, said.Verdict, said.Action, said.Frame, did)
				}
			}
		})
	}
}

// rehearse lets a packet do in a copy what it would do, and compares the tables before and after.
func (r *rig) rehearse(t *testing.T, frame []byte) Rehearsed {
	t.Helper()
	before := r.plane.dump(t)
	copied := need(r.plane.Rehearse())(t)
	defer copied.Close()
	must(t, copied.CopyConns())
	must(t, copied.CopyRows())
	said := need(copied.Try(bytes.Clone(frame), ingress))(t)
	after := r.plane.dump(t)
	if len(before) < 15 {
		t.Fatalf("only %d maps were compared", len(before))
	}
	for name := range before {
		if !bytes.Equal(before[name], after[name]) {
			t.Errorf("the rehearsal changed %s", name)
		}
	}
	return said
}

// TestRehearsedClock: a rehearsal's time is its own: connections end in it without anybody waiting, and only there.
func TestRehearsedClock(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			first := newSend(packet.UDP{SrcPort: 40003, DstPort: dnsPort})(f)
			r.send(t, first)
			copied := need(r.plane.Rehearse())(t)
			defer copied.Close()
			must(t, copied.CopyConns())
			must(t, copied.CopyRows())
			traces := need(copied.TellAll())(t)
			defer traces.Close()
			for _, step := range []struct {
				after time.Duration
				want  string
			}{{0, "tx_forward"}, {299 * time.Second, "tx_forward"}, {598 * time.Second, "tx_forward"}, {900 * time.Second, "tx_new"}, {900 * time.Second, "tx_forward"}} {
				copied.At(step.after)
				p, _, err := copied.Tell(traces, bytes.Clone(first), ingress)
				if err != nil || p.Verdict != step.want {
					t.Errorf("after %v: %s, %v, want %s", step.after, p.Verdict, err, step.want)
				}
			}
			if got := r.send(t, first); got.verdict != "tx_forward" {
				t.Errorf("the connection itself: %v", got)
			}
		})
	}
}
