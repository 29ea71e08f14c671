// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"xdplvs/bpf"
	"xdplvs/director"
	"xdplvs/internal/packet"
)

const defenseRecordings = connRecordings + "/defense"

// defended is a scenario of the defenses on its way through a node.
type defended struct {
	*node
	scenario
	service, other director.Service // other: of UDP where the service is of TCP
	known          flow             // a connection that was there before
	sent           int
	places         []int // of the last packets, those that were dropped
}

// TestDefenses replays which new connections IPVS's drop_packet drops, and when its automatic
// modes switch.
func TestDefenses(t *testing.T) {
	plane := loadPlane(t)
	replayed := 0
	for _, s := range scenariosIn(t, defenseRecordings, "*") {
		if s.Name == "drop_entry=3" {
			continue // TestDropEntry
		}
		replayed++
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDefended(t, startNode(t, plane), s)
				for i, st := range s.Steps {
					if err := d.step(st); err != nil {
						t.Fatalf("step %d (%s %s): %v", i, st, st.Note, err)
					}
				}
			})
		})
	}
	if replayed < 10 {
		t.Errorf("only %d scenarios were replayed, there were 10", replayed)
	}
}

func newDefended(t *testing.T, n *node, s scenario) *defended {
	d := &defended{node: n, scenario: s}
	n.plane.Tables.Defense.DropLeft = 0
	d.service = d.serviceFor(s.VIP, protocols[s.Proto])
	other := netip.AddrPortFrom(s.VIP.Addr(), s.VIP.Port()+1)
	d.other = d.serviceFor(other, director.UDP)
	before := d.serviceFor(netip.AddrPortFrom(s.VIP.Addr(), s.VIP.Port()+2), director.TCP)
	d.known = flow{netip.MustParseAddrPort("172.16.9.9:999"), netip.AddrPortFrom(before.Key.Addr, before.Key.Port)}
	var servers []netip.Addr
	for _, r := range s.Dests {
		servers = append(servers, r.Addr.Addr())
	}
	n.reach(servers...)
	if err := n.set(d.service, d.other, before); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if err := n.allReachable(); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []uint8{packet.SYN, packet.ACK} {
		if _, err := n.send(d.known.frame(director.TCP, flags)); err != nil {
			t.Fatal(err)
		}
	}
	d.mustSetDefense("am_droprate", "10")
	d.mustSetDefense("amemthresh", "1024")
	d.startCounter()
	return d
}

func (d *defended) mustSetDefense(name, text string) {
	d.t.Helper()
	if _, err := d.director.SetDefense(d.ctx, director.DefenseChange{name: text}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *defended) serviceFor(at netip.AddrPort, protocol director.Protocol) director.Service {
	s := director.Service{
		Key:       director.ServiceKey{Protocol: protocol, Addr: at.Addr(), Port: at.Port()},
		Scheduler: "rr", Conns: director.IPVSConnPolicy(false),
	}
	for _, r := range d.Dests {
		s.Reals = append(s.Reals, director.RealServer{Key: director.RealKey{Addr: r.Addr.Addr(), Port: at.Port()}, Method: director.DirectRouting, Weight: 1})
	}
	return s
}

// startCounter sets the counter of always-on drop_packet to where former scenarios have left it,
// some of which are not there: the first place tells.
func (d *defended) startCounter() {
	for _, st := range d.Steps {
		if places := st.places(); strings.HasPrefix(d.Name, "drop_packet=3") && len(places) > 0 {
			d.plane.Tables.Defense.DropLeft = int32(places[0]) + 1
			if places[0] == 0 {
				d.plane.Tables.Defense.DropLeft = 0
			}
			return
		}
	}
}

func (st step) places() (places []int) {
	_ = json.Unmarshal(st.Vals, &places) // others have other values
	return places
}

func (d *defended) step(st step) error {
	switch {
	case st.Op == "sysctl":
		return d.sysctl(st)
	case st.Op == "run":
		return d.run(st)
	case strings.HasPrefix(st.Note, "30 packets of an existing connection"):
		return d.existing()
	case strings.HasPrefix(st.Note, "SYNs to a TCP service and datagrams"):
		return d.inTurn(st)
	case strings.HasPrefix(st.Note, "free+buffers"):
		return d.reads("drop_packet", "2")
	case strings.HasPrefix(st.Note, "1.5 s later"):
		time.Sleep(1500 * time.Millisecond)
		return d.automatic(st)
	case strings.HasPrefix(st.Note, "amemthresh back to 1024"):
		time.Sleep(1500 * time.Millisecond)
		return d.reads("drop_packet", "1")
	default:
		return d.modes(st)
	}
}

// sysctl writes one. How much memory there was is in a later step's note.
func (d *defended) sysctl(st step) error {
	if pages := numberIn(d.Steps, `free\+buffers = (\d+) pages`); pages != 0 {
		d.pages.Store(int64(pages))
	}
	if strings.HasPrefix(d.Name, "automatic") {
		d.pages.Store(466_198)
	}
	name, text, _ := strings.Cut(st.Cmd, "=")
	_, err := d.director.SetDefense(d.ctx, director.DefenseChange{"net.ipv4.vs." + name: text})
	if (err != nil) != (st.Err != "") {
		return fmt.Errorf("%v, the kernel said %q", err, st.Err)
	}
	return nil
}

func numberIn(steps []step, pattern string) int {
	for _, st := range steps {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(st.Note); m != nil {
			n, _ := strconv.Atoi(m[1]) // digits
			return n
		}
	}
	return 0
}

// begin sends the next client's first packet to a service.
func (d *defended) begin(s *director.Service) error {
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 20, byte(d.sent >> 8), byte(d.sent)}), 4000)
	f := flow{client, netip.AddrPortFrom(s.Key.Addr, s.Key.Port)}
	r, err := d.plane.Run(f.frame(s.Key.Protocol, packet.SYN), d.loopback)
	if err != nil {
		return err
	}
	if r.Action == xdpDrop {
		d.places = append(d.places, d.sent)
	} else if r.Action != xdpTx {
		return fmt.Errorf("packet %d: XDP action %d", d.sent, r.Action)
	}
	d.sent++
	return nil
}

