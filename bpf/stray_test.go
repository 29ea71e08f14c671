// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"xdplvs/internal/packet"
)

// strays are packets that no honest client sends, each from a port of its own:
// impossible flags, RST and FIN out of nowhere, ACKs, fragments that overlap or
// never complete, ICMP errors that lie about a connection. What they must never do:
//
//   - create an established connection (with sloppy_tcp: one that counts as established),
//   - evict an established one, or change its state, its real server or its packets,
//   - make the counts drift: the audit recounts everything afterwards.
type strays struct {
	*rig
	held []string // what they must leave alone, as rig.conns has it
	next uint16   // the next stray's port
}

// heldPorts are the clients that are connected before.
var heldPorts = []uint16{60001, 60002, 60003}

// strayWorlds are what they are sent into.
var strayWorlds = map[string]func(*rig){
	"strict":     func(r *rig) { r.service("web").Flags = ServiceReuse | ServiceReuseFin | ServiceExpireNodest },
	"sloppy":     flagged("web", ServiceSloppy),
	"persistent": persistent("web", "sctp"),
	"nat": func(r *rig) {
		r.natReal("a", "web", 8080)
		r.natReal("b", "web", 8080)
	},
}

func newStrays(t testing.TB, f family, world string) *strays {
	s := &strays{rig: smallRig(t, f), next: 1}
	s.flowPlan("web", "a", "b", "c")
	sctpWorld(s.rig)
	strayWorlds[world](s.rig)
	for _, port := range heldPorts {
		s.send(t, tcp(syn, from(port))(f))
		s.send(t, tcp(ack, from(port))(f))
		s.send(t, sctpTo(chunks("init"), from(port))(f))
		s.send(t, sctpTo(chunks("cookie_echo"), from(port))(f))
	}
	s.held = s.conns()
	return s
}

// strayKinds make a stray of a port and a number.
var strayKinds = []func(f family, port uint16, n uint64) send{
	func(_ family, port uint16, n uint64) send { return tcp(uint8(n), from(port)) }, // every combination of flags
	func(_ family, port uint16, n uint64) send { return tcp(uint8(n), from(port), options) },
	func(_ family, port uint16, n uint64) send { return udp(from(port)) },
	func(_ family, port uint16, n uint64) send { // any chunks
		return sctpTo([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), byte(n >> 32), byte(n >> 40), 0, 4}, from(port))
	},
	func(_ family, port uint16, n uint64) send { // fragments of any place and length: they overlap, and end nowhere
		return pieceOf(uint32(n%8), int(n>>8%3), packet.TCP{SrcPort: port, DstPort: webPort, Flags: uint8(n >> 16)})
	},
	func(f family, port uint16, n uint64) send { // an error about a connection that there is not, or about one that is held
		quoted := []uint16{port, heldPorts[n%uint64(len(heldPorts))]}[n>>8%2]
		return icmpError(func(f family) []packet.Layer {
			return []packet.Layer{network(f, f.vip, f.client), packet.TCP{SrcPort: webPort, DstPort: quoted, Flags: uint8(n)}}
		})
	},
	func(_ family, port uint16, n uint64) send { return tcp(rst, from(port), cut(20+int(n%20))) },
	func(f family, port uint16, n uint64) send { // what no client has asked a real server for
		return tcp(uint8(n), from(port), reply(natAddr(f, "a"), 8080, "a"))
	},
}

// stray sends one, and tells what it must not have done at once.
func (s *strays) stray(t testing.TB, kind uint8, n uint64) {
	t.Helper()
	f, port := s.f, s.next
	if s.next++; s.next == heldPorts[0] {
		s.next = 1
	}
	frame := strayKinds[int(kind)%len(strayKinds)](f, port, n)(f)
	if got := s.rig.send(t, slices.Clone(frame)); got.verdict == "drop_error" {
		t.Fatalf("%x: %s", frame, got.verdict)
	}
}

// unharmed is an error if a stray did what it must not.
func (s *strays) unharmed() error {
	all := s.conns()
	for _, c := range s.held {
		if !slices.Contains(all, c) {
			return fmt.Errorf("%q is not there any more: %q", c, all)
		}
	}
	for _, e := range s.entries() {
		state := stateNames[ConnState(&e.conn)]
		proven := (state == "ESTABLISHED" || state == "SCTP_ESTABLISHED") && e.conn.Word&unproven == 0
		if proven && !slices.Contains(heldPorts, e.key.sport) {
			return fmt.Errorf("%v is established", e.key)
		}
	}
	return s.audit()
}

// TestStrays sends thousands at random: the table is turned over many times.
func TestStrays(t *testing.T) {
	for _, f := range families {
		for world := range strayWorlds {
			t.Run(f.name+"/"+world, func(t *testing.T) {
				random := newRandom(t)
				s := newStrays(t, f, world)
				for i := range 3000 {
					s.stray(t, uint8(random.Uint32()), random.Uint64())
					if i%100 == 0 {
						must(t, s.unharmed())
					}
				}
				must(t, s.unharmed())
			})
		}
	}
}

// FuzzStrays lets the fuzzer choose them: a kind and a number for each.
func FuzzStrays(f *testing.F) {
	for kind := range strayKinds {
		for world := range uint8(len(strayWorlds)) {
			f.Add(false, world, []byte{byte(kind), 0x3f, byte(kind), 3, 0, 1})
		}
	}
	worlds := slices.Sorted(maps.Keys(strayWorlds))
	f.Fuzz(func(t *testing.T, v6 bool, world uint8, list []byte) {
		family := families[0]
		if v6 {
			family = families[1]
		}
		s := newStrays(t, family, worlds[int(world)%len(worlds)])
		for ; len(list) >= 2 && s.next < 500; list = list[2:] {
			random := rand.New(rand.NewPCG(uint64(list[1]), 0))
			s.stray(t, list[0], uint64(list[1])|random.Uint64()<<8)
		}
		must(t, s.unharmed())
	})
}
