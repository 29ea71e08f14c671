// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// said is a Dialer of connections to a server that says this and is gone.
type said struct{ text string }

// DialContext is Dialer's.
func (s said) DialContext(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		go io.Copy(io.Discard, server)
		io.WriteString(server, s.text)
		server.Close()
	}()
	return client, nil
}

// FuzzServer lets servers say anything: the check ends, does not fail itself, and its evidence is short
// and printable; it is never unknown, as it was sent.
func FuzzServer(f *testing.F) {
	checkers := allOverTCP()
	checkers["sipudp"] = must(NewSIP(SIPOptions{}))
	checkers["radius"] = must(NewRADIUS(RADIUSOptions{Secret: NewSecret("x"), User: "joe"}))
	checkers["dnsudp"] = must(NewDNS(DNSOptions{}))
	kinds := slices.Sorted(maps.Keys(checkers))
	for i := range kinds {
		for _, text := range []string{
			"", "220 hi\r\n250-a\r\n250 STARTTLS\r\n221 bye\r\n", "+OK\r\n+OK\r\n", "* OK\r\na1 OK\r\n", "+PONG\r\n", "-ERR\r\n", "$3\r\nabc\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n",
			"RTSP/1.0 401 no\r\nCSeq: 1\r\nWWW-Authenticate: Digest realm=\"a\\\"b\", nonce=x\r\n\r\n", "SIP/2.0 200 OK\r\nCall-ID: x\r\n\r\n",
			"J\x00\x00\x00\x0a5.5.5\x00\x01\x00\x00\x00abcdefgh\x00\xff\xf7\x21\x02\x00\x7f\x80\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00abcdefghijkl\x00mysql_native_password\x00",
			"R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I", "E\x00\x00\x00\x0bSFATAL\x00\x00", "\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
			"\x00\x1d\x00\x00\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00", "\x16\x03\x03\x00\x02\x02\x00", "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "ready\n",
		} {
			f.Add(i, []byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, kind int, text []byte) {
		if kind < 0 || kind >= len(kinds) {
			t.Skip("no such kind")
		}
		target := Target{Address: netip.MustParseAddrPort("192.0.2.1:1"), Dialer: said{string(text)}}
		r := askWithin(t, checkers[kinds[kind]], target, 2*time.Second)
		if r.Verdict == Unknown {
			t.Errorf("%s: %s", kinds[kind], r)
		}
	})
}
