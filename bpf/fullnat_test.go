// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"math/bits"
	"net/netip"
	"testing"
)

// The local ports of full-NAT in tests.
const (
	firstLocal = 2000
	localPorts = 100
)

// byFullNAT makes a real server by nat one by fullnat, with sources of these numbers.
func (r *rig) byFullNAT(name string, sources ...uint8) {
	row := r.real(name)
	row.Method = uint8(directorForwardMethodMETHOD_FULLNAT)
	r.giveSources(name, sources...)
	r.Settings.LocalPorts = LocalPorts(firstLocal, localPorts)
}

func (r *rig) giveSources(name string, sources ...uint8) {
	row := r.real(name)
	row.Pool = 1 + name[0] - 'a'
	pool := &r.Pools[row.Pool].Source
	for i := range pool {
		pool[i] = sources[i%len(sources)]
	}
	for _, n := range sources {
		r.Sources[n].Addr = sourceAddr(r.f, n).As16()
	}
}

// sourceAddr is the director's address of a number.
func sourceAddr(f family, number uint8) netip.Addr {
	return both(f, netip.AddrFrom4([4]byte{10, 9, 0, number}), netip.AddrFrom16([16]byte{0xfd, 9, 15: number}))
}

// local is the local end of the client's connection; invalid: it has none.
func (r *rig) local(t *testing.T, k flow) netip.AddrPort {
	t.Helper()
	e := r.find(k)
	if e == nil {
		t.Fatalf("no connection %v", k)
	}
	if e.conn.Source == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(sourceAddr(r.f, e.conn.Source), bits.ReverseBytes16(e.conn.Port))
}

func (r *rig) flowOf(tr natTransport) flow {
	return flow{r.f.client, r.f.vip, clientPort, tr.port, tr.protocol}
}

// fromLocal lets a message come from the local end of the connection, if it has one.
func (r *rig) fromLocal(t *testing.T, tr natTransport) change {
	end := r.local(t, r.flowOf(tr))
	if !end.IsValid() {
		return func(*message) {}
	}
	return func(m *message) {
		m.src = end.Addr()
		from(end.Port())(m)
	}
}

// toLocal lets it go there.
func (r *rig) toLocal(t *testing.T, tr natTransport) change {
	end := r.local(t, r.flowOf(tr))
	if !end.IsValid() {
		return func(*message) {}
	}
	return func(m *message) {
		m.dst = end.Addr()
		to(end.Port())(m)
	}
}

// fullWeb is a rig with web servers a and b by fullnat, b's at another address, and only so many local ports.
func fullWeb(t *testing.T, f family, ports uint16) (r *rig, server netip.Addr) {
	r = smallRig(t, f)
	r.plan("web", 0, "a")
	server = r.natReal("a", "web", 8080)
	r.natReal("b", "web", 8080)
	r.byFullNAT("a", 1)
	r.byFullNAT("b", 1)
	r.Settings.LocalPorts = LocalPorts(firstLocal, ports)
	return r, server
}

// TestLocalPortsEnd: of a real server's ports each is taken once, a further connection is refused, and
// begins when one of them has ended. Another real server has them all for itself.
func TestLocalPortsEnd(t *testing.T) {
	const ports = 5
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r, _ := fullWeb(t, f, ports)
			taken := map[netip.AddrPort]bool{}
			for i := range uint16(ports) {
				mustVerdict(t, "while there are ports", r.send(t, tcp(syn, from(100+i))(f)), "tx_new")
				taken[r.local(t, r.webFlow(100+i))] = true
			}
			if len(taken) != ports {
				t.Errorf("%d connections have the ends %v", ports, taken)
			}
			mustVerdict(t, "without a port", r.send(t, tcp(syn, from(200))(f)), "drop_no_port")
			if r.find(r.webFlow(200)) != nil {
				t.Error("it is stored")
			}
			if counts := r.Counts[r.reals["a"]].Conns; counts != ports {
				t.Errorf("counts are %#x", counts)
			}
			r.check(t)

			r.plan("web", 0, "b")
			mustVerdict(t, "of another real server", r.send(t, tcp(syn, from(201))(f)), "tx_new")
			r.plan("web", 0, "a")
			e := r.mustFind(t, 102)
			free := r.local(t, r.webFlow(102))
			e.conn.LastUse -= r.Settings.Timeout[stateNumber("SYN_RECV")] + 1
			e.store()
			mustVerdict(t, "while the ended one is there", r.send(t, tcp(syn, from(203))(f)), "drop_no_port")
			r.sweepOnce(t) // the connection; its way back leads nowhere, and is there still
			mustVerdict(t, "when one has ended", r.send(t, tcp(syn, from(202))(f)), "tx_new")
			if got := r.local(t, r.webFlow(202)); got != free {
				t.Errorf("it has %s, free was %s", got, free)
			}
			r.check(t)
		})
	}
}

