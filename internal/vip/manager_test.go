// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"xdplvs/director"
	"xdplvs/internal/arpnd"
)

// TestAddressIsTaken: asked for three times, added, announced three times, once a minute from then on.
func TestAddressIsTaken(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(onInterface(vip4))
		w.wantStates("192.0.2.10 interface eth0 checking")
		w.pass(1400 * time.Millisecond)
		w.wantThere()
		w.wantSent("0s eth0: ask 192.0.2.10", "500ms eth0: ask 192.0.2.10", "1s eth0: ask 192.0.2.10")
		w.pass(200 * time.Millisecond)
		w.wantThere("eth0 192.0.2.10/32")
		w.wantStates("192.0.2.10 interface eth0 held")
		w.pass(time.Minute)
		w.wantSent("1.5s eth0: announce 192.0.2.10", "1.5s eth0: announce 192.0.2.10", // a request and a reply
			"2.5s eth0: announce 192.0.2.10", "2.5s eth0: announce 192.0.2.10",
			"3.5s eth0: announce 192.0.2.10", "3.5s eth0: announce 192.0.2.10", "3.5s eth0: ask 192.0.2.10")
		w.pass(time.Minute)
		w.wantSent("1m3.5s eth0: announce 192.0.2.10", "1m3.5s eth0: announce 192.0.2.10", "1m3.5s eth0: ask 192.0.2.10")
		s := w.m.States()[0]
		if s.Announcements != 4 || !s.Announced.Equal(w.began.Add(63500*time.Millisecond)) || !s.Since.Equal(w.began.Add(1500*time.Millisecond)) {
			t.Errorf("state is %+v", s)
		}
	})
}

// TestAddressIsAnsweredFor: by the data plane, and IPv6's solicitations are let in.
func TestAddressIsAnsweredFor(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(answeredFor(vip4), answeredFor(vip6))
		w.pass(1600 * time.Millisecond)
		w.wantThere("answer eth0 192.0.2.10", "answer eth0 2001:db8::10", "eth0 ff02::1:ff00:10/128")
		w.wantStates("192.0.2.10 answer eth0 held", "2001:db8::10 answer eth0 held")
		w.set()
		w.wantThere()
		w.wantStates()
	})
}

// TestVLANDevice: the program may see its frames on the device below, with the tag.
func TestVLANDevice(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change(func() {
			w.lnks[5] = link{index: 5, name: "eth0.7", mac: macs[2], up: true, arp: true, vlan: 7, parent: 2}
			w.lnks[6] = link{index: 6, name: "eth0.7.9", mac: macs[2], up: true, arp: true, vlan: 9, parent: 5}
		})
		w.set(answeredFor(vip4, on("eth0.7.9"), forced), answeredFor(netip.MustParseAddr("192.0.2.11"), on("eth0.7"), forced))
		w.wantThere("answer eth0.7.9 192.0.2.10", "answer eth0.7 192.0.2.10 [9 0]", "answer eth0 192.0.2.10 [7 9]",
			"answer eth0.7 192.0.2.11", "answer eth0 192.0.2.11 [7 0]")
	})
}

// TestConflict: the address is left to the host that has it, which is named; it is taken when that is gone.
func TestConflict(t *testing.T) {
	for _, a := range []netip.Addr{vip4, vip6} {
		inWorld(t, func(w *world) {
			w.change(func() { w.hosts[spot{2, a}] = other })
			w.set(onInterface(a))
			w.pass(coalesce)
			conflict := a.String() + " interface eth0 conflict: another host has it: 02:00:00:00:09:09, real server web1 (10.0.0.1)," +
				" rival 02:00:00:00:09:09 real server web1 (10.0.0.1)"
			w.wantStates(conflict)
			w.wantLog("event=address_conflict", "mac=02:00:00:00:09:09", `host="real server web1 (10.0.0.1)"`)
			w.pass(10 * time.Minute)
			w.wantThere()
			w.wantStates(conflict)
			if w.text.Len() > 0 {
				t.Errorf("the same is said again: %s", w.text.String())
			}
			w.change(func() { delete(w.hosts, spot{2, a}) })
			w.pass(45 * time.Second)
			w.wantStates(a.String() + " interface eth0 held")
		})
	}
}

