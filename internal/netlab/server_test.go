// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// transferBytes is what one direction of a transfer test carries.
func transferBytes() int64 {
	if testing.Short() {
		return 10e6
	}
	return 100e6
}

func TestHTTPServer(t *testing.T) {
	p := newPair(t)
	server := need(p.b.ServeHTTP("real1", addrPort("10.0.0.2:80"), addrPort("[fd00::2]:80")))(t)
	client := p.a.HTTPClient(5 * time.Second)
	for base, from := range map[string]string{"http://10.0.0.2": "10.0.0.1:", "http://[fd00::2]": "[fd00::1]:"} {
		body, header := get(t, client, base+"/")
		if body != "real1\n" || header.Get("X-Real-Server") != "real1" || !strings.HasPrefix(header.Get("X-Client"), from) {
			t.Errorf("%s: %q %v", base, body, header)
		}
		if body, _ := get(t, client, base+"/bytes/12345"); checksumOf(strings.NewReader(body)) != Checksum(12345) {
			t.Errorf("%s: /bytes/12345 is another text", base)
		}
		if body, _ := get(t, client, base+"/slow/3/1ms"); body != "line 0\nline 1\nline 2\n" {
			t.Errorf("%s: /slow/3/1ms is %q", base, body)
		}
	}
	if n := server.Requests(); n != 6 {
		t.Errorf("%d requests, want 6", n)
	}
}

func TestHTTPServerRefuses(t *testing.T) {
	p := newPair(t)
	need(p.b.ServeHTTP("b", addrPort("10.0.0.2:80")))(t)
	client := p.a.HTTPClient(5 * time.Second)
	for path, status := range map[string]int{
		"/bytes/x": 400, "/bytes/-1": 400, "/slow/x": 400, "/slow/1/soon": 400, "/slow/1/-1s": 400, "/other": 404, "/sum": 405,
	} {
		answer := need(client.Get("http://10.0.0.2" + path))(t)
		answer.Body.Close()
		if answer.StatusCode != status || answer.Header.Get("X-Real-Server") != "b" {
			t.Errorf("%s: %s, want %d; %v", path, answer.Status, status, answer.Header)
		}
	}
}

func TestHTTPServerClose(t *testing.T) {
	p := newPair(t)
	server := need(p.b.ServeHTTP("b", addrPort("10.0.0.2:80")))(t)
	must(t, server.Close())
	must(t, server.Close())
	if _, err := p.a.HTTPClient(time.Second).Get("http://10.0.0.2/"); err == nil {
		t.Error("a closed server answers")
	}
	need(p.b.ServeHTTP("b", addrPort("10.0.0.2:80")))(t) // the address is free again
}

// transfer downloads and uploads n bytes and compares checksums.
func transfer(t *testing.T, client *http.Client, base string, n int64) {
	t.Helper()
	answer := need(client.Get(fmt.Sprintf("%s/bytes/%d", base, n)))(t)
	defer answer.Body.Close()
	if checksumOf(answer.Body) != Checksum(n) {
		t.Errorf("%s: the download is not whole", base)
	}
	answer = need(client.Post(base+"/sum", "application/octet-stream", Stream(n)))(t)
	defer answer.Body.Close()
	if sum := need(io.ReadAll(answer.Body))(t); string(sum) != Checksum(n)+"\n" {
		t.Errorf("%s: the upload is not whole", base)
	}
}

func TestTransfer(t *testing.T) {
	p := newPair(t)
	need(p.b.ServeHTTP("b", addrPort("10.0.0.2:80"), addrPort("[fd00::2]:80")))(t)
	client := p.a.HTTPClient(time.Minute)
	transfer(t, client, "http://10.0.0.2", transferBytes())
	transfer(t, client, "http://[fd00::2]", transferBytes())
}

// ask sends one datagram from a and returns the answer. The socket is connected, so that an answer
// from another address than the one asked never arrives.
func ask(t *testing.T, h *Host, to, text string) string {
	t.Helper()
	conn := need(h.DialContext(context.Background(), "udp", to))(t)
	defer conn.Close()
	need(conn.Write([]byte(text)))(t)
	return readDatagram(t, conn)
}

func TestUDPServer(t *testing.T) {
	p := newPair(t)
	server := need(p.b.ServeUDP("real1", addrPort("10.0.0.2:53"), addrPort("[fd00::2]:53")))(t)
	for _, to := range []string{"10.0.0.2:53", "[fd00::2]:53"} {
		for _, text := range []string{"hello", ""} {
			if answer := ask(t, p.a, to, text); answer != "real1 "+text {
				t.Errorf("%s answers %q", to, answer)
			}
		}
	}
	if n := server.Requests(); n != 4 {
		t.Errorf("%d datagrams, want 4", n)
	}
	must(t, server.Close())
	must(t, server.Close())
}

func TestUDPEcho(t *testing.T) {
	p := newPair(t)
	need(p.b.ServeUDPEcho(addrPort("10.0.0.2:7")))(t)
	for _, text := range []string{"hello", strings.Repeat("x", maxDatagram)} {
		if answer := ask(t, p.a, "10.0.0.2:7", text); answer != text {
			t.Errorf("%d bytes come back as %d", len(text), len(answer))
		}
	}
}

// TestUDPCutsAnswer sends the largest datagram to a server that adds its name.
func TestUDPCutsAnswer(t *testing.T) {
	p := newPair(t)
	need(p.b.ServeUDP("b", addrPort("10.0.0.2:7")))(t)
	if answer := ask(t, p.a, "10.0.0.2:7", strings.Repeat("x", maxDatagram)); len(answer) != maxDatagram {
		t.Errorf("%d bytes come back", len(answer))
	}
}

// TestUDPAnswersFromDestination asks servers on 0.0.0.0 and [::] at a virtual address.
func TestUDPAnswersFromDestination(t *testing.T) {
	p := newPair(t)
	need(p.b.ServeUDP("b", addrPort("0.0.0.0:53"), addrPort("[::]:53")))(t)
	for _, text := range []string{"10.0.0.100", "fd00::100"} {
		vip := netip.MustParseAddr(text)
		must(t, p.b.RealServerDR(vip))
		must(t, p.a.SetNeigh("eth0", vip, p.bEnd.MAC))
		if answer := ask(t, p.a, netip.AddrPortFrom(vip, 53).String(), "x"); answer != "b x" {
			t.Errorf("%v answers %q", vip, answer)
		}
	}
}