// TestLocalEndAgain: a client that uses its port again comes from the same local end, so that the real
// server sees that its connection is a new one.
func TestLocalEndAgain(t *testing.T) {
	for _, f := range families {
		r, _ := fullWeb(t, f, 1000)
		r.service("web").Flags = ServiceReuse
		r.send(t, tcp(syn)(f))
		first := r.local(t, r.webFlow(clientPort))
		for range 3 {
			r.setWord(r.mustFind(t, clientPort), uint32(stateNumber("CLOSE")))
			mustVerdict(t, "again", r.send(t, tcp(syn)(f)), "tx_new")
			if got := r.local(t, r.webFlow(clientPort)); got != first {
				t.Errorf("%s: local end %s, before it was %s", f.name, got, first)
			}
			r.waysBack(t, 1)
			r.check(t)
		}
	}
}

// TestLocalSources: new connections come from all sources of the real server, and old ones go on from theirs.
func TestLocalSources(t *testing.T) {
	for _, f := range families {
		r, server := fullWeb(t, f, 100)
		r.giveSources("a", 1, 2, 3)
		seen := map[netip.Addr]int{}
		for i := range uint16(30) {
			r.send(t, tcp(syn, from(1000+i))(f))
			seen[r.local(t, r.webFlow(1000+i)).Addr()]++
			r.forget() // the table is small
		}
		if len(seen) != 3 {
			t.Errorf("%s: of 30 connections so many come from each source: %v", f.name, seen)
		}
		r.send(t, tcp(syn, from(1000))(f))
		before := r.local(t, r.webFlow(1000))
		r.giveSources("a", 4)
		got := r.send(t, tcp(ack, from(1000))(f))
		want := tcp(ack, from(1000), toServer("a", server, 8080), func(m *message) {
			m.src = before.Addr()
			from(before.Port())(m)
		})
		mustLeave(t, f.name+": of one that is known", got, "tx_forward", want(f))
		r.send(t, tcp(syn, from(2000))(f))
		if got := r.local(t, r.webFlow(2000)); got.Addr() != sourceAddr(f, 4) {
			t.Errorf("%s: a new one comes from %s", f.name, got)
		}
		r.real("a").Pool = 0
		mustVerdict(t, "without a source", r.send(t, tcp(syn, from(2001))(f)), "drop_no_port")
		r.check(t)
	}
}

// TestLocalEndIsVirtual: the director has one address only, so the local end is at that of a service, and
// its port is the service's.
func TestLocalEndIsVirtual(t *testing.T) {
	for _, f := range families {
		for _, method := range []directorForwardMethod{directorForwardMethodMETHOD_FULLNAT, directorForwardMethodMETHOD_NAT} {
			r, server := fullWeb(t, f, 1)
			r.real("b").Method = uint8(method)
			r.Sources[1].Addr = f.vip.As16()
			r.Settings.LocalPorts = LocalPorts(webPort, 1)
			r.send(t, tcp(syn)(f))
			back := func(m *message) {
				m.src, m.dst, m.eth.Src = server, f.vip, headOf("a").Dst
				ports(func(src, dst *uint16) { *src, *dst = 8080, webPort })(m)
			}
			for _, flags := range []uint8{syn | ack, ack, ack} {
				got := r.send(t, tcp(flags, back)(f))
				mustLeave(t, f.name+": reply to a virtual address", got, "tx_reply", tcp(flags, back, fromService(f, webPort))(f))
				r.send(t, tcp(ack)(f))
			}
			toVIP := func(m *message) { m.src, m.dst, m.eth.Src = server, f.vip, headOf("a").Dst }
			mustVerdict(t, "error about one", r.send(t, quoting(f.vip, server, webPort, 8080, toVIP)(f)), "tx_icmp")
			r.check(t)
		}
	}
}

