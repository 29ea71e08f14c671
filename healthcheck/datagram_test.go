// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// refusingUDP is a target whose port nobody has.
func refusingUDP(t testing.TB) Target {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	return Target{Address: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// allOverUDP has a checker of each kind that waits for a datagram.
func allOverUDP() map[string]Checker {
	return map[string]Checker{
		"datagram":       must(NewUDP(UDPOptions{Reply: true})),
		"query":          must(NewDNS(DNSOptions{})),
		"OPTIONS":        must(NewSIP(SIPOptions{})),
		"Status-Server":  must(NewRADIUS(RADIUSOptions{Secret: NewSecret("x")})),
		"Access-Request": must(NewRADIUS(RADIUSOptions{Secret: NewSecret("x"), User: "joe"})),
	}
}

// TestDatagramsMisbehaving has servers that are not there, say nothing, or do not stop saying nonsense.
func TestDatagramsMisbehaving(t *testing.T) {
	refusing := refusingUDP(t)
	silent := serveUDP(t, func([]byte) [][]byte { return nil })
	flood := serveUDP(t, func(request []byte) [][]byte {
		b := bytes.Repeat([]byte{'x'}, 1000)
		return [][]byte{b, b, b, b, b, b, b, b}
	})
	for what, c := range allOverUDP() {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			wants(t, ask(t, c, refusing), "down L4CON: ")
			wants(t, askWithin(t, c, silent, shortTime), "down L7TOUT: answer to "+what)
			if what == "query" || what == "Access-Request" || what == "Status-Server" { // others take any answer for theirs
				wants(t, askWithin(t, c, flood, shortTime), "down L7TOUT: answer to "+what)
			}
		})
	}
}

// TestDatagramLost has a server that hears only the second datagram.
func TestDatagramLost(t *testing.T) {
	var heard atomic.Int32
	target := serveUDP(t, func(b []byte) [][]byte {
		if heard.Add(1) == 1 {
			return nil
		}
		return [][]byte{b}
	})
	wants(t, ask(t, must(NewUDP(UDPOptions{Send: []byte("ping"), Expect: Pattern{Text: "ping"}})), target), `up L7OK: "ping"`)
}

func TestUDP(t *testing.T) {
	echo := serveUDP(t, func(b []byte) [][]byte { return [][]byte{append([]byte("echo "), b...)} })
	silent := serveUDP(t, func([]byte) [][]byte { return nil })
	for _, c := range []struct {
		name   string
		target Target
		o      UDPOptions
		want   string
	}{
		{"reply", echo, UDPOptions{Send: []byte("hi"), Reply: true}, `up L7OK: "echo hi"`},
		{"expect", echo, UDPOptions{Send: []byte("hi"), Expect: Pattern{Regex: "^echo hi$"}}, `up L7OK: "echo hi"`},
		{"other reply", echo, UDPOptions{Send: []byte("hi"), Expect: Pattern{Text: "yes"}}, `down L7STS: "echo hi" does not contain "yes"`},
		{"too short", echo, UDPOptions{MinLength: 10}, "down L7RSP: an answer of 5 bytes, want 10 to 4096"},
		{"too long", echo, UDPOptions{Reply: true, MaxLength: 4}, "down L7RSP: an answer of 5 bytes, want 0 to 4"},
		{"no ICMP error", silent, UDPOptions{Wait: 20 * time.Millisecond}, "up L4OK: no ICMP error"},
		{"ICMP error", refusingUDP(t), UDPOptions{Wait: 5 * time.Second}, "down L4CON: connect to 127.0.0.1:"},
		{"answer that nobody needs", echo, UDPOptions{}, "up L4OK: answered"},
	} {
		t.Run(c.name, func(t *testing.T) { wants(t, ask(t, must(NewUDP(c.o)), c.target), c.want) })
	}
	// The wait ends before the timeout does: silence is no timeout here.
	wants(t, askWithin(t, must(NewUDP(UDPOptions{Wait: time.Minute})), silent, shortTime), "up L4OK: no ICMP error")
	_, err := NewUDP(UDPOptions{Send: make([]byte, 2000), MinLength: 9, MaxLength: 3, Wait: -1})
	for _, want := range []string{"udp check: send: 2000 bytes are more than 1400", "udp check: length: 9 to 3 is not within 0 to 4096", "udp check: wait: -1ns is negative"} {
		wantError(t, err, want)
	}
}

