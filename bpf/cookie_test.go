// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"xdplvs/internal/packet"
)

// The numbers of a connection whose handshake is the director's.
const (
	clientISN   = 1000
	clientStamp = 0x01020304
	serverISN   = 0xfffffff0 // its numbers run over soon
	serverStamp = 0x7fffff00
	clientScale = 9
	serverScale = 5
	toldScale   = 7 // COOKIE_SCALE
	cookieMSS   = 1400
)

// proxied is a client and a real server that the director speaks to for each other.
type proxied struct {
	*rig
	server netip.Addr
	full   bool
	client handshakeOptions // what the client asks for, and the server grants
	grant  handshakeOptions

	cookie uint32 // what the client was told
	stamp  uint32
}

// handshakeOptions are those of one end.
type handshakeOptions struct {
	stamps, sack bool
	scale        int // below 0: none
}

var noOptions = handshakeOptions{scale: -1}

func newProxied(t *testing.T, f family, full bool) *proxied {
	r, server, _ := natWeb(t, f)
	if full {
		r.byFullNAT("a", 1)
	}
	s := r.service("web")
	s.Flags, s.Mss = ServiceCookies|ServiceProofs, cookieMSS
	r.Settings.CookieKey = [2]uint64{1, 2}
	return &proxied{rig: r, server: server, full: full,
		client: handshakeOptions{true, true, clientScale}, grant: handshakeOptions{true, true, serverScale}}
}

// eachProxied runs a test in both families, by nat and by fullnat.
func eachProxied(t *testing.T, test func(t *testing.T, x *proxied)) {
	for _, f := range families {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprint(f.name, "/full ", full), func(t *testing.T) {
				x := newProxied(t, f, full)
				test(t, x)
				x.check(t)
			})
		}
	}
}

// segment is a TCP header without ports.
func segment(flags uint8, seq, acked uint32, window uint16, options ...[]byte) change {
	return withTCP(func(l *packet.TCP) {
		l.Flags, l.Seq, l.Ack, l.Window, l.Options = flags, seq, acked, window, slices.Concat(options...)
	})
}

func mssOption(n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{2, 4}, n) }

func stampOption(stamp, echo uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{8, 10}, stamp), echo)
}