// TestHairpin: a client that is a real server by nat is answered through the director, also by itself.
func TestHairpin(t *testing.T) {
	for _, f := range families {
		for _, name := range []string{"a", "b"} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				r, _ := fullWeb(t, f, 100)
				client := netip.AddrFrom16(r.real("a").Addr).Unmap()
				r.real("a").Method = uint8(directorForwardMethodMETHOD_NAT)
				r.real("b").Method = uint8(directorForwardMethodMETHOD_NAT)
				r.plan("web", 0, name)
				server := netip.AddrFrom16(r.real(name).Addr).Unmap()
				sent := func(m *message) { m.src = client }
				key := flow{client, f.vip, clientPort, webPort, tcpProto}
				for i, flags := range []uint8{syn, ack, ack} {
					got := r.send(t, tcp(flags, sent)(f))
					end := r.local(t, key)
					if !end.IsValid() {
						t.Fatal("it has no local end")
					}
					want := tcp(flags, sent, toServer(name, server, 8080), from(end.Port()), func(m *message) { m.src = end.Addr() })
					mustLeave(t, "request", got, []string{"tx_new", "tx_forward", "tx_forward"}[i], want(f))
				}
				back := func(m *message) {
					m.src, m.dst, m.eth.Src = server, r.local(t, key).Addr(), headOf(name).Dst
					ports(func(src, dst *uint16) { *src, *dst = 8080, r.local(t, key).Port() })(m)
				}
				for range 2 {
					got := r.send(t, tcp(ack, back)(f))
					want := tcp(ack, back, fromService(f, webPort), func(m *message) { m.dst = client })
					mustLeave(t, "reply", got, "tx_reply", want(f))
				}
				r.send(t, tcp(syn)(f))
				if end := r.local(t, r.webFlow(clientPort)); end.IsValid() {
					t.Errorf("another client's connection has the local end %s", end)
				}
				r.real(name).Pool = 0
				mustVerdict(t, "without sources", r.send(t, tcp(syn, sent, from(2))(f)), "tx_new")
				if end := r.local(t, flow{client, f.vip, 2, webPort, tcpProto}); end.IsValid() {
					t.Errorf("without sources it has %s", end)
				}
				r.check(t)
			})
		}
	}
}

// TestLocalFull: in a full table established connections stay, one that finds no room is refused, and ways
// back that lead nowhere make room before anybody sweeps them.
func TestLocalFull(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r, _ := fullWeb(t, f, 30000)
			refused := 0
			for port := range uint16(400) {
				got := r.send(t, tcp(syn, from(1000+port))(f))
				if got.verdict == "drop_no_room" {
					refused++
					continue
				}
				mustVerdict(t, "with room", got, "tx_new")
				r.setWord(r.mustFind(t, 1000+port), uint32(stateNumber("ESTABLISHED")))
			}
			if refused == 0 {
				t.Error("none of 400 connections was refused")
			}
			r.check(t)
			for _, e := range r.entries() {
				if !isWayBack(e.conn.Word) {
					r.setWord(e, uint32(stateNumber("SYN_RECV")))
				}
			}
			began := 0
			for port := range uint16(400) {
				if got := r.send(t, tcp(syn, from(2000+port))(f)); got.verdict == "tx_new" {
					began++
				}
			}
			if began < 300 {
				t.Errorf("%d of 400 connections began where half-open ones, and their ways back, make room", began)
			}
			r.check(t)
		})
	}
}

// TestLocalReset: both ends of a connection that is reset are told, the real server at the local end.
func TestLocalReset(t *testing.T) {
	for _, f := range families {
		r, server := fullWeb(t, f, 100)
		r.send(t, tcp(syn)(f))
		end := r.local(t, r.webFlow(clientPort))
		r.real("a").Generation++
		r.real("a").Stale = StaleReset
		got := r.send(t, tcp(ack, noData, reply(server, 8080, "a"), func(m *message) {
			m.dst = end.Addr()
			to(end.Port())(m)
		})(f))
		mustVerdict(t, "reply", got, "tx_reset")
		if p := need(look(got.out))(t); p.src != end.Addr() || p.dst != server {
			t.Errorf("%s: reset from %s to %s, want it from %s to the server", f.name, p.src, p.dst, end)
		}
		got = r.send(t, tcp(ack, noData)(f))
		mustVerdict(t, "request", got, "tx_reset")
		if p := need(look(got.out))(t); p.src != f.vip || p.dst != f.client {
			t.Errorf("%s: reset from %s to %s, want it from the service to the client", f.name, p.src, p.dst)
		}
		r.check(t)
	}
}

// TestHairpinDirect: a real server by direct routing gets no connection of its own, as long as there is
// another one.
func TestHairpinDirect(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := smallRig(t, f)
			client := r.realBy(directorForwardMethodMETHOD_DR, "a", "web", webPort)
			r.realBy(directorForwardMethodMETHOD_DR, "b", "web", webPort)
			r.plan("web", 0, "a")
			r.flowPlan("web", "a", "a", "b")
			r.Settings.Nat = 0 // the short way has to see to it, too
			sent := func(m *message) { m.src = client }
			to := map[string]int{}
			for port := range uint16(20) {
				for i, flags := range []uint8{syn, ack} {
					got := r.send(t, tcp(flags, sent, from(port+1001))(f))
					mustVerdict(t, "of a real server", got, []string{"tx_new", "tx_forward"}[i])
					to[string(got.out[5])]++
				}
			}
			if to["b"] != 40 {
				t.Errorf("its packets went to %v", to)
			}
			got := r.send(t, tcp(syn)(f))
			if mustVerdict(t, "of another client", got, "tx_new"); got.out[5] != 'a' {
				t.Errorf("another client's went to %c", got.out[5])
			}
			r.flowPlan("web", "a")
			mustVerdict(t, "where it is the only one", r.send(t, tcp(syn, sent, from(99))(f)), "tx_new")
			r.check(t)
		})
	}
}