// zone answers queries for www.example. and, truncated over UDP, for long.example.
func zone(query []byte, overTCP bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 60}
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: body})
	}
	switch q.Name.String() + " " + q.Type.String() {
	case "www.example. TypeA":
		add(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})
		add(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 2}})
	case "www.example. TypeAAAA":
		add(&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::1").As16()})
	case "example. TypeMX":
		add(&dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName("mail.example.")})
	case "example. TypeTXT":
		add(&dnsmessage.TXTResource{TXT: []string{"one ", "two"}})
	case "_sip._udp.example. TypeSRV":
		add(&dnsmessage.SRVResource{Priority: 1, Weight: 2, Port: 5060, Target: dnsmessage.MustNewName("sip.example.")})
	case ". TypeSOA":
		add(&dnsmessage.SOAResource{NS: dnsmessage.MustNewName("a.example."), MBox: dnsmessage.MustNewName("b.example."), Serial: 7})
	case "long.example. TypeTXT":
		m.Truncated = !overTCP
		if overTCP {
			add(&dnsmessage.TXTResource{TXT: []string{"over TCP"}})
		}
	case "empty.example. TypeA":
	case "refused.example. TypeA":
		m.RCode, m.Authoritative = dnsmessage.RCodeRefused, false
	default:
		m.RCode = dnsmessage.RCodeNameError
	}
	b, _ := m.Pack()
	return b
}

// serveDNS listens with UDP and TCP at the same port.
func serveDNS(t *testing.T) Target {
	for range 20 {
		target := serveUDP(t, func(b []byte) [][]byte {
			stray := bytes.Clone(b)
			stray[0]++ // the id of another query comes first
			return [][]byte{zone(stray, false), []byte("garbage"), zone(b, false)}
		})
		listener, err := net.Listen("tcp", target.Address.String())
		if err != nil {
			continue
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				if query, err := readMessage(c); err == nil {
					answer := zone(query, true)
					c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
				}
				c.Close()
			}
		}()
		return target
	}
	t.Fatal("no port is free for both UDP and TCP")
	return Target{}
}

