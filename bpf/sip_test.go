// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"xdplvs/internal/packet"
)

// sip makes a service one whose persistence goes by calls, of any client.
func sip(name string) func(*rig) {
	return func(r *rig) {
		r.persist(name, 300)
		s := r.service(name)
		s.Flags |= ServiceSIP
		s.ClientMask = [2]uint64{}
	}
}

// saying is a datagram with a text.
func saying(text string) change { return func(m *message) { m.data = []byte(text) } }

// request is a SIP message of a call, as RFC 3261 section 24 has them.
func request(method, call string) string {
	return strings.Join([]string{
		method + " sip:bob@192.0.2.10 SIP/2.0",
		"Via: SIP/2.0/UDP pc33.atlanta.example.com;branch=z9hG4bK776asdhds",
		"Max-Forwards: 70",
		"To: Bob <sip:bob@biloxi.example.com>",
		"From: Alice <sip:alice@atlanta.example.com>;tag=1928301774",
		call,
		"CSeq: 314159 " + method,
		"Contact: <sip:alice@pc33.atlanta.example.com>",
		"Content-Length: 0", "", "",
	}, "\r\n")
}

const (
	firstCall  = "Call-ID: a84b4c76e66710@pc33.atlanta.example.com"
	secondCall = "i: f81d4fae-7dec-11d0-a765"
)