// TestConflictOnlyThere: what a host has on another network is not ours to worry about.
func TestConflictOnlyThere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change(func() { w.hosts[spot{3, vip4}] = other })
		w.set(onInterface(vip4))
		w.pass(2 * time.Second)
		w.wantStates("192.0.2.10 interface eth0 held")
	})
}

// TestTwoAskAtOnce: neither takes the address while the other asks.
func TestTwoAskAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(onInterface(vip4))
		w.pass(700 * time.Millisecond)
		w.in.hear(2, arpnd.Heard{Addr: vip4, MAC: third, From: third, Probe: true})
		w.pass(time.Second)
		w.wantStates("192.0.2.10 interface eth0 conflict: another host has it: 02:00:00:00:09:08, rival 02:00:00:00:09:08 ")
		w.pass(40 * time.Second)
		w.wantStates("192.0.2.10 interface eth0 held")
	})
}

// TestForce: nobody is asked before, but the rival is named.
func TestForce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change(func() { w.hosts[spot{2, vip4}] = other })
		w.set(onInterface(vip4))
		w.pass(time.Second)
		w.wantThere()
		w.set(onInterface(vip4, forced))
		w.wantThere("eth0 192.0.2.10/32")
		w.pass(3 * time.Second)
		w.wantStates("192.0.2.10 interface eth0 held, rival 02:00:00:00:09:09 real server web1 (10.0.0.1)")
		w.wantLog("event=address_rival")
	})
}

// TestRival: an address of ours that another host takes is announced again, at most every ten seconds,
// and the rival is shown as long as it is heard.
func TestRival(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(answeredFor(vip4))
		w.pass(5 * time.Second)
		w.forget()
		hear := func(m arpnd.MAC) {
			w.in.hear(2, arpnd.Heard{Addr: vip4, MAC: m, From: m})
			w.pass(coalesce)
		}
		hear(macs[3]) // this host's other interface, in the same network
		w.wantSent()
		hear(other)
		hear(other)
		w.wantSent("5.04s eth0: announce 192.0.2.10", "5.04s eth0: announce 192.0.2.10", "5.04s eth0: ask 192.0.2.10")
		w.wantStates("192.0.2.10 answer eth0 held, rival 02:00:00:00:09:09 real server web1 (10.0.0.1)")
		w.wantLog("event=address_rival", "web1")
		w.pass(10 * time.Second)
		hear(other)
		w.wantSent("15.08s eth0: announce 192.0.2.10", "15.08s eth0: announce 192.0.2.10", "15.08s eth0: ask 192.0.2.10")
		w.wantThere("answer eth0 192.0.2.10")
		w.pass(2 * time.Minute)
		w.wantStates("192.0.2.10 answer eth0 held")
		w.wantLog("event=address_rival_gone")
	})
}

// TestRepair: what somebody takes away is there again at once, but no more than once a second.
func TestRepair(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(onInterface(vip4), answeredFor(vip6))
		w.pass(10 * time.Second)
		all := []string{"eth0 192.0.2.10/32", "eth0 ff02::1:ff00:10/128", "answer eth0 2001:db8::10"}
		w.wantThere(all...)
		w.forget()
		w.change(func() { w.addrs, w.joined = nil, map[spot]bool{} })
		w.wantThere(all...)
		w.wantSent("10.02s eth0: announce 192.0.2.10", "10.02s eth0: announce 192.0.2.10", "10.02s eth0: announce 2001:db8::10")
		w.wantLog("event=address_repaired")
		w.change(func() { w.addrs = nil })
		w.wantThere("answer eth0 2001:db8::10")
		w.pass(time.Second)
		w.wantThere("eth0 192.0.2.10/32", "answer eth0 2001:db8::10")
		w.wantStates("192.0.2.10 interface eth0 held, repaired 2", "2001:db8::10 answer eth0 held, repaired 1")
		w.change(func() { w.table = map[Place]arpnd.MAC{} })
		w.pass(time.Minute)
		w.wantThere("eth0 192.0.2.10/32", "answer eth0 2001:db8::10")
		w.wantStates("192.0.2.10 interface eth0 held, repaired 2", "2001:db8::10 answer eth0 held, repaired 2")
	})
}