func TestDNS(t *testing.T) {
	target := serveDNS(t)
	for _, c := range []struct {
		name string
		o    DNSOptions
		want string
	}{
		{"default", DNSOptions{}, "up L7OK: NOERROR, 1 records"},
		{"serial", DNSOptions{Match: Pattern{Regex: `^a\.example\. b\.example\. 7$`}}, "up L7OK: NOERROR"},
		{"addresses", DNSOptions{Name: "www.example", Type: "a", Answers: []string{"192.0.2.2", "192.0.2.1"}}, "up L7OK: NOERROR, 2 records"},
		{"address missing", DNSOptions{Name: "www.example", Type: "A", Answers: []string{"192.0.2.3"}}, `down L7STS: www.example. A is "192.0.2.1, 192.0.2.2", not "192.0.2.3"`},
		{"a part is not the whole", DNSOptions{Name: "www.example", Type: "A", Answers: []string{"192.0.2"}}, `down L7STS: www.example. A is`},
		{"IPv6", DNSOptions{Name: "www.example", Type: "AAAA", Answers: []string{"2001:DB8::1"}}, "up L7OK"},
		{"MX over TCP", DNSOptions{Name: "example", Type: "MX", TCP: true, Answers: []string{"10 mail.example."}}, "up L7OK"},
		{"TXT", DNSOptions{Name: "example", Type: "TXT", Answers: []string{"one two"}}, "up L7OK"},
		{"SRV", DNSOptions{Name: "_sip._udp.example", Type: "SRV", Answers: []string{"1 2 5060 sip.example."}}, "up L7OK"},
		{"truncated", DNSOptions{Name: "long.example", Type: "TXT", Answers: []string{"over TCP"}}, "up L7OK"},
		{"no such name", DNSOptions{Name: "x.example", Type: "A"}, "down L7STS/3: NXDOMAIN for x.example. A, want NOERROR"},
		{"no such name wanted", DNSOptions{Name: "x.example", Type: "A", Codes: []string{"NOERROR", "NXDOMAIN"}}, "up L7OK: NXDOMAIN, 0 records"},
		{"no record", DNSOptions{Name: "empty.example", Type: "A"}, "down L7STS: NOERROR for empty.example. A, without a record"},
		{"no record wanted", DNSOptions{Name: "empty.example", Type: "A", Empty: true}, "up L7OK: NOERROR, 0 records"},
		{"authoritative", DNSOptions{Authoritative: true}, "up L7OK"},
		{"not authoritative", DNSOptions{Name: "refused.example", Type: "A", Codes: []string{"REFUSED"}, Authoritative: true}, "down L7STS/5: the answer is not authoritative"},
		{"recursion", DNSOptions{Recursive: true}, "down L7STS: the server offers no recursion"},
		{"match", DNSOptions{Match: Pattern{Text: " 8"}}, `down L7STS: . SOA: "a.example. b.example. 7" does not contain " 8"`},
	} {
		t.Run(c.name, func(t *testing.T) { wants(t, ask(t, must(NewDNS(c.o)), target), c.want) })
	}
	_, err := NewDNS(DNSOptions{Name: strings.Repeat("x", 80) + ".example", Type: "LOC", Codes: []string{"OK"}})
	for _, want := range []string{"is no domain name", `dns check: type: unknown "LOC" (known: A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT)`, `dns check: codes[0]: unknown "OK" (known: NOERROR, `} {
		wantError(t, err, want)
	}
}

func TestSIP(t *testing.T) {
	answer := func(status string) func([]byte) [][]byte {
		return func(request []byte) [][]byte {
			text, call := string(request), ""
			for line := range strings.Lines(text) {
				if id, ok := strings.CutPrefix(line, "Call-ID: "); ok {
					call = strings.TrimSpace(id)
				}
			}
			head := func(status, call string) []byte {
				return []byte("SIP/2.0 " + status + "\r\nCSeq: 1 OPTIONS\r\ni: " + call + "\r\nContent-Length: 0\r\n\r\n")
			}
			return [][]byte{head("100 Trying", call), head("500 for somebody else", "other"), head(status, call)}
		}
	}
	ok := serveUDP(t, answer("200 OK"))
	wants(t, ask(t, must(NewSIP(SIPOptions{})), ok), "up L7OK/200: OPTIONS")
	busy := serveUDP(t, answer("503 Service Unavailable"))
	wants(t, ask(t, must(NewSIP(SIPOptions{})), busy), "down L7STS/503: OPTIONS: SIP/2.0 503 Service Unavailable, want 200-299")
	wants(t, ask(t, must(NewSIP(SIPOptions{Status: "200 503"})), busy), "up L7OK/503: OPTIONS")
	nonsense := serveUDP(t, func([]byte) [][]byte { return [][]byte{[]byte("hello")} })
	wants(t, ask(t, must(NewSIP(SIPOptions{})), nonsense), `down L7RSP: answer to OPTIONS: no answer of SIP: "hello"`)

	dialogue{"TCP", must(NewSIP(SIPOptions{Transport: "tcp", User: "ping", Domain: "sip.example"})), `
		< OPTIONS sip:ping@sip.example SIP/2.0
		< Via: SIP/2.0/TCP 127.0.0.1:\d+;branch=z9hG4bK\w+;rport
		> SIP/2.0 404 Not Found
		> Call-ID: other
		>
		>> SIP/2.0 200`, "down L7RSP: answer to OPTIONS: the server closed the connection after \"SIP/2.0 200\""}.run(t, newAuthority(t))
	_, err := NewSIP(SIPOptions{Transport: "sctp", User: "a@b", Domain: "x y", Status: "100"})
	for _, want := range []string{`sip check: transport: unknown "sctp" (known: udp, tcp, tls)`, `sip check: user: "a@b" is no user`, `sip check: domain: "x y" is no domain`,
		`sip check: status: "100" is no status between 200 and 699`} {
		wantError(t, err, want)
	}
}