// Persistence by calls: who follows a template, and what has none.
var sipTests = []programTest{
	{name: "sip: a call goes to one real server, whoever speaks", setup: sip("dns"), steps: []step{
		{send: udp(saying(request("INVITE", firstCall))), want: begins("d")},
		{send: udp(saying(request("INVITE", secondCall)), from(1)), want: begins("e")},
		{send: udp(saying(request("BYE", firstCall)), second), want: begins("d")},
		{send: udp(saying(request("BYE", "CALL-id :f81d4fae-7dec-11d0-a765")), second, from(1)), want: begins("e")},
		{send: udp(saying("\r\n\r\n")), want: known("d")}, // a known flow is not looked into
	}, conns: []string{
		"any:0>vip:53 template d call a84b4c76e66710@pc33.atlanta.exa…", "any:0>vip:53 template e call f81d4fae-7dec-11d0-a765",
		"c2:1>vip:53 UDP e 1", "c2:40000>vip:53 UDP d 1", "c:1>vip:53 UDP e 1", "c:40000>vip:53 UDP d 2",
	}},
	{name: "sip: clients are apart", setup: func(r *rig) { sip("dns")(r); r.persist("dns", 300) }, steps: []step{
		{send: udp(saying(request("INVITE", secondCall))), want: begins("d")},
		{send: udp(saying(request("INVITE", secondCall)), second), want: begins("e")},
		{send: udp(saying(request("BYE", secondCall)), from(1)), want: begins("d")},
	}, conns: []string{
		"c2:0>vip:53 template e call f81d4fae-7dec-11d0-a765", "c:0>vip:53 template d call f81d4fae-7dec-11d0-a765",
		"c2:40000>vip:53 UDP e 1", "c:1>vip:53 UDP d 1", "c:40000>vip:53 UDP d 1",
	}},
	{name: "sip: what has no Call-ID is dropped", setup: both2(sip("dns"), func(r *rig) { sip("web")(r) }), steps: []step{
		{send: udp(), want: untouched("drop_no_call_id")},
		{send: udp(noData), want: untouched("drop_no_call_id")},
		{send: udp(saying(request("INVITE", "Call-Info: <x>"))), want: untouched("drop_no_call_id")},
		{send: tcp(syn), want: untouched("drop_no_call_id")},
		{send: tcp(ack), want: untouched("pass_no_connection")},
	}},
	{name: "sip: a quiesced real server", setup: sip("dns"), steps: []step{
		{send: udp(saying(request("INVITE", secondCall))), want: begins("d")},
		{before: unusable("d"), send: udp(saying(request("BYE", secondCall)), from(1)), want: begins("d")},
		{send: udp(saying(request("INVITE", "i: another")), from(2)), want: begins("e")},
		{before: unwell("d"), send: udp(saying(request("BYE", secondCall)), from(3)), want: begins("e")},
	}, conns: []string{
		"any:0>vip:53 template e call another", "any:0>vip:53 template e call f81d4fae-7dec-11d0-a765",
		"c:1>vip:53 UDP d 1", "c:2>vip:53 UDP e 1", "c:3>vip:53 UDP e 1", "c:40000>vip:53 UDP d 1",
	}},
	{name: "sip: one packet", setup: both2(sip("dns"), flagged("dns", ServiceOnePacket)), steps: []step{
		{send: udp(saying(request("INVITE", firstCall))), want: onePacket("d")},
		{send: udp(saying(request("INVITE", "i: x"))), want: onePacket("e")},
		{send: udp(saying(request("ACK", firstCall))), want: onePacket("d")},
		{send: udp(saying(request("BYE", "i: x"))), want: onePacket("e")},
		{send: udp(), want: untouched("drop_no_call_id")},
		{send: sipPiece(0, 9, "i: x"), want: onePacket("e")},
		{send: sipPiece(1, 9, "i: x"), want: want{verdict: "tx_one_packet", real: "e"}},
		{send: sipPiece(1, 8, "i: x"), want: untouched("pass_fragment")},
	}, conns: []string{
		"any:0>vip:53 template d call a84b4c76e66710@pc33.atlanta.exa…", "any:0>vip:53 template e call x",
	}},
	{name: "sip: fragments of a stored flow", setup: sip("dns"), steps: []step{
		{send: sipPiece(0, 9, "i: x"), want: begins("d")},
		{send: sipPiece(1, 9, "i: x"), want: known("d")},
	}, conns: []string{"any:0>vip:53 template d call x", "c:40000>vip:53 UDP d 2"}},
	{name: "sip: sorry servers need no Call-ID", setup: both2(sip("dns"), both2(apologizes("dns", "x"), flagged("dns", ServiceNoQuorum))), steps: []step{
		{send: udp(), want: begins("x")},
	}, conns: []string{"c:40000>vip:53 UDP x 1"}},
	{name: "sip: no real server", setup: both2(sip("dns"), both2(apologizes("dns", "x"), unusable("d", "e"))), steps: []step{
		{send: udp(saying(request("INVITE", firstCall))), want: begins("x")},
	}, conns: []string{"c:40000>vip:53 UDP x 1"}},
}

// sipPiece is the nth piece of a SIP message of a call.
func sipPiece(n int, id uint32, call string) send {
	return func(f family) []byte {
		var layers []packet.Layer
		newSend(packet.UDP{SrcPort: clientPort, DstPort: dnsPort}, saying(request("INVITE", call)),
			func(m *message) { layers = m.layers() })(f)
		return packet.Fragments(id, 256, layers...)[n]
	}
}