// TestForeign: an address that was there before us is announced, and stays there; so does one that
// somebody removed and added again.
func TestForeign(t *testing.T) {
	inWorld(t, func(w *world) {
		theirs := address{link: 2, prefix: netip.MustParsePrefix("192.0.2.10/24")}
		w.change(func() { w.addrs = append(w.addrs, theirs) })
		w.set(onInterface(vip4))
		w.wantStates("192.0.2.10 interface eth0 held, foreign")
		w.pass(5 * time.Second)
		if w.forget() == 0 {
			t.Error("it is not announced")
		}
		w.set()
		w.wantThere("eth0 192.0.2.10/24")

		w.set(onInterface(vip6))
		w.pass(5 * time.Second)
		w.change(func() { w.addrs = []address{{link: 2, prefix: netip.PrefixFrom(vip6, 128)}} })
		w.wantStates("2001:db8::10 interface eth0 held, foreign")
		w.set()
		w.wantThere("eth0 2001:db8::10/128")
	})
}

// TestRestart: another process knows what the first one took, asks nobody, and removes it when told.
func TestRestart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(onInterface(vip4), answeredFor(vip6))
		w.pass(5 * time.Second)
		all := []string{"eth0 192.0.2.10/32", "eth0 ff02::1:ff00:10/128", "answer eth0 2001:db8::10"}
		w.restart(Options{Answering: true})
		w.wantThere(all...)
		w.pass(2 * time.Minute) // nobody has said yet what it is to hold
		w.wantThere(all...)
		w.forget()
		w.set(onInterface(vip4), answeredFor(vip6))
		w.wantStates("192.0.2.10 interface eth0 held", "2001:db8::10 answer eth0 held")
		w.wantSent("2m5s eth0: announce 192.0.2.10", "2m5s eth0: announce 192.0.2.10", "2m5s eth0: announce 2001:db8::10")
		w.restart(Options{Answering: true})
		w.set()
		w.wantThere()
	})
}

// TestRestartAfterNobodyAnswered: what the data plane did not answer for meanwhile may be another's.
func TestRestartAfterNobodyAnswered(t *testing.T) {
	for _, answering := range []bool{true, false} {
		inWorld(t, func(w *world) {
			w.set(answeredFor(vip4))
			w.pass(5 * time.Second)
			w.stop()
			w.table = map[Place]arpnd.MAC{} // an upgrade that could not take the tables over, or none at all
			w.start(Options{Answering: answering})
			w.set(answeredFor(vip4))
			if want := map[bool]director.AddressStatus{true: director.AddressHeld, false: director.AddressChecking}[answering]; w.m.States()[0].Status != want {
				t.Errorf("answering %v: %v", answering, w.m.States())
			}
		})
	}
}

// TestRelease: everything that was added is gone, nothing else is.
func TestRelease(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change(func() { w.addrs = []address{{link: 2, prefix: netip.MustParsePrefix("192.0.2.1/24")}} })
		w.set(onInterface(vip4, length(24)), answeredFor(vip6))
		w.pass(5 * time.Second)
		w.stop()
		w.along = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
		if err := w.m.release(w); err == nil {
			t.Error("an address was removed that takes another along")
		}
		w.wantThere("eth0 192.0.2.1/24", "eth0 192.0.2.10/24")
		w.along = nil
		if err := w.m.release(w); err != nil {
			t.Error(err)
		}
		w.wantThere("eth0 192.0.2.1/24")
		if _, err := os.Stat(w.file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the record is still there: %v", err)
		}
	})
}