// beginAll sends n, to the services in turn, and compares which were dropped.
func (d *defended) beginAll(n int, want []int, services ...*director.Service) error {
	d.sent, d.places = 0, nil
	for i := range n {
		if err := d.begin(services[i%len(services)]); err != nil {
			return err
		}
	}
	if !slices.Equal(d.places, want) {
		return fmt.Errorf("dropped %v, want %v", d.places, want)
	}
	return nil
}

func (d *defended) run(st step) error {
	if err := d.beginAll(numberIn([]step{st}, `^(\d+) SYNs`), st.places(), &d.service); err != nil {
		return err
	}
	for _, s := range d.snapshot().Services {
		if s.Key != d.service.Key {
			continue
		}
		for i, r := range s.Reals {
			if r.Active != st.Table[i].Active || r.Inactive != st.Table[i].Inact {
				return fmt.Errorf("real server %s has %d and %d connections, want %v", r.Key, r.Active, r.Inactive, st.Table[i])
			}
		}
	}
	return nil
}

func (d *defended) inTurn(st step) error {
	places := st.places()
	return d.beginAll(places[len(places)-1]+10, places, &d.service, &d.other)
}

func (d *defended) existing() error {
	for range 30 {
		if _, err := d.send(d.known.frame(director.TCP, packet.ACK)); err != nil {
			return err
		}
	}
	return nil
}

func (d *defended) automatic(st step) error {
	if err := d.reads("drop_packet", "2"); err != nil {
		return err
	}
	state, err := d.director.Defense(d.ctx)
	if rate := numberIn([]step{st}, `= (\d+); \d+ new datagrams`); err != nil || int(state.Rate) != rate {
		return fmt.Errorf("rate %d (%v), want %d", state.Rate, err, rate)
	}
	return d.beginAll(numberIn([]step{st}, `(\d+) new datagrams`), st.places(), &d.service)
}

// reads compares a sysctl with how it reads.
func (d *defended) reads(name, want string) error {
	state, err := d.director.Defense(d.ctx)
	if err != nil {
		return err
	}
	if got := state.Get(name); got != want {
		return fmt.Errorf("%s reads %s, want %s", name, got, want)
	}
	return nil
}

func (d *defended) modes(st step) error {
	if strings.Contains(st.Note, "1.3 s later") {
		time.Sleep(1300 * time.Millisecond)
	}
	var want map[string]string
	if err := json.Unmarshal(st.Vals, &want); err != nil {
		return fmt.Errorf("unknown note %q", st.Note)
	}
	for name, text := range want {
		if err := d.reads(name, text); err != nil {
			return err
		}
	}
	return nil
}