// callTests are Call-IDs in messages; where there is none the id is empty.
var callTests = []struct{ name, text, id string }{
	{"long form", "INVITE\r\nCall-ID: a@b\r\n", "a@b"},
	{"short form", "INVITE\r\ni: a@b\r\n", "a@b"},
	{"upper case", "X\r\nCALL-ID:a\r\n", "a"},
	{"lower case", "X\r\ncall-id:a\r\n", "a"},
	{"short, upper case", "X\r\nI:a\r\n", "a"},
	{"blanks around the colon", "X\r\nCall-ID \t : \t a\r\n", "a"},
	{"folded", "X\r\nCall-ID\r\n :\r\n\ta\r\n", "a"},
	{"line feeds only", "X\nVia: y\nCall-ID: a\n", "a"},
	{"carriage returns only", "X\rCall-ID: a\r", "a"},
	{"an empty line before", "\r\n\r\nX\r\nCall-ID: a\r\n", "a"},
	{"the first counts", "X\r\ni: a\r\nCall-ID: b\r\n", "a"},
	{"every character of a word", "X\r\ni: aZ09-.!%*_+`'~()<>:\\\"/[]?{}@x\r\n", "aZ09-.!%*_+`'~()<>:\\\"/[]?{}@x"},
	{"as long as can be", "X\r\ni: " + strings.Repeat("x", 255) + "\r\n", strings.Repeat("x", 255)},
	{"as long as is shown", "X\r\ni: " + strings.Repeat("x", 31) + "\r\n", strings.Repeat("x", 31)},
	{"one more", "X\r\ni: " + strings.Repeat("x", 31) + "y\r\n", strings.Repeat("x", 31) + "y"},
	{"far behind", "X\r\n" + strings.Repeat("Via: y\r\n", 250) + "i: a\r\n", "a"},
	{"letters above ASCII", "X\r\ni: \xe9\xc0\r\n", "\xe9\xc0"},
	{"a header before that has no value", "X\r\nCall-ID:\r\ni: a\r\n", "a"},
	{"an at sign without a host", "X\r\ni: a@\r\nCall-ID: b\r\n", "b"},

	{"too long", "X\r\ni: " + strings.Repeat("x", 256) + "\r\n", ""},
	{"farther than is looked", "X\r\n" + strings.Repeat("Via: y\r\n", 256) + "i: a\r\n", ""},
	{"in the first line", "Call-ID: a\r\n", ""},
	{"not at the beginning of a line", "X\r\nVia: Call-ID: a\r\n", ""},
	{"in a line that goes on", "X\r\nVia: y\r\n Call-ID: a\r\n", ""},
	{"another header", "X\r\nCall-Info: a\r\n", ""},
	{"a longer name", "X\r\nCall-IDs: a\r\n", ""},
	{"a longer short name", "X\r\nix: a\r\n", ""},
	{"no colon", "X\r\nCall-ID a\r\n", ""},
	{"no value", "X\r\nCall-ID:\r\n", ""},
	{"two words", "X\r\nCall-ID: a b\r\n", ""},
	{"a blank behind", "X\r\nCall-ID: a \r\n", ""},
	{"two at signs", "X\r\ni: a@b@c\r\n", ""},
	{"no end", "X\r\nCall-ID: a", ""},
	{"cut in the name", "X\r\nCall-", ""},
	{"a carriage return for the hyphen", "X\r\nCall\rID: a\r\n", ""},
	{"a sign between letters of word", "X\r\ni: a\x80b\r\n", ""},
	{"multiplication is no letter", "X\r\ni: \xd7\r\n", ""},
	{"nothing", "", ""},
}

func TestCallID(t *testing.T) {
	for _, f := range families {
		for _, test := range callTests {
			t.Run(f.name+"/"+test.name, func(t *testing.T) {
				if id := callOf([]byte(test.text)); id != test.id {
					t.Fatalf("the reference finds %q, want %q", id, test.id)
				}
				r := smallRig(t, f)
				sip("dns")(r)
				r.mustCall(t, []byte(test.text))
			})
		}
	}
}

// mustCall sends a text and fails unless the data plane finds what the reference finds.
func (r *rig) mustCall(t *testing.T, text []byte) {
	t.Helper()
	r.forget()
	id := callOf(text)
	got := r.send(t, udp(saying(string(text)))(r.f))
	if id == "" {
		mustVerdict(t, "without a Call-ID", got, "drop_no_call_id")
		return
	}
	mustVerdict(t, "with Call-ID "+id, got, "tx_new")
	for i := range r.Conns6 {
		c := &r.Conns6[i]
		if _, shown, cut, ok := TemplateCall(c); ok {
			want := id[:min(len(id), len(c.Text)-1)]
			if string(shown) != want || cut != (len(id) > len(want)) || c.Call != r.callHash(id) {
				t.Errorf("Call-ID %q is %q, cut %v, hash %x, want %x", id, shown, cut, c.Call, r.callHash(id))
			}
			return
		}
	}
	t.Errorf("no template for Call-ID %q", id)
}