func sackOption(edges ...uint32) []byte {
	b := []byte{5, byte(2 + 4*len(edges))}
	for _, e := range edges {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	return b
}

// made are the options of a SYN or SYN-ACK that the director makes.
func (o handshakeOptions) made(mss uint16, stamp, echo uint32) []byte {
	b := mssOption(mss)
	if !o.stamps {
		return b
	}
	sack, scale := []byte{1, 1}, []byte{1, 1, 1, 1}
	if o.sack {
		sack = []byte{4, 2}
	}
	if o.scale >= 0 {
		scale = []byte{1, 3, 3, byte(o.scale)}
	}
	return slices.Concat(b, sack, stampOption(stamp, echo), scale)
}

// asked are the options of a SYN or SYN-ACK of others: in another order, with others among them.
func (o handshakeOptions) asked(mss uint16, stamp, echo uint32) []byte {
	var b []byte
	if o.scale >= 0 {
		b = append(b, 3, 3, byte(o.scale), 1)
	}
	if o.sack {
		b = append(b, 4, 2)
	}
	b = append(b, 254, 4, 0xab, 0xcd, 1) // unknown
	if o.stamps {
		b = append(b, stampOption(stamp, echo)...)
	}
	return append(b, mssOption(mss)...)
}

// stamped are the options of a segment, and where they begin makes it odd.
func (o handshakeOptions) stamped(stamp, echo uint32) []byte {
	if !o.stamps {
		return nil
	}
	return append([]byte{1}, stampOption(stamp, echo)...)
}

// told is what the director tells the client of its own.
func (o handshakeOptions) told() handshakeOptions {
	if !o.stamps {
		return noOptions
	}
	if o.scale >= 0 {
		o.scale = toldScale
	}
	return o
}

// syn sends the client's SYN: it is answered, and nothing is stored.
func (x *proxied) syn(t *testing.T, changes ...change) {
	t.Helper()
	sent := append([]change{segment(syn, clientISN, 0, 5000, x.client.asked(1452, clientStamp, 0)), noData}, changes...)
	in := tcp(0, sent...)(x.f)
	got := x.send(t, in)
	if got.verdict != "tx_cookie" {
		t.Fatalf("SYN: %s", got.verdict)
	}
	p := need(look(got.out))(t)
	x.cookie = binary.BigEndian.Uint32(got.out[p.l4+4:])
	if x.client.stamps {
		x.stamp = binary.BigEndian.Uint32(got.out[p.l4+28:])
	}
	want := back(need(look(in))(t), in, packet.TCP{SrcPort: webPort, DstPort: clientPort, Seq: x.cookie, Ack: clientISN + 1,
		Flags: syn | ack, Options: x.client.told().made(cookieMSS, x.stamp, clientStamp)})
	mustLeave(t, "SYN-ACK", got, "tx_cookie", want)
	if all := x.conns(); len(all) > 0 {
		t.Errorf("stored: %q", all)
	}
}

// proof is the client's ACK of the SYN-ACK.
func (x *proxied) proof(changes ...change) send {
	return tcp(0, append([]change{segment(ack, clientISN+1, x.cookie+1, 300, x.client.stamped(clientStamp+1, x.stamp)), noData}, changes...)...)
}

// restored is the SYN that the proof becomes.
func (x *proxied) restored(t *testing.T, changes ...change) []byte {
	o := x.client
	if !o.stamps {
		o = noOptions
	}
	window := 300
	if o.scale >= 0 {
		window = min(window<<o.scale, 0xffff)
	}
	made := segment(syn, clientISN, 0, uint16(window), o.made(1440, clientStamp+1, 0))
	return tcp(0, append(changes, made, noData, toServer("a", x.server, 8080), x.fromLocal(t, transports[0]))...)(x.f)
}

func (x *proxied) prove(t *testing.T) {
	t.Helper()
	mustLeave(t, "proof", x.send(t, x.proof()(x.f)), "tx_new", x.restored(t))
	if got, want := x.conns(), []string{"c:40000>vip:80 SYN_RECV a 1 output"}; !slices.Equal(got, want) {
		t.Errorf("connections are %q, want %q", got, want)
	}
}

// fromServer is a segment of the real server's.
func (x *proxied) fromServer(t *testing.T, changes ...change) result {
	t.Helper()
	return x.send(t, tcp(0, append(changes, reply(x.server, 8080, "a"), x.toLocal(t, transports[0]))...)(x.f))
}

// toClient is one as the client gets it.
func (x *proxied) toClient(t *testing.T, changes ...change) []byte {
	return tcp(0, append(changes, reply(x.server, 8080, "a"), x.toLocal(t, transports[0]), fromService(x.f, webPort))...)(x.f)
}

// offset is what is added to the real server's timestamps: a little more than what makes the first one that which the client
// was told, so that they never go back.
func (x *proxied) offset() uint32 {
	first := uint32(0)
	if x.grant.stamps {
		first = serverStamp
	}
	return ((x.stamp | 63) - first + 127) &^ 127
}

// answered are the numbers with which the real server's SYN-ACK opens the client's window.
func (x *proxied) answered(t *testing.T) []byte {
	window, options := uint16(40000), []byte(nil)
	if x.client.told().scale >= 0 {
		window >>= toldScale
	}
	if x.client.stamps {
		echo, stamp := uint32(0), x.offset()
		if x.grant.stamps {
			echo, stamp = clientStamp+1, stamp+serverStamp
		}
		options = slices.Concat([]byte{1, 1}, stampOption(stamp, echo))
	}
	return x.toClient(t, segment(ack, x.cookie, clientISN+1, window, options), func(m *message) { m.data = []byte{0} })
}

func (x *proxied) synACK(t *testing.T) {
	t.Helper()
	got := x.fromServer(t, segment(syn|ack, serverISN, clientISN+1, 40000, x.grant.asked(1380, serverStamp, clientStamp+1)), noData)
	mustLeave(t, "the real server's SYN-ACK", got, "tx_reply", x.answered(t))
}

// connect is the whole handshake.
func (x *proxied) connect(t *testing.T) {
	t.Helper()
	x.syn(t)
	x.prove(t)
	x.synACK(t)
}

// toReal is what the real server gets of the client's segment.
func (x *proxied) toReal(t *testing.T, changes ...change) []byte {
	return tcp(0, append(changes, toServer("a", x.server, 8080), x.fromLocal(t, transports[0]))...)(x.f)
}

// exchange sends a segment each way, and compares numbers, options and windows.
func (x *proxied) exchange(t *testing.T) {
	t.Helper()
	offset, window := x.offset(), uint16(0x2000)
	if x.client.told().scale >= 0 && x.grant.scale < 0 {
		window = 0xffff // too large for a field that is not scaled
	}
	// The client has seen 5 bytes, and later ones twice.
	sacks := func(by uint32) []byte { return sackOption(by+100, by+200, by+300, by+400) }
	stamps := x.client.stamped(clientStamp+9, x.stamp+7)
	got := x.send(t, tcp(0, segment(psh|ack, clientISN+1, x.cookie+6, 0x2000, stamps, sacks(x.cookie)))(x.f))
	stamps = x.client.stamped(clientStamp+9, x.stamp+7-offset)
	mustLeave(t, "request", got, "tx_forward", x.toReal(t, segment(psh|ack, clientISN+1, 0xfffffff6, window, stamps, sacks(serverISN))))

	told := uint16(0x1234)
	if x.client.told().scale >= 0 {
		told = uint16(min(uint32(0x1234)<<max(x.grant.scale, 0)>>toldScale, 0xffff))
	}
	stamps = x.grant.stamped(serverStamp+50, clientStamp+9)
	got = x.fromServer(t, segment(psh|ack, 0xfffffff6, clientISN+6, 0x1234, stamps, sacks(clientISN)))
	stamps = x.grant.stamped(serverStamp+50+offset, clientStamp+9)
	mustLeave(t, "reply", got, "tx_reply", x.toClient(t, segment(psh|ack, x.cookie+6, clientISN+6, told, stamps, sacks(clientISN))))
}

// TestCookieHandshake compares every byte of what both ends get, whatever they ask for.
func TestCookieHandshake(t *testing.T) {
	all := handshakeOptions{true, true, clientScale}
	for name, o := range map[string][2]handshakeOptions{
		"all":                           {all, {true, true, serverScale}},
		"none":                          {noOptions, noOptions},
		"without timestamps":            {{false, true, 3}, noOptions},
		"timestamps alone":              {{true, false, -1}, {true, false, -1}},
		"scale 0":                       {{true, false, 0}, {true, false, 0}},
		"the server has a larger scale": {all, {true, true, 11}},
		"the server does not scale":     {all, {true, true, -1}},
		"the server does nothing":       {all, noOptions},
	} {
		t.Run(name, func(t *testing.T) {
			eachProxied(t, func(t *testing.T, x *proxied) {
				x.client, x.grant = o[0], o[1]
				x.connect(t)
				x.exchange(t)
				x.exchange(t) // of an established connection
				if got, want := x.conns(), []string{"c:40000>vip:80 ESTABLISHED a 3 output"}; !slices.Equal(got, want) {
					t.Errorf("connections are %q, want %q", got, want)
				}
			})
		})
	}
}

// TestCookieMSS: the real server is told of the client's what the cookie has room for.
func TestCookieMSS(t *testing.T) {
	for said, told := range map[uint16]uint16{100: 536, 536: 536, 1219: 536, 1220: 1220, 1399: 1360, 1459: 1440, 1460: 1460, 8960: 8940} {
		x := newProxied(t, families[0], false)
		got := x.send(t, tcp(0, segment(syn, clientISN, 0, 1, mssOption(said)), noData)(x.f))
		x.cookie = binary.BigEndian.Uint32(got.out[14+24:])
		x.client = noOptions
		out := x.send(t, x.proof()(x.f)).out
		if mss := binary.BigEndian.Uint16(out[14+42:]); mss != told {
			t.Errorf("an MSS of %d became %d, want %d", said, mss, told)
		}
	}
}

// TestCookieWrong: what proves nothing is dropped, and begins nothing.
func TestCookieWrong(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.syn(t)
		for what, c := range map[string]change{
			"another acknowledgment": withTCP(func(l *packet.TCP) { l.Ack++ }),
			"one bit of the MSS":     withTCP(func(l *packet.TCP) { l.Ack = (l.Ack - 1 ^ 1) + 1 }),
			"another number":         withTCP(func(l *packet.TCP) { l.Seq += 5 }),
			"another client":         second,
			"another port":           from(40001),
		} {
			mustVerdict(t, what, x.send(t, x.proof(c)(x.f)), "drop_cookie")
		}
		mustVerdict(t, "a FIN is none", x.send(t, x.proof(withTCP(func(l *packet.TCP) { l.Flags = fin }))(x.f)), "pass_no_connection")
		mustVerdict(t, "nor a reset", x.send(t, x.proof(withTCP(func(l *packet.TCP) { l.Flags = rst | ack }))(x.f)), "pass_no_connection")
		x.Settings.CookieKey[0]++
		mustVerdict(t, "of another key", x.send(t, x.proof()(x.f)), "drop_cookie")
		if all := x.conns(); len(all) > 0 {
			t.Errorf("stored: %q", all)
		}
		x.service("web").Flags = ServiceProofs
		mustVerdict(t, "where the flood is over", x.send(t, x.proof()(x.f)), "pass_no_connection")
		x.Settings.CookieKey[0]--
		x.prove(t)
	})
}

