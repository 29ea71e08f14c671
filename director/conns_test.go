// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

// listed are the connections, one line each, sorted.
func (w *world) listed(t *testing.T) []string {
	t.Helper()
	var lines []string
	err := w.run(t).Connections(t.Context(), func(c *Conn) error {
		lines = append(lines, fmt.Sprintf("%s %s -> %s -> %s %s %v %s",
			c.Protocol, c.Client, c.Virtual, c.Real, c.State, c.Expires, c.Service))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// run lets the director's goroutine run for the rest of the test.
func (w *world) run(t *testing.T) *Director {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w.d
}

func expectLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// twoFamilies has a service for each family and protocol.
func twoFamilies(w *world) {
	want, err := parseDesired(strings.Split(`timeouts 10m 1m 30s
service web tcp 192.0.2.1:80 rr
real 10.0.0.1
service dns udp [2001:db8::1]:53 rr
real fd00::1`, "\n"))
	must(err)
	w.mustWant(want)
	w.resolve(addr("10.0.0.1"), addr("fd00::1"))
}

func TestConnectionsListed(t *testing.T) {
	w := newWorld(t, small)
	twoFamilies(w)
	web, dns := ServiceKey{Protocol: TCP, Addr: addr("192.0.2.1"), Port: 80}, ServiceKey{Protocol: UDP, Addr: addr("2001:db8::1"), Port: 53}
	w.connect(web, netip.MustParseAddrPort("172.16.0.1:40000"))
	w.connect(dns, netip.MustParseAddrPort("[2001:db8::2]:50000"))
	w.clock.advance(5 * time.Second)
	w.connect(web, netip.MustParseAddrPort("172.16.0.2:40001"))
	expectLines(t, w.listed(t),
		"tcp 172.16.0.1:40000 -> 192.0.2.1:80 -> 10.0.0.1:80 ESTABLISHED 9m55s web",
		"tcp 172.16.0.2:40001 -> 192.0.2.1:80 -> 10.0.0.1:80 ESTABLISHED 10m0s web",
		"udp [2001:db8::2]:50000 -> [2001:db8::1]:53 -> [fd00::1]:53 UDP 25s dns")
}

// TestConnectionsNotListed: slots that hold no connection of anybody's.
func TestConnectionsNotListed(t *testing.T) {
	w := newWorld(t, small)
	twoFamilies(w)
	web := ServiceKey{Protocol: TCP, Addr: addr("192.0.2.1"), Port: 80}
	for i := range 6 {
		w.connect(web, client(i))
	}
	slots := w.tables.Conns4
	slots[0].C.Tag = slots[0].C.Tag&^3 | 1                    // claimed, not published
	slots[1].C.LastUse -= w.clock.Jiffies(10*time.Minute) + 1 // expired
	slots[2].C.Generation++                                   // of a real server that is gone
	slots[3].C.Real = 11                                      // of one that there is not
	slots[4].C.Real = 1 << 30                                 // of none that could be
	slots[5].C.LastUse = w.clock.now.Load() + 1               // another CPU's clock has ticked
	lines := w.listed(t)
	if len(lines) != 1 || !strings.Contains(lines[0], "10m0.004s") {
		t.Errorf("listed are\n%s", strings.Join(lines, "\n"))
	}
}

// TestConnectionsOfRemoved: they are listed while they live, with the name that
// their service had, and never as another's.
func TestConnectionsOfRemoved(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	w.connect(key4(1), client(1))
	other := one("rr", real4(2, 1))
	other.Services[0].Key, other.Services[0].Name = key4(2), "other"
	w.mustWant(other)
	expectLines(t, w.listed(t), "tcp 172.16.0.1:20001 -> 192.0.0.1:80 -> 10.0.0.1:80 ESTABLISHED 15m0s web")
}

func TestConnectionsInOverflow(t *testing.T) {
	w := newWorld(t, small)
	twoFamilies(w)
	for _, c := range []netip.Addr{addr("172.16.0.9"), addr("2001:db8::9")} {
		o := overflowed{key: bpf.ConnKey{Saddr: c.As16(), Daddr: addr("192.0.2.1").As16()}}
		o.conn = bpf.Conn{Tag: 6<<8 | 2 | 8, Word: stateEstablished, Ports: 0x5000_0a00, Generation: 1, LastUse: w.clock.now.Load(), Packets: 3}
		if c.Is6() {
			o.key.Daddr, o.conn.Real = addr("2001:db8::1").As16(), 1
		}
		w.plane.overflow = append(w.plane.overflow, o)
	}
	expectLines(t, w.listed(t),
		"tcp 172.16.0.9:10 -> 192.0.2.1:80 -> 10.0.0.1:80 ESTABLISHED 10m0s web",
		"tcp [2001:db8::9]:10 -> [2001:db8::1]:80 -> [fd00::1]:53 ESTABLISHED 10m0s dns")
	w.plane.fault = func(what string) error { return errors.New("map is gone") }
	expectError(t, w.d.Connections(t.Context(), func(*Conn) error { return nil }), nil, "map is gone")
}

func TestConnectionsStop(t *testing.T) {
	w := newWorld(t, bpf.Sizes{Conns4: 1 << 14, Conns6: 8, Overflow: 1, Services: 2, Reals: 2, Plans: 256, CPUs: 1})
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	for i := range 5000 {
		w.connect(key4(1), client(i))
	}
	d := w.run(t)
	n := 0
	enough := errors.New("enough")
	err := d.Connections(t.Context(), func(*Conn) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	expect(t, "error of the callback", err, enough)
	expect(t, "connections until then", n, 3)

	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	err = d.Connections(ctx, func(*Conn) error {
		n++
		cancel()
		return nil
	})
	expect(t, "error of the context", err, context.Canceled)
	if n == 0 || n > 4096 {
		t.Errorf("%d connections were listed after the context ended", n)
	}
	expect(t, "error of an ended context", d.Connections(ctx, func(*Conn) error { return nil }), context.Canceled)

	w.clock.fault.Store(true)
	expectError(t, d.Connections(t.Context(), func(*Conn) error { return nil }), nil, "no clock")
}

// TestSlowConsumer: one that takes its time holds up nobody.
func TestSlowConsumer(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	for i := range 5 {
		w.connect(key4(1), client(i))
	}
	d := w.run(t)
	reached, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	n := 0
	go func() {
		done <- d.Connections(t.Context(), func(*Conn) error {
			if n++; n == 1 {
				close(reached)
				<-goOn
			}
			return nil
		})
	}()
	<-reached
	for i := range 20 { // each of them would wait for ever
		if err := d.Set(t.Context(), one("rr", real4(1, uint32(i)), real4(2, 1))); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	expect(t, "connections", n, 5)
}

// TestListerCallsBack: a callback may ask the director.
func TestListerCallsBack(t *testing.T) {
	w := newWorld(t, small)
	w.mustWant(one("rr", real4(1, 1)))
	w.resolve(real4(1, 1).Key.Addr)
	w.connect(key4(1), client(1))
	d := w.run(t)
	err := d.Connections(t.Context(), func(*Conn) error {
		_, err := d.Snapshot(t.Context())
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