// radiusServer answers as RFC 2865 and 5997 have it, after it has verified the request.
func radiusServer(t *testing.T, secret string) Target {
	return serveUDP(t, func(request []byte) [][]byte {
		attributes := map[byte][]byte{}
		for a := request[20:]; len(a) >= 2; a = a[a[1]:] {
			attributes[a[0]] = a[2:a[1]]
		}
		mac := bytes.Clone(attributes[80])
		copy(attributes[80], make([]byte, 16))
		h := hmac.New(md5.New, []byte(secret))
		h.Write(request)
		if !hmac.Equal(h.Sum(nil), mac) {
			return nil // a wrong secret
		}
		code := byte(2)
		if request[0] == 1 {
			key := md5.Sum(append([]byte(secret), request[4:20]...))
			password := bytes.Clone(attributes[2])
			for i := range 16 {
				password[i] ^= key[i]
			}
			if string(attributes[1]) != "joe" || string(bytes.TrimRight(password, "\x00")) != "s3cret!" {
				code = 3
			}
		}
		body := append([]byte{code, request[1], 0, 0}, request[4:20]...)
		body = append(body, 18, 7, 'h', 'e', 'l', 'l', 'o')
		body[3] = byte(len(body))
		sum := md5.Sum(append(bytes.Clone(body), secret...))
		copy(body[4:20], sum[:])
		other := bytes.Clone(body)
		other[1]++ // to another request
		return [][]byte{other, body}
	})
}

func TestRADIUS(t *testing.T) {
	target := radiusServer(t, "shared")
	secret := NewSecret("shared")
	for _, c := range []struct {
		name string
		o    RADIUSOptions
		want string
	}{
		{"status", RADIUSOptions{Secret: secret}, `up L7OK/2: Access-Accept: "hello"`},
		{"accept", RADIUSOptions{Secret: secret, User: "joe", Password: NewSecret("s3cret!")}, `up L7OK/2: Access-Accept: "hello"`},
		{"reject", RADIUSOptions{Secret: secret, User: "joe", Password: NewSecret("wrong")}, `down L7STS/3: Access-Reject: "hello"`},
		{"reject will do", RADIUSOptions{Secret: secret, User: "jim", Reject: true}, `up L7OK/3: Access-Reject: "hello"`},
	} {
		t.Run(c.name, func(t *testing.T) { wants(t, ask(t, must(NewRADIUS(c.o)), target), c.want) })
	}
	wants(t, askWithin(t, must(NewRADIUS(RADIUSOptions{Secret: NewSecret("other")})), target, shortTime),
		"down L7TOUT: answer to Status-Server (a wrong secret gets none): no answer in time")
	forged := serveUDP(t, func(request []byte) [][]byte {
		return [][]byte{append([]byte{2, request[1], 0, 20}, make([]byte, 16)...)}
	})
	wants(t, ask(t, must(NewRADIUS(RADIUSOptions{Secret: secret})), forged), "down L7RSP/2: the answer is not signed with our secret")
	cut := serveUDP(t, func(request []byte) [][]byte {
		return [][]byte{append([]byte{2, request[1], 9, 9}, make([]byte, 16)...)}
	})
	wants(t, ask(t, must(NewRADIUS(RADIUSOptions{Secret: secret})), cut), "down L7RSP: no answer of RADIUS: 20 bytes that say they are 2313")
	_, err := NewRADIUS(RADIUSOptions{Reject: true, Password: NewSecret(strings.Repeat("x", 129))})
	for _, want := range []string{"radius check: secret: missing", "radius check: user: missing beside a password or reject", "radius check: password: more than 128 bytes"} {
		wantError(t, err, want)
	}
}