// TestCookieOfOthers: a cookie is good for the addresses that it was asked from and for, and no others, by whatever byte they differ.
func TestCookieOfOthers(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			x := newProxied(t, f, false)
			id := x.services["web"]
			x.syn(t)
			for i := range f.client.AsSlice() {
				flip := func(a netip.Addr) netip.Addr {
					b := a.AsSlice()
					b[i] ^= 1
					other, _ := netip.AddrFromSlice(b)
					return other
				}
				x.setKey(Key{Addr: flip(f.vip), Port: webPort, Protocol: tcpProto}, id)
				mustVerdict(t, fmt.Sprint("of a client that differs in byte ", i), x.send(t, x.proof(func(m *message) { m.src = flip(m.src) })(f)), "drop_cookie")
				mustVerdict(t, fmt.Sprint("for an address that differs in byte ", i), x.send(t, x.proof(func(m *message) { m.dst = flip(m.dst) })(f)), "drop_cookie")
			}
			x.prove(t)
		})
	}
}

// TestCookieAge: a cookie is good in its period and the next one.
func TestCookieAge(t *testing.T) {
	for age, want := range map[uint64]string{0: "tx_new", 1: "tx_new", 2: "drop_cookie", 3: "drop_cookie"} {
		x := newProxied(t, families[0], false)
		x.Settings.CookiePeriod = 1 << 31
		x.syn(t)
		// Periods of another length have other numbers. Jiffies begin at 2^32 - 300 s.
		jiffies := need(x.clock.read())(t).Jiffies
		x.Settings.CookiePeriod = uint32(jiffies / (jiffies/(1<<31) + age))
		mustVerdict(t, fmt.Sprint(age, " periods later"), x.send(t, x.proof()(x.f)), want)
	}
}