// TestChanges: from one mode, interface or length to another there is no moment without the address,
// and nobody is asked for what we have.
func TestChanges(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(onInterface(vip4))
		w.pass(2 * time.Second)
		w.set(answeredFor(vip4))
		w.wantThere("answer eth0 192.0.2.10")
		w.set(onInterface(vip4))
		w.wantThere("eth0 192.0.2.10/32")
		w.set(onInterface(vip4, length(24)))
		w.wantThere("eth0 192.0.2.10/24")
		w.wantStates("192.0.2.10 interface eth0 held")
		w.set(onInterface(vip4, on("eth1")))
		w.wantThere("eth0 192.0.2.10/24")
		w.pass(2 * time.Second)
		w.wantThere("eth1 192.0.2.10/32")
	})
}

// TestInterfaces: an address waits for its interface, is announced when it comes back, and taken anew
// on another one of the same name.
func TestInterfaces(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(onInterface(vip4, on("eth9")), answeredFor(vip4, on("lo")))
		w.wantStates("192.0.2.10 interface eth9 waiting: no such interface (there are eth0, eth1, lo)",
			"192.0.2.10 answer lo waiting: nobody asks for addresses on this interface: it has no link-layer address, or no ARP")
		w.wantLog("event=address_waiting")
		w.change(func() {
			w.lnks[9] = link{index: 9, name: "eth9", mac: arpnd.MAC{2, 0, 0, 0, 0, 9}, up: true, arp: true}
		})
		w.pass(5 * time.Second)
		w.wantThere("eth9 192.0.2.10/32")
		w.set(onInterface(vip4, on("eth9")))
		down := w.lnks[9]
		down.up = false
		w.change(func() { w.lnks[9] = down })
		w.wantStates("192.0.2.10 interface eth9 waiting: interface is down")
		w.wantThere("eth9 192.0.2.10/32")
		w.forget()
		w.pass(10 * time.Minute)
		w.wantSent()
		up := down
		up.up = true
		w.change(func() { w.lnks[9], w.addrs = up, nil }) // as with IPv6, the address went with it
		w.wantThere("eth9 192.0.2.10/32")
		w.wantStates("192.0.2.10 interface eth9 held")
		if n := w.forget(); n != 2 {
			t.Errorf("sent %d frames, want an announcement and no question", n)
		}
		w.change(func() { delete(w.lnks, 9); w.addrs = nil })
		w.wantStates("192.0.2.10 interface eth9 waiting: no such interface (there are eth0, eth1, lo)")
		w.change(func() {
			w.lnks[10] = link{index: 10, name: "eth9", mac: arpnd.MAC{2, 0, 0, 0, 0, 10}, up: true, arp: true}
		})
		w.wantStates("192.0.2.10 interface eth9 checking")
	})
}

// TestFlap: a link that was down for less than anybody could see has its addresses announced.
func TestFlap(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(onInterface(vip4))
		w.pass(10 * time.Second)
		w.forget()
		w.in.put(func(n *news) { n.down(3); n.changed = true })
		w.pass(coalesce)
		w.wantSent()
		w.in.put(func(n *news) { n.down(2); n.changed = true })
		w.pass(coalesce)
		w.wantSent("10.04s eth0: announce 192.0.2.10", "10.04s eth0: announce 192.0.2.10")
	})
}

