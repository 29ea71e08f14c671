// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"xdplvs/internal/packet"
)

// TestCookieOddOptions: what of a SYN's options is not well formed counts as not said.
func TestCookieOddOptions(t *testing.T) {
	stamps, scale := stampOption(clientStamp, 0), []byte{3, 3, 9}
	for name, test := range map[string]struct {
		options []byte
		mss     uint16 // that the real server is told
		want    handshakeOptions
	}{
		"a scale that is too large":       {slices.Concat(stamps, []byte{3, 3, 200}), 536, handshakeOptions{true, false, 14}},
		"a scale of another length":       {slices.Concat(stamps, []byte{3, 4, 9, 0}), 536, handshakeOptions{true, false, -1}},
		"an MSS of another length":        {slices.Concat([]byte{2, 3, 5, 1}, stamps, scale), 536, handshakeOptions{true, false, 9}},
		"timestamps of another length":    {slices.Concat(mssOption(1300), []byte{8, 9, 1, 2, 3, 4, 0, 0, 0}, scale), 1300, noOptions},
		"the end of the list comes first": {slices.Concat(stamps, scale, []byte{0}, mssOption(1300)), 536, handshakeOptions{true, false, 9}},
		"an option of no length":          {slices.Concat(stamps, []byte{77, 0}, mssOption(1300)), 536, handshakeOptions{true, false, -1}},
		"an option of length 1":           {slices.Concat(stamps, []byte{77, 1}, mssOption(1300)), 536, handshakeOptions{true, false, -1}},
		"an option beyond the header":     {slices.Concat(mssOption(1400), scale, []byte{1, 1, 1, 8, 10, 0, 0, 0, 1}), 1400, noOptions},
		"40 bytes of nothing":             {bytes.Repeat([]byte{1}, 40), 536, noOptions},
		"the last place":                  {slices.Concat(bytes.Repeat([]byte{1}, 26), stamps, []byte{1, 3, 3, 4}), 536, handshakeOptions{true, false, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			x := newProxied(t, families[0], false)
			got := x.send(t, tcp(0, segment(syn, clientISN, 0, 5000, test.options), noData)(x.f))
			p := need(look(got.out))(t)
			x.cookie, x.client = binary.BigEndian.Uint32(got.out[p.l4+4:]), test.want
			if x.client.stamps {
				x.stamp = binary.BigEndian.Uint32(got.out[p.l4+28:])
			}
			got = x.send(t, x.proof()(x.f))
			mustVerdict(t, "proof", got, "tx_new")
			want := x.restored(t)
			binary.BigEndian.PutUint16(want[p.l4+22:], test.mss)
			if l4 := p.l4 + 20; !bytes.Equal(got.out[l4:], want[l4:]) {
				t.Errorf("the real server is told % x, want % x", got.out[l4:], want[l4:])
			}
		})
	}
}

// TestCookieServerOdd: a real server that grants what was not asked for, or has hardly any window, or answers anew.
func TestCookieServerOdd(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.client.scale = -1
		x.connect(t) // the real server scales nevertheless
		x.exchange(t)
		x.forget()

		x.client.scale, x.grant.scale = clientScale, -1
		x.connect(t)
		got := x.fromServer(t, segment(ack, serverISN+1, clientISN+1, 1), noData)
		mustLeave(t, "a window of 1", got, "tx_reply", x.toClient(t, segment(ack, x.cookie+1, clientISN+1, 1), noData))
		got = x.fromServer(t, segment(ack, serverISN+1, clientISN+1, 0), noData)
		mustLeave(t, "none", got, "tx_reply", x.toClient(t, segment(ack, x.cookie+1, clientISN+1, 0), noData))
		got = x.fromServer(t, segment(rst, serverISN+1, 0, 1234), noData)
		mustLeave(t, "a reset says nothing of windows, and acknowledges nothing", got, "tx_reply", x.toClient(t, segment(rst, x.cookie+1, 0, 1234), noData))
	})
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.connect(t)
		for what, changed := range map[string]change{
			"another SYN-ACK": segment(syn|ack, serverISN+9, clientISN+1, 0), "one of another SYN": segment(syn|ack, serverISN, clientISN+2, 0),
		} {
			want := withTCP(func(l *packet.TCP) { l.Seq += x.cookie - serverISN })
			mustLeave(t, what, x.fromServer(t, changed, noData), "tx_reply", x.toClient(t, changed, want, noData))
		}
	})
}

// TestCookieClientOdd: numbers that say nothing are left alone, and a part of a SACK block is none.
func TestCookieClientOdd(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.connect(t)
		x.exchange(t)
		sack := func(by uint32) []byte { return append([]byte{5, 14}, sackOption(by+1, by+2, x.cookie)[2:]...) }
		got := x.send(t, tcp(0, segment(ack, clientISN+1, x.cookie+1, 7, sack(x.cookie)), noData)(x.f))
		mustLeave(t, "a block and a half", got, "tx_forward", x.toReal(t, segment(ack, clientISN+1, serverISN+1, 7, sack(serverISN)), noData))
		got = x.send(t, tcp(0, segment(rst, clientISN+1, 0, 7), noData)(x.f))
		mustLeave(t, "a reset", got, "tx_forward", x.toReal(t, segment(rst, clientISN+1, 0, 7), noData))
	})
}

// TestCookieFragments: only first fragments have numbers.
func TestCookieFragments(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.connect(t)
		x.exchange(t)
		data := bytes.Repeat([]byte{0x5a}, 60) // which as a header would be one of 20 bytes
		var layers []packet.Layer
		tcp(0, segment(ack, clientISN+6, x.cookie+6, 7), func(m *message) { m.data = data; layers = m.layers() })(x.f)
		for n, in := range packet.Fragments(0x77, 32, layers...) {
			got := x.send(t, in)
			mustVerdict(t, "fragment", got, "tx_forward")
			tail := []int{12, 32, 16}[n] // behind the header, in 80 bytes
			if !bytes.HasSuffix(got.out, data[:tail]) {
				t.Errorf("data of fragment %d are % x", n, got.out)
			}
			if p := need(look(got.out))(t); n == 0 && binary.BigEndian.Uint32(got.out[p.l4+8:]) != 0xfffffff6 {
				t.Errorf("the first fragment was not translated: % x", got.out)
			}
		}
	})
}

// TestCookieNotFor: what is never scheduled gets no cookie, and a fragment cannot be answered.
func TestCookieNotFor(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		mustVerdict(t, "a SYN from port 20", x.send(t, tcp(syn, from(20), noData)(x.f)), "pass_no_connection")
		if got := x.send(t, tcpPiece(0, syn)(x.f)); got.verdict == "tx_cookie" {
			t.Errorf("a fragment of a SYN: %s", got.verdict)
		}
	})
}

// TestCookieLongProof: data that the client sends with its proof do not count for the SYN that it becomes.
func TestCookieLongProof(t *testing.T) {
	eachProxied(t, func(t *testing.T, x *proxied) {
		x.real("a").Mtu = 1000
		x.syn(t)
		mustLeave(t, "proof", x.send(t, x.proof(dataOf(1300))(x.f)), "tx_new", x.restored(t))
	})
}
