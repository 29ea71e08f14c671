// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"xdplvs/director"
)

// oddConns are connections that a director hardly has, besides plain ones.
func oddConns() map[string]director.Conn {
	plain := fakeConn(1)
	odd := map[string]director.Conn{"zero": {}, "ipv4": plain, "ipv6": fakeConn(3)}
	add := func(name string, change func(*director.Conn)) {
		c := plain
		change(&c)
		odd[name] = c
	}
	add("zone", func(c *director.Conn) { c.Client = netip.MustParseAddrPort(`[fe80::1%eth"<0]:1`) })
	add("mapped", func(c *director.Conn) { c.Client = netip.MustParseAddrPort("[::ffff:10.0.0.1]:1") })
	add("mapped zone", func(c *director.Conn) { c.Client = netip.MustParseAddrPort("[::ffff:10.0.0.1%x]:1") })
	add("port without address", func(c *director.Conn) { c.Client = netip.AddrPortFrom(netip.Addr{}, 80) })
	add("unknown protocol", func(c *director.Conn) { c.Protocol = 47 })
	add("local end", func(c *director.Conn) { c.Local = netip.MustParseAddrPort("10.0.0.2:1024") })
	add("no service", func(c *director.Conn) { c.Service = "" })
	add("escapes", func(c *director.Conn) { c.Service = "a\"b\\c<d>&\n\x00\u2028é\xff" })
	add("state", func(c *director.Conn) { c.State = "S-RECEIVED" })
	add("expired", func(c *director.Conn) { c.Expires = -time.Second })
	add("template", func(c *director.Conn) { c.Protocol, c.Mark, c.Controls = 0, 4294967295, 7 })
	add("call", func(c *director.Conn) { c.CallID = "a84b4c76e66710@\"pc33.<atlanta>é…" })
	add("for ever", func(c *director.Conn) { c.Expires = math.MaxInt64 })
	return odd
}

func TestAppendConnEqualsJSON(t *testing.T) {
	for name, c := range oddConns() {
		t.Run(name, func(t *testing.T) { wantSameJSON(t, &c) })
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		c := fakeConn(random.IntN(math.MaxInt32))
		c.Expires = time.Duration(random.Int64())
		wantSameJSON(t, &c)
	}
}

func wantSameJSON(t *testing.T, c *director.Conn) {
	t.Helper()
	want, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := AppendConn(nil, c); string(got) != string(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestDecode: each connection comes back as encoding/json gives it back, and
// the usual ones by the short way.
func TestDecode(t *testing.T) {
	short := map[string]bool{"zero": true, "ipv4": true, "ipv6": true, "local end": true, "no service": true, "state": true, "for ever": true, "expired": true,
		"mapped": true, "mapped zone": true, "port without address": true}
	for name, c := range oddConns() {
		t.Run(name, func(t *testing.T) {
			var d decoder
			line := AppendConn(nil, &c)
			var want, got director.Conn
			wantErr := json.Unmarshal(line, &want)
			gotErr := d.decode(line, &got)
			if (wantErr == nil) != (gotErr == nil) {
				t.Fatalf("error %v, want %v", gotErr, wantErr)
			}
			if wantErr == nil && got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if ok := d.short(line, &got); ok != short[name] {
				t.Errorf("short way: %v", ok)
			}
		})
	}
}

func TestDecodeError(t *testing.T) {
	var c director.Conn
	wantError(t, new(decoder).decode([]byte(`{"error":"the daemon stops"}`), &c), "the daemon stops")
	wantError(t, new(decoder).decode([]byte(`{"protocol":"icmp"}`), &c), `unknown protocol "icmp"`)
	wantError(t, new(decoder).decode(nil, &c), "decode connection: unexpected end of JSON input")
}

// TestDecodeCacheIsBounded: a daemon with ever new names costs no memory for ever.
func TestDecodeCacheIsBounded(t *testing.T) {
	var d decoder
	c := fakeConn(1)
	for i := range maxCached + 100 {
		c.Service = "s" + strconv.Itoa(i)
		want := c
		if err := d.decode(AppendConn(nil, &c), &c); err != nil || c != want {
			t.Fatalf("%v: %+v", err, c)
		}
	}
	if len(d.words) != maxCached {
		t.Errorf("%d words", len(d.words))
	}
}

// FuzzDecode: what the short way takes, encoding/json takes and reads alike.
func FuzzDecode(f *testing.F) {
	for _, c := range oddConns() {
		f.Add(AppendConn(nil, &c))
	}
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var got, want director.Conn
		if !new(decoder).short(line, &got) {
			return
		}
		strict := json.NewDecoder(bytes.NewReader(line))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&want); err != nil || got != want {
			t.Errorf("%s: got %+v, encoding/json %+v, %v", line, got, want, err)
		}
	})
}