// TestCookieReplayed: a proof that comes again makes no other connection: it asks the real server
// again as long as that has not answered, and is its connection's later.
func TestCookieReplayed(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.syn(t)
		x.prove(t)
		for _, c := range []change{noData, dataOf(3), withTCP(func(l *packet.TCP) { l.Seq-- })} { // a probe for its window
			mustLeave(t, "once more", x.send(t, x.proof(c)(x.f)), "tx_forward", x.restored(t))
		}
		x.synACK(t)
		x.synACK(t) // the same one, when the client's answer is late
		mustVerdict(t, "later", x.send(t, x.proof()(x.f)), "tx_forward")
		x.synACK(t)
		x.exchange(t)
		if n := len(x.conns()); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestCookieEarly: what cannot be translated yet is dropped, and repeated by who sent it.
func TestCookieEarly(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.syn(t)
		x.prove(t)
		data := x.proof(dataOf(100), withTCP(func(l *packet.TCP) { l.Seq += 100 }))
		mustVerdict(t, "the client's data", x.send(t, data(x.f)), "drop_early")
		got := x.fromServer(t, segment(ack, 77, 99, 10), noData)
		mustVerdict(t, "a connection that the real server remembers", got, "tx_reset")
		p := need(look(got.out))(t)
		if seq := binary.BigEndian.Uint32(got.out[p.l4+4:]); p.dst != x.server || seq != 99 {
			t.Errorf("reset of %d to %s, want 99 to the real server", seq, p.dst)
		}
		x.synACK(t)
		mustVerdict(t, "then", x.send(t, data(x.f)), "tx_forward")
	})
}

// TestCookieRefused: a client is reset in its own numbers where the real server refuses it, or there is none.
func TestCookieRefused(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.syn(t)
		x.prove(t)
		got := x.fromServer(t, segment(rst|ack, 0, clientISN+1, 0), noData)
		mustLeave(t, "refused", got, "tx_reply", x.toClient(t, segment(rst|ack, x.cookie+1, clientISN+1, 0), noData))
		x.service("web").Answer = uint8(directorServiceAnswerANSWER_RESET)
		unusable("a")(x.rig)
		x.forget()
		got = x.send(t, x.proof()(x.f))
		mustVerdict(t, "without a real server", got, "tx_reset")
		p := need(look(got.out))(t)
		if seq := binary.BigEndian.Uint32(got.out[p.l4+4:]); seq != x.cookie+1 {
			t.Errorf("reset of %d, want %d", seq, x.cookie+1)
		}
	})
}