// callHash is what call_take does with each character.
func (r *rig) callHash(id string) uint64 {
	k := &r.Settings.HashKey
	h := uint64(k.Word[0]) | uint64(k.Word[1])<<32
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * k.Factor
		h ^= h >> 29
	}
	return h
}

// callOf is the Call-ID of a message, empty if it has none: sip.h by a regular expression.
func callOf(text []byte) string {
	text = text[:min(len(text), 2048)]
	latin := make([]rune, len(text))
	for i, b := range text {
		latin[i] = rune(b)
	}
	for at := range latin {
		if begins := at > 0 && (latin[at-1] == '\n' || latin[at-1] == '\r' && latin[at] != '\n'); !begins {
			continue
		}
		m := callHeader.FindStringSubmatch(string(latin[at:]))
		if m == nil {
			continue
		}
		id, end := []rune(m[1]), m[2]
		if end == "@" && len(id) < 255 && !strings.Contains(m[1], "@") {
			continue
		}
		if end != "\r" && end != "\n" || len(id) > 255 {
			return ""
		}
		return latin1(id)
	}
	return ""
}

func latin1(text []rune) string {
	b := make([]byte, len(text))
	for i, r := range text {
		b[i] = byte(r)
	}
	return string(b)
}

var callHeader = func() *regexp.Regexp {
	const word, gap = "[-a-zA-Z0-9.!%*_+`'~()<>:\\\\\"/\\[\\]?{}\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff]+", `(?:(?:\r\n|\r|\n)?[ \t])*`
	return regexp.MustCompile(`^(?:(?i:call-id)|[iI])` + gap + ":" + gap + "(" + word + "(?:@" + word + `)?)((?s:.)?)`)
}()

// TestCallsAgree sends messages that are nearly right.
func TestCallsAgree(t *testing.T) {
	random := newRandom(t)
	for _, f := range families {
		r := smallRig(t, f)
		sip("dns")(r)
		found := 0
		for range 2000 {
			text := randomMessage(random)
			r.mustCall(t, text)
			if callOf(text) != "" {
				found++
			}
		}
		if found < 200 || found > 1800 {
			t.Errorf("%d of 2000 messages had a Call-ID: too one-sided", found)
		}
		r.check(t)
	}
}

// randomMessage is pieces of messages, in any order.
func randomMessage(random *rand.Rand) []byte {
	pieces := []string{"\r\n", "\r\n", "\r\n", "\r", "\n", " ", "\t", ":", ":", "Call-ID", "call-iD", "CALL-ID:", "i", "I:", "i:", "ii", "a@b", "x", "x@", "@", "abc", ",", "\x00", "\xe9", "\xf7",
		"\r\ni: a@b\r\n", "\r\nCall-ID:", "\r\nCall-ID: ", strings.Repeat("y", 60), strings.Repeat("z", 200), "Via: x\r\n"}
	var b bytes.Buffer
	for range 1 + random.IntN(14) {
		b.WriteString(pieces[random.IntN(len(pieces))])
	}
	return b.Bytes()
}

// FuzzCallID: whatever a datagram says, the data plane finds the Call-ID that the regular expression finds.
func FuzzCallID(f *testing.F) {
	for _, test := range callTests {
		f.Add([]byte(test.text))
	}
	f.Add([]byte(request("INVITE", firstCall)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > frameMax-100 {
			t.Skip("no frame that a test run takes")
		}
		r := rigs[smallSizes]
		if r == nil || r.service("dns").Flags&ServiceSIP == 0 {
			r = smallRig(t, families[0])
			sip("dns")(r)
		}
		r.mustCall(t, text)
		r.check(t)
	})
}