// TestOtherMAC: an interface gets another link-layer address.
func TestOtherMAC(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(answeredFor(vip4))
		w.pass(10 * time.Second)
		w.forget()
		l := w.lnks[2]
		l.mac = third
		w.change(func() { w.lnks[2] = l })
		w.wantThere("answer eth0 192.0.2.10")
		w.wantSent("10.02s eth0: announce as 02:00:00:00:09:08 192.0.2.10", "10.02s eth0: announce as 02:00:00:00:09:08 192.0.2.10")
	})
}

// TestFailures: what cannot be done is said, and tried again.
func TestFailures(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change(func() { w.refuse = errors.New("permission denied") })
		w.set(onInterface(vip4), answeredFor(vip4, on("eth1"), forced))
		w.pass(2 * time.Second)
		w.wantStates("192.0.2.10 interface eth0 failed: permission denied", "192.0.2.10 answer eth1 failed: permission denied")
		w.wantLog("event=address_failed")
		w.change(func() { w.refuse = nil })
		w.pass(40 * time.Second)
		w.wantStates("192.0.2.10 interface eth0 held", "192.0.2.10 answer eth1 held")

		w.change(func() { w.deaf = errors.New("no socket") })
		w.set(onInterface(vip6))
		w.pass(10 * time.Second)
		w.wantStates("2001:db8::10 interface eth0 checking: open socket: no socket")
		w.change(func() { w.deaf = nil })
		w.pass(4 * time.Second)
		w.wantStates("2001:db8::10 interface eth0 held")
	})
}

// TestRecordCannotBeWritten: nothing is added that another process would not know to be ours.
func TestRecordCannotBeWritten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		w.file = "/proc/addresses.json"
		w.start(Options{})
		w.set(onInterface(vip4, forced))
		w.wantThere()
		if s := w.m.States()[0]; s.Status != director.AddressFailed {
			t.Errorf("state is %+v", s)
		}
	})
}

// TestBrokenRecord: a file that nobody can read is no reason to forget what was added.
func TestBrokenRecord(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		if err := os.WriteFile(w.file, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := New(Options{Answers: w, File: w.file}).run(w.t.Context(), w)
		if err == nil {
			t.Error("it runs")
		}
	})
}

// TestUnmanaged: what somebody else has is only shown.
func TestUnmanaged(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(director.Address{Addr: vip6}, onInterface(vip4, forced), director.Address{Addr: vip4})
		w.pass(5 * time.Second)
		w.wantStates("2001:db8::10 none  unmanaged", "192.0.2.10 interface eth0 held", "192.0.2.10 none  unmanaged")
		w.wantThere("eth0 192.0.2.10/32")
	})
}

// TestSet: it waits until what can be done at once was done, and no longer than anybody does it.
func TestSet(t *testing.T) {
	inWorld(t, func(w *world) {
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		set := func(a ...director.Address) error { return w.m.Set(ctx, a, director.Announcing{}) }
		if err := errors.Join(set(onInterface(vip4, forced)), set(answeredFor(vip4))); err != nil {
			t.Error(err)
		}
		w.wantThere("answer eth0 192.0.2.10")
		if err := set(); err != nil {
			t.Error(err)
		}
		w.wantThere()
		w.stop()
		if err := set(); err == nil || err.Error() != "hold addresses: Run has ended" {
			t.Errorf("after the end: %v", err)
		}
		if err := New(Options{}).Set(ctx, nil, director.Announcing{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before the begin: %v", err)
		}
	})
}

// TestPace: many addresses are asked for and announced at a bounded rate, each of them in the end.
func TestPace(t *testing.T) {
	inWorld(t, func(w *world) {
		var all []director.Address
		for i := range 1000 {
			all = append(all, onInterface(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})))
		}
		w.set(all...)
		w.pass(time.Second)
		if n := w.forget(); n < 150 || n > 220 {
			t.Errorf("%d frames in a second", n)
		}
		w.pass(time.Minute)
		for _, s := range w.m.States() {
			if s.Status != director.AddressHeld || s.Announcements < 1 {
				t.Fatalf("after a minute: %+v", s)
			}
		}
	})
}
