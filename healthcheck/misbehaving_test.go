// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// misbehaviours are what servers do instead of answering. All of them read what the client says.
var misbehaviours = map[string]func(net.Conn){
	"silent": func(c net.Conn) { io.Copy(io.Discard, c) },
	"resets": func(c net.Conn) { // not so soon that it looks like a refusal, or that a busy client has not said its part
		time.Sleep(500 * time.Millisecond)
		c.(*net.TCPConn).SetLinger(0)
	},
	"closes": func(c net.Conn) { // without a reset: nothing is left unread
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	},
	"slow": func(c net.Conn) { // a byte from time to time, without an end
		go io.Copy(io.Discard, c)
		for {
			if _, err := c.Write([]byte("2")); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	},
	"endless": func(c net.Conn) { pour(c, bytes.Repeat([]byte("2"), 4096), 1<<30) },
	"lines":   func(c net.Conn) { pour(c, bytes.Repeat([]byte("220-more\r\n"), 400), 1<<30) },
	"banner":  func(c net.Conn) { pour(c, bytes.Repeat([]byte("x"), 4096), 10<<20) },
	"garbage": func(c net.Conn) {
		b := make([]byte, 4096)
		random := rand.New(rand.NewPCG(1, 2))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		pour(c, b, len(b))
		io.Copy(io.Discard, c)
	},
}

// pour says the same again and again, so many bytes in all.
func pour(c net.Conn, b []byte, size int) {
	go io.Copy(io.Discard, c)
	for size > 0 {
		n, err := c.Write(b)
		if err != nil {
			return
		}
		size -= n
	}
}

// shortTime is how long checks wait that get no answer.
const shortTime = 400 * time.Millisecond

// TestMisbehaving lets every checker meet every misbehaviour: each is down, in time, with a code
// and a text that say what happened, and costs little memory.
func TestMisbehaving(t *testing.T) {
	checkers := allOverTCP()
	for name, misbehave := range misbehaviours {
		t.Run(name, func(t *testing.T) {
			target, timeout := serve(t, misbehave), 20*time.Second
			if name == "silent" || name == "slow" || name == "garbage" {
				timeout = shortTime
			}
			before, spent := runtime.NumGoroutine(), allocated()
			results := make(map[string]Result)
			var mu sync.Mutex
			var running sync.WaitGroup
			for kind, c := range checkers {
				running.Go(func() {
					r := askWithin(t, c, target, timeout)
					mu.Lock()
					defer mu.Unlock()
					results[kind] = r
				})
			}
			running.Wait()
			if spent = allocated() - spent; spent > uint64(len(checkers))<<21 {
				t.Errorf("%d bytes were allocated by %d checks", spent, len(checkers))
			}
			for kind, r := range results {
				t.Run(kind, func(t *testing.T) { wants(t, r, wantedOf(name, kind)) })
			}
			noLeaks(t, before)
		})
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// waitsFor is what each checker waits for first, with the layer.
var waitsFor = map[string]string{
	"tls": "6: TLS handshake", "http": "7: response", "http2": "7: response", "https": "6: TLS handshake",
	"smtp": "7: banner", "smtps": "6: TLS handshake", "pop3": "7: banner", "imap": "7: banner", "ftp": "7: banner",
	"ldap": "7: bind", "ldaptls": "7: StartTLS", "redis": "7: answer to AUTH", "mysql": "7: handshake packet",
	"mysqltls": "7: handshake packet", "postgres": "7: login", "postgrestls": "7: login", "rtsp": "7: answer to OPTIONS",
	"dns": "7: answer to query", "sip": "7: answer to OPTIONS", "expect": "7: step 1: /^ready/",
}

// nonsense is what each checker says of bytes without a line end.
var nonsense = map[string]string{
	"tls": "L6RSP: TLS handshake: the server does not speak TLS, it says", "http": "L7RSP: the server does not speak HTTP, it says",
	"http2": "L7RSP: the server does not speak HTTP/2, it says", "ldap": "L7RSP: the server does not speak LDAP, it says",
	"mysql":    "L7RSP: handshake packet: the server does not speak MySQL's protocol, it says",
	"postgres": "L7RSP: the server does not speak PostgreSQL's protocol, it says",
	"dns":      "L7RSP: answer to query: no answer of DNS: ", "expect": "L7RSP: step 1: /^ready/: not in the first 65536 bytes",
}

// wantedOf is what a checker must find, by misbehaviour and kind.
func wantedOf(misbehaviour, kind string) string {
	layer, what, _ := strings.Cut(waitsFor[kind], ": ")
	family := strings.TrimSuffix(kind, "tls")
	if layer == "6" {
		family = "tls"
	}
	silence := fmt.Sprintf("down L%sTOUT: %s: no answer in time", layer, what)
	switch misbehaviour {
	case "silent":
		return silence
	case "closes":
		return fmt.Sprintf("down L%sRSP: %s: the server closed the connection", layer, what)
	case "resets":
		return fmt.Sprintf("down L%sRSP: %s: connection reset by peer", layer, what)
	}
	if special, ok := wantedSpecially[misbehaviour+" "+family]; ok {
		return "down " + special
	}
	if known, ok := nonsense[family]; ok {
		return "down " + known
	}
	return "down " + fmt.Sprintf(map[string]string{
		"banner": "L7RSP: %s: a line of more than 8192 bytes: \"xxx", "endless": "L7RSP: %s: a line of more than 8192 bytes: \"222",
		"slow": "L7TOUT: %s: no whole line in time, only \"22", "lines": "L7RSP: %s: no ", "garbage": "L7RSP: %s: n",
	}[misbehaviour], what)
}

// wantedSpecially are the exceptions.
var wantedSpecially = map[string]string{
	"garbage dns": "L7TOUT: answer to query: no answer in time", "garbage expect": "L7TOUT: step 1: /^ready/: only \"\\x86",
	"slow dns": "L7TOUT: answer to query: no answer in time", "slow expect": "L7TOUT: step 1: /^ready/: only \"222",
	"lines smtp": "L7RSP: banner: a reply of more than 128 lines",
	"lines ftp":  "L7RSP: banner: a reply of more than 128 lines", "lines pop3": "L7RSP: banner: neither +OK nor -ERR: \"220-more\"",
}

// TestRefused is what nobody listens at.
func TestRefused(t *testing.T) {
	target := refusing(t)
	checkers := allOverTCP()
	checkers["tcp"] = must(NewTCP(TCPOptions{}))
	for kind, c := range checkers {
		t.Run(kind, func(t *testing.T) {
			wants(t, ask(t, c, target), fmt.Sprintf("down L4CON: connect to %s: connection refused", target.Address))
		})
	}
}
