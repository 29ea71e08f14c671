// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/director"
	"xdplvs/internal/arpnd"
)

var (
	vip4  = netip.MustParseAddr("192.0.2.10")
	vip6  = netip.MustParseAddr("2001:db8::10")
	macs  = map[int]arpnd.MAC{2: {2, 0, 0, 0, 0, 2}, 3: {2, 0, 0, 0, 0, 3}}
	other = arpnd.MAC{2, 0, 0, 0, 9, 9}
	third = arpnd.MAC{2, 0, 0, 0, 9, 8}
)

// world is a kernel in memory with the interfaces lo (1), eth0 (2) and eth1 (3), other hosts, and a
// manager that works there.
type world struct {
	t     *testing.T
	began time.Time
	file  string
	text  strings.Builder // the log, written by the manager's goroutine only while others wait

	mu     sync.Mutex
	lnks   map[int]link
	addrs  []address
	joined map[spot]bool
	table  map[Place]arpnd.MAC
	in     *inbox
	hosts  map[spot]arpnd.MAC // that have an address
	along  []netip.Prefix     // what the kernel would remove with an address
	refuse error              // of add
	deaf   error              // of listen
	sent   []string

	m      *Manager
	cancel context.CancelFunc
	done   chan error
}

// inWorld runs a test under a clock of its own.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "addresses.json")
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, began: time.Now(), file: file, lnks: map[int]link{
			1: {index: 1, name: "lo", up: true},
			2: {index: 2, name: "eth0", mac: macs[2], up: true, arp: true},
			3: {index: 3, name: "eth1", mac: macs[3], up: true, arp: true},
		}, joined: map[spot]bool{}, table: map[Place]arpnd.MAC{}, hosts: map[spot]arpnd.MAC{}}
		w.start(Options{})
		defer w.stop()
		test(w)
	})
}

// start runs a manager, another one than before.
func (w *world) start(opts Options) {
	opts.Log = slog.New(slog.NewTextHandler(&w.text, nil))
	opts.Answers, opts.File = w, w.file
	opts.Identify = func(m arpnd.MAC) string {
		if m == other {
			return "real server web1 (10.0.0.1)"
		}
		return ""
	}
	w.m = New(opts)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.done = cancel, make(chan error, 1)
	go func() { w.done <- w.m.run(ctx, w) }()
	synctest.Wait()
}

// stop ends the manager, as a daemon that stops does.
func (w *world) stop() {
	w.t.Helper()
	if w.cancel == nil {
		return
	}
	w.cancel()
	w.cancel = nil
	if err := <-w.done; err != nil {
		w.t.Errorf("Run: %v", err)
	}
}

// restart is another process.
func (w *world) restart(opts Options) {
	w.t.Helper()
	w.stop()
	w.start(opts)
}

// change is something that happens in the kernel; the manager learns of it.
func (w *world) change(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	if w.in != nil {
		w.in.put(func(n *news) { n.changed = true })
	}
	w.pass(coalesce)
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// set says what the manager is to hold.
func (w *world) set(addresses ...director.Address) {
	w.t.Helper()
	if err := w.m.Set(w.t.Context(), addresses, director.Announcing{Burst: 3, Refresh: time.Minute}); err != nil {
		w.t.Error(err)
	}
	synctest.Wait()
}

func (w *world) links() (map[int]link, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.lnks), nil
}

func (w *world) addresses() ([]address, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.addrs), nil
}

func (w *world) groups() (map[spot]bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.joined), nil
}

func (w *world) add(link int, p netip.Prefix) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	w.addrs = append(w.addrs, address{link, p, true})
	if p.Addr().IsMulticast() {
		w.joined[spot{link, p.Addr()}] = true
	}
	w.in.put(func(n *news) { n.changed = true })
	return nil
}

func (w *world) remove(link int, p netip.Prefix) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addrs = slices.DeleteFunc(w.addrs, func(a address) bool { return a.link == link && a.prefix == p })
	delete(w.joined, spot{link, p.Addr()})
	w.in.put(func(n *news) { n.changed = true })
	return nil
}

func (w *world) takesAlong(_ int, p netip.Prefix) ([]netip.Prefix, error) {
	if p.Addr().Is6() {
		return nil, nil
	}
	return w.along, nil
}

func (w *world) watch(in *inbox) (func(), error) {
	w.in = in
	return func() {}, nil
}