// needRaw skips tests that cannot open raw sockets.
func needRaw(t testing.TB) {
	t.Helper()
	c, err := net.ListenPacket("ip4:icmp", "127.0.0.1")
	if os.IsPermission(err) {
		t.Skip("needs CAP_NET_RAW, for raw sockets")
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestICMP(t *testing.T) {
	needRaw(t)
	for _, address := range []string{"127.0.0.1", "::1"} {
		for _, size := range []int{0, 8, 1400} {
			target := Target{Address: netip.AddrPortFrom(netip.MustParseAddr(address), 0)}
			wants(t, ask(t, must(NewICMP(ICMPOptions{Size: size})), target), "up L4OK: echo reply")
		}
	}
	_, err := NewICMP(ICMPOptions{Size: 2000})
	wantError(t, err, "icmp check: size: 2000 is not between 8 and 1400")
}

func TestHalfOpen(t *testing.T) {
	needRaw(t)
	accepted := make(chan struct{}, 10)
	target := serve(t, func(net.Conn) { accepted <- struct{}{} })
	half, whole := must(NewTCP(TCPOptions{HalfOpen: true})), must(NewTCP(TCPOptions{Reset: true}))
	wants(t, ask(t, half, target), "up L4OK: half-open")
	select {
	case <-accepted:
		t.Error("the server has seen a connection")
	case <-time.After(100 * time.Millisecond):
	}
	wants(t, ask(t, whole, target), "up L4OK")
	<-accepted
	gone := refusing(t)
	wants(t, ask(t, half, gone), fmt.Sprintf("down L4CON: connect to %s: connection refused", gone.Address))

	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	wants(t, ask(t, half, Target{Address: netip.MustParseAddrPort(listener.Addr().String())}), "up L4OK: half-open")
	_, err = NewTCP(TCPOptions{HalfOpen: true, Reset: true})
	wantError(t, err, "tcp check: reset: a half-open check always ends with one")
}

// TestHalfOpenResets sees the probe's own reset on the wire: the kernel's, which comes as well where no
// firewall minds, has no window.
func TestHalfOpenResets(t *testing.T) {
	needRaw(t)
	wire, err := net.ListenPacket("ip4:tcp", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	target := serve(t, func(net.Conn) {})
	wants(t, ask(t, must(NewTCP(TCPOptions{HalfOpen: true})), target), "up L4OK: half-open")
	wire.SetReadDeadline(time.Now().Add(5 * time.Second))
	for b := make([]byte, 1500); ; {
		n, _, err := wire.ReadFrom(b)
		if err != nil {
			t.Fatalf("no reset with a window: %v", err)
		}
		port, window := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b[14:])
		if n >= tcpHeader && port == target.Address.Port() && b[13] == flagRST && window == 65535 {
			return
		}
	}
}

// TestReset sees how a connection ends at the server.
func TestReset(t *testing.T) {
	for reset, want := range map[bool]string{false: "EOF", true: "connection reset by peer"} {
		ended := make(chan error, 1)
		target := serve(t, func(c net.Conn) {
			time.Sleep(50 * time.Millisecond)
			_, err := c.Read(make([]byte, 1))
			ended <- err
		})
		wants(t, ask(t, must(NewTCP(TCPOptions{Reset: reset})), target), "up L4OK")
		if err := <-ended; !strings.Contains(err.Error(), want) {
			t.Errorf("reset %t: the server sees %v, want %s", reset, err, want)
		}
	}
}

// TestNoPort is a target that only checks without ports can have.
func TestNoPort(t *testing.T) {
	target := Target{Address: netip.MustParseAddrPort("127.0.0.1:0")}
	wants(t, ask(t, must(NewTCP(TCPOptions{})), target), "unknown SOCKERR: connect to 127.0.0.1: the check needs a port")
	wants(t, ask(t, must(NewUDP(UDPOptions{})), target), "unknown SOCKERR: connect to 127.0.0.1: the check needs a port")
}