// TestDropEntry compares how half-open connections become fewer under drop_entry with how they did in the kernel, those of persistent
// clients and their templates too; that all others stay until they are idle for a minute; and how they go then.
func TestDropEntry(t *testing.T) {
	plane := loadPlane(t)
	all := scenariosIn(t, defenseRecordings, "*")
	i := slices.IndexFunc(all, func(s scenario) bool { return s.Name == "drop_entry=3" })
	if i < 0 {
		t.Fatal("no recording of drop_entry")
	}
	s := all[i]
	var samples []map[string]int
	for _, st := range s.Steps {
		if st.Op == "note" {
			if err := json.Unmarshal(st.Vals, &samples); err != nil {
				t.Fatal(err)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDefended(t, startNode(t, plane), s)
		d.populate()
		if begun, want := d.entries(), samples[0]; !maps.Equal(begun, want) {
			t.Fatalf("there are %v, want %v", begun, want)
		}
		// So long before had the kernel's last connections begun, as those that went by themselves tell.
		d.elapse(2500 * time.Millisecond)
		d.mustSetDefense("drop_entry", "3")
		start := time.Now()
		for _, sample := range samples[2:] {
			d.elapse(time.Until(start.Add(time.Duration(sample["ms"]) * time.Millisecond)))
			d.compareDecay(sample, samples[0])
		}
		if since := time.Since(start); since < 70*time.Second {
			t.Errorf("the recording was followed for %s only", since)
		}
	})
}

// elapse lets time go by, for the connections as well.
func (d *defended) elapse(left time.Duration) {
	for left > 0 {
		step := min(left, time.Second)
		time.Sleep(step)
		d.age(step, func(*bpf.Conn) bool { return true })
		left -= step
	}
}

// populate makes what the recording began with.
func (d *defended) populate() {
	port := netip.AddrPortFrom(d.VIP.Addr(), d.VIP.Port()+3)
	persistent := d.serviceFor(port, director.TCP)
	persistent.Persistence.Timeout = 5 * time.Minute
	before := d.serviceFor(netip.AddrPortFrom(port.Addr(), port.Port()-1), director.TCP)
	if err := d.set(d.service, d.other, before, persistent); err != nil {
		d.t.Fatal(err)
	}
	d.settle()
	d.begun(2500, &d.service, packet.SYN)
	d.begun(500, &d.service, packet.SYN, packet.ACK)
	d.begun(300, &d.service, packet.SYN, packet.FIN)
	d.begun(200, &d.service, packet.SYN, packet.ACK, packet.RST)
	d.begun(500, &d.other, 0)
	d.begun(250, &persistent, packet.SYN)
	d.sent -= 50 // clients that have a template already
	d.begunFrom(4001, 50, &persistent, packet.SYN)
}

// begun makes n connections of as many clients.
func (d *defended) begun(n int, s *director.Service, segments ...uint8) {
	d.begunFrom(4000, n, s, segments...)
}

func (d *defended) begunFrom(port uint16, n int, s *director.Service, segments ...uint8) {
	for range n {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 20, byte(d.sent >> 8), byte(d.sent)}), port)
		d.sent++
		for _, flags := range segments {
			if _, err := d.send(flow{client, netip.AddrPortFrom(s.Key.Addr, s.Key.Port)}.frame(s.Key.Protocol, flags)); err != nil {
				d.t.Fatal(err)
			}
		}
	}
}

// entries are the connections and templates that there are, by the names of the recording, but for the one that was there before.
func (d *defended) entries() map[string]int {
	all := map[string]int{"ms": -1, "TCP ESTABLISHED": -1}
	count := func(c *director.Conn) error {
		name := strings.ToUpper(c.Protocol.String()) + " " + c.State
		if c.Virtual.Port() == d.VIP.Port()+3 {
			name = "persistent " + name
		}
		all[name]++
		return nil
	}
	if err := errors.Join(d.director.Connections(d.ctx, count), d.director.Templates(d.ctx, count)); err != nil {
		d.t.Fatal(err)
	}
	return all
}

// compareDecay allows for chance, as far as it has a part: the kernel's survivors and ours are drawn alike.
func (d *defended) compareDecay(sample, begun map[string]int) {
	d.t.Helper()
	now := d.entries()
	for name, n := range begun {
		if name == "ms" || name == "TCP CLOSE" && sample["ms"] > 7300 { // these end by themselves, at some time in 10 s
			continue
		}
		want, got, most := sample[name], now[name], 0.0
		switch drawn := strings.HasSuffix(name, " SYN_RECV") || strings.HasSuffix(name, " NONE"); {
		case drawn || sample["ms"] > 60_000 && name != "TCP TIME_WAIT":
			// Rows of the kernel's table, and sets of ours, hold some entries each: their fates are not independent.
			share := float64(want) / float64(n)
			most = 5 * math.Sqrt(2*float64(n)*share*(1-share)) * 1.5
		default:
			want = n // the kernel's listing leaves some out at times
		}
		if math.Abs(float64(want-got)) > most {
			d.t.Errorf("after %d ms there are %d of %s, the kernel had %d (%.0f more or less are chance)", sample["ms"], got, name, want, most)
		}
	}
}