func (w *world) Answered() (map[Place]arpnd.MAC, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.table), nil
}

func (w *world) SetAnswered(p Place, m arpnd.MAC) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	w.table[p] = m
	return nil
}

func (w *world) DeleteAnswered(p Place) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.table, p)
	return nil
}

func (w *world) listen(l link, v6 bool, into *inbox) (port, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf != nil {
		return nil, w.deaf
	}
	return &fakePort{w, l, into}, nil
}

// fakePort notes what is sent, and lets the hosts answer.
type fakePort struct {
	w    *world
	link link
	into *inbox
}

func (p *fakePort) Send(frame []byte) error {
	h, ok := arpnd.Read(frame)
	if !ok {
		return errors.New("nobody understands the frame")
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	kind := "announce"
	if h.Probe {
		kind = "ask"
	}
	if h.MAC != p.link.mac {
		kind += " as " + h.MAC.String()
	}
	p.w.sent = append(p.w.sent, fmt.Sprintf("%v %s: %s %s", time.Since(p.w.began), p.link.name, kind, h.Addr))
	if mac, ok := p.w.hosts[spot{p.link.index, h.Addr}]; ok && h.Probe {
		p.into.hear(p.link.index, arpnd.Heard{Addr: h.Addr, MAC: mac, From: mac, Solicited: true, Override: true})
	}
	return nil
}

func (p *fakePort) close() {}

// wantSent compares what was sent since the last time.
func (w *world) wantSent(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.sent, want) {
		w.t.Errorf("sent\n  %s\nwant\n  %s", strings.Join(w.sent, "\n  "), strings.Join(want, "\n  "))
	}
	w.sent = nil
}

// forget is for what was sent and is of no interest; it returns how much.
func (w *world) forget() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.sent)
	w.sent = nil
	return n
}

// wantThere compares the addresses on interfaces, and the table, with lists as "eth0 192.0.2.10/32".
func (w *world) wantThere(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, a := range w.addrs {
		got = append(got, w.lnks[a.link].name+" "+a.prefix.String())
	}
	for p, m := range w.table {
		text := fmt.Sprintf("answer %s %s", w.lnks[p.Link].name, p.Addr)
		if p.VLAN[0] != 0 {
			text += fmt.Sprint(" ", p.VLAN)
		}
		if m != w.lnks[p.Link].mac {
			text += " with " + m.String()
		}
		got = append(got, text)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("after %v there are %q, want %q", time.Since(w.began), got, want)
	}
}

// wantStates compares the states, as "192.0.2.10 interface eth0 held" and what else is remarkable.
func (w *world) wantStates(want ...string) {
	w.t.Helper()
	var got []string
	for _, s := range w.m.States() {
		text := fmt.Sprintf("%s %s %s %s", s.Addr, s.Mode, s.Interface, s.Status)
		if s.Reason != "" {
			text += ": " + s.Reason
		}
		if s.Foreign {
			text += ", foreign"
		}
		if s.Rival != nil {
			text += ", rival " + s.Rival.MAC + " " + s.Rival.Who
		}
		if s.Repaired > 0 {
			text += fmt.Sprintf(", repaired %d", s.Repaired)
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("after %v states are\n  %s\nwant\n  %s", time.Since(w.began), strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// wantLog looks for texts in the log, and empties it.
func (w *world) wantLog(parts ...string) {
	w.t.Helper()
	for _, part := range parts {
		if !strings.Contains(w.text.String(), part) {
			w.t.Errorf("log has no %q:\n%s", part, w.text.String())
		}
	}
	w.text.Reset()
}

// onInterface is an address that is to be on eth0.
func onInterface(a netip.Addr, change ...func(*director.Address)) director.Address {
	want := director.Address{Addr: a, Mode: director.AddressInterface, Interface: "eth0", Prefix: a.BitLen()}
	for _, f := range change {
		f(&want)
	}
	return want
}

// answeredFor is an address that is to be answered for on eth0.
func answeredFor(a netip.Addr, change ...func(*director.Address)) director.Address {
	return onInterface(a, append(change, func(a *director.Address) { a.Mode, a.Prefix = director.AddressAnswer, 0 })...)
}

func forced(a *director.Address)                { a.Force = true }
func on(name string) func(*director.Address)    { return func(a *director.Address) { a.Interface = name } }
func length(bits int) func(a *director.Address) { return func(a *director.Address) { a.Prefix = bits } }