// TestCookieOtherMethods: a proof never leads to a real server whose replies go another way.
func TestCookieOtherMethods(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.syn(t)
		x.real("a").Method = uint8(directorForwardMethodMETHOD_DR)
		mustVerdict(t, "by direct routing", x.send(t, x.proof()(x.f)), "drop_no_real")
	})
}

// TestCookieDefenses: denied clients get no cookie; budgets are spent by those who have proven themselves.
func TestCookieDefenses(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		guarded(3, Guard{BudgetCost: 1, BudgetBurst: 1})(x.rig)
		x.syn(t)
		x.syn(t)
		x.prove(t)
		x.forgetConns()
		mustVerdict(t, "of a spent budget", x.send(t, x.proof()(x.f)), "drop_budget")
		denied(0, "198.51.100.6/31", "2001:db8:7::6/127")(x.rig)
		mustVerdict(t, "SYN of a denied client", x.send(t, tcp(syn)(x.f)), "drop_denied")
		mustVerdict(t, "its proof", x.send(t, x.proof()(x.f)), "drop_denied")
	})
}

// TestCookieKnown: a connection that is known is not asked for a proof, and one that has ended
// leaves its place to the next, which begins with one.
func TestCookieKnown(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.connect(t)
		x.exchange(t)
		mustVerdict(t, "a SYN on it", x.send(t, tcp(syn)(x.f)), "tx_forward")
		for _, state := range []string{"TIME_WAIT", "CLOSE", "LAST_ACK"} {
			e := x.mustFind(t, clientPort)
			x.setWord(e, uint32(stateNumber(state))|spliced)
			x.connect(t)
		}
		e := x.mustFind(t, clientPort)
		x.setWord(e, uint32(stateNumber("ESTABLISHED"))|spliced)
		x.pass(time.Hour)
		x.connect(t)
		x.exchange(t)
	})
}

// spliced is a flag of a connection's word.
const spliced = uint32(directorConnFlagCONN_SPLICED)

// TestCookieErrors: an ICMP error about what the client was sent reaches the real server in its numbers.
func TestCookieErrors(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.connect(t)
		quoted := func(seq uint32, src, dst netip.AddrPort, changes ...change) []byte {
			return icmpError(func(f family) []packet.Layer {
				return []packet.Layer{network(f, src.Addr(), dst.Addr()),
					packet.TCP{SrcPort: src.Port(), DstPort: dst.Port(), Seq: seq, Checksum: new(uint16(0xbeef))}}
			}, changes...)(x.f)
		}
		vip, client := netip.AddrPortFrom(x.f.vip, webPort), netip.AddrPortFrom(x.f.client, clientPort)
		end, server := client, netip.AddrPortFrom(x.server, 8080)
		if x.full {
			end = x.local(t, x.webFlow(clientPort))
		}
		got := x.send(t, quoted(x.cookie+77, vip, client))
		want := quoted(serverISN-(1<<32-77), server, end, natted(headOf("a"), func(m *message) { m.dst, m.src = x.server, end.Addr() }))
		mustLeave(t, "about a reply", got, "tx_icmp", want)
	})
}

// TestCookieTags: VLAN tags, IP options and padding make no difference.
func TestCookieTags(t *testing.T) {
	for name, changes := range map[string][]change{
		"tagged": {tag(0x8100, 5)}, "twice": {tag(0x88a8, 5), tag(0x8100, 6)}, "padded": {padded}, "IP options": {options},
	} {
		t.Run(name, func(t *testing.T) {
			eachProxied(t, func(t *testing.T, x *proxied) {
				x.syn(t, changes...)
				got := x.send(t, x.proof(changes...)(x.f))
				mustVerdict(t, "proof", got, "tx_new")
				p := need(look(got.out))(t)
				if sum := p.checksum(got.out); sum != 0 || p.checksum4 != 0 || binary.BigEndian.Uint32(got.out[p.l4+4:]) != clientISN {
					t.Errorf("the SYN has checksums wrong by %#x and %#x: %x", sum, p.checksum4, got.out)
				}
			})
		})
	}
}

// TestCookiesStoreNothing: a flood leaves no trace in the tables, and those who prove themselves find room.
func TestCookiesStoreNothing(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		frame := tcp(syn, noData)
		for port := range uint16(2000) {
			if got := need(x.run(frame(x.f)))(t); got.action != xdpTx {
				t.Fatalf("SYN %d: action %d", port, got.action)
			}
		}
		x.connect(t)
		x.exchange(t)
		x.waysBack(t, 1)
	})
}
