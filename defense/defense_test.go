// SPDX-License-Identifier: Apache-2.0

package defense

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// plenty of memory, and empty tables.
var plenty = Pressure{Pages: 1 << 20, Places: 1000}

func TestModes(t *testing.T) {
	for text, want := range map[string]Mode{"0": Off, "1": Waiting, "2": Acting, "3": Always, "off": Off, "auto": Waiting, "always": Always} {
		if got, err := ParseMode(text); got != want || err != nil {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "4", "-1", "03", "on", "Off", "33"} {
		if _, err := ParseMode(text); err == nil || !strings.Contains(err.Error(), "known: off, auto, always") {
			t.Errorf("%q: error is %v", text, err)
		}
	}
}

func TestSettingsByName(t *testing.T) {
	s := DefaultSettings
	for name, text := range map[string]string{
		"net.ipv4.vs.drop_packet": "3", "drop_entry": "auto", "secure_tcp": "2", "am_droprate": "-1", "amemthresh": "2048", "occupancy": "0", "syn_cookies": "auto", "half_open": "5",
	} {
		if err := s.Set(name, text); err != nil {
			t.Error(err)
		}
	}
	want := Settings{DropEntry: Waiting, DropPacket: Always, SecureTCP: Acting, SynCookies: Waiting, DropRate: -1, MemThresh: 2048, HalfOpen: 5}
	if s != want || s.Get("am_droprate") != "-1" || s.Get("drop_entry") != "1" || s.Get("nothing") != "" {
		t.Errorf("settings are %+v, want %+v", s, want)
	}
	for name, text := range map[string]string{"drop_packet": "4", "amemthresh": "-1", "am_droprate": "2147483648", "occupancy": "100", "half_open": "100", "droprate": "1", "am_droprate ": "1"} {
		before := s
		if err := s.Set(name, text); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) || s != before {
			t.Errorf("%s=%s: error is %v, settings %+v", name, text, err, s)
		}
	}
	s.Occupancy = 200
	if err := s.Validate(); err == nil {
		t.Error("an occupancy of 200 % is valid")
	}
}

// TestRate has IPVS's formula, with the figures of the recording; and the same for places.
func TestRate(t *testing.T) {
	for _, test := range []struct {
		name      string
		memThresh int32
		occupancy uint8
		p         Pressure
		cause     Cause
		rate      int32
	}{
		{"110 %", 512817, 0, Pressure{Pages: 466198}, Memory, 11},
		{"200 %", 932396, 0, Pressure{Pages: 466198}, Memory, 2},
		{"1000 %", 4661980, 0, Pressure{Pages: 466198}, Memory, 1},
		{"just enough", 1024, 0, Pressure{Pages: 1024}, NoPressure, 0},
		{"one page too few", 1024, 0, Pressure{Pages: 1023}, Memory, 1024},
		{"unknown", 1 << 30, 0, Pressure{Pages: UnknownPages}, NoPressure, 0},
		{"a tenth is free", 0, 90, Pressure{Pages: 5, Places: 1000, Used: 900}, NoPressure, 0},
		{"a twentieth is free", 0, 90, Pressure{Pages: 5, Places: 1000, Used: 950}, Occupancy, 2},
		{"full", 0, 90, Pressure{Pages: 5, Places: 1000, Used: 1000}, Occupancy, 1},
		{"full, and it does not matter", 0, 0, Pressure{Pages: 5, Places: 1000, Used: 1000}, NoPressure, 0},
		{"both: the harder one", 1000, 90, Pressure{Pages: 900, Places: 1000, Used: 950}, Occupancy, 2},
		{"both: the other one", 1000, 90, Pressure{Pages: 100, Places: 1000, Used: 950}, Memory, 1},
	} {
		s := Settings{MemThresh: test.memThresh, Occupancy: test.occupancy}
		if cause, rate := s.pressing(test.p); cause != test.cause || rate != test.rate {
			t.Errorf("%s: %q presses with rate %d, want %q and %d", test.name, cause, rate, test.cause, test.rate)
		}
	}
}

// TestSwitching: automatic strategies follow the pressure, the others do not, and each change is told once.
func TestSwitching(t *testing.T) {
	tight := Pressure{Pages: 512, Places: 1000}
	var m Machine
	s := Settings{DropEntry: Always, DropPacket: Waiting, SecureTCP: Acting, DropRate: 10, MemThresh: 1024}
	expect := func(what string, changes []Change, wantChanges []Change, want Levels) {
		t.Helper()
		if !slices.Equal(changes, wantChanges) || m.Levels() != want {
			t.Errorf("%s: changes %+v, levels %+v; want %+v, %+v", what, changes, m.Levels(), wantChanges, want)
		}
	}
	quiet := Levels{DropEntry: true}
	expect("set", m.Set(s, plenty), []Change{{"drop_entry", true, NoPressure}}, quiet)
	if m.Settings().SecureTCP != Waiting {
		t.Errorf("secure_tcp is %v: 2 without pressure is 1", m.Settings().SecureTCP)
	}
	loud := Levels{DropRate: 2, Restart: true, DropEntry: true, SecureTCP: true}
	expect("tight", m.Update(tight), []Change{{"drop_packet", true, Memory}, {"secure_tcp", true, Memory}}, loud)
	expect("tight still", m.Update(tight), nil, loud)
	tight.Pages = 768
	loud.DropRate = 4
	expect("less tight", m.Update(tight), nil, loud)
	expect("over", m.Update(plenty), []Change{{"drop_packet", false, NoPressure}, {"secure_tcp", false, NoPressure}}, quiet)
	s.DropPacket, s.DropEntry = Always, Off
	expect("fixed", m.Set(s, plenty), []Change{{"drop_entry", false, NoPressure}, {"drop_packet", true, NoPressure}}, Levels{DropRate: 10})
	expect("fixed and tight", m.Update(tight), []Change{{"secure_tcp", true, Memory}}, Levels{DropRate: 10, SecureTCP: true})
}

func TestDropEntrySpares(t *testing.T) {
	old, young := time.Minute, time.Minute-time.Second
	for _, test := range []struct {
		name string
		e    Entry
		want bool
	}{
		{"half-open", Entry{HalfOpen, 0, 1, 0}, true},
		{"closing", Entry{Closing, old, 1, 0}, false},
		{"a template with connections", Entry{HalfOpen, old, 0, 1}, false},
		{"open, heard of", Entry{Open, young, 1, 0}, false},
		{"open, idle, one packet", Entry{Open, old, 1, 0}, true},
		{"open, idle, eight packets", Entry{Open, old, 8, 0}, true},
		{"open, idle, nine packets", Entry{Open, old, 9, 0}, false},
		{"open, idle, no packet", Entry{Open, old, 0, 0}, false},
	} {
		if got := new(DropEntry).Drops(test.e); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// TestDropEntryShares: of idle connections with i packets one in i goes, the first that is met.
func TestDropEntryShares(t *testing.T) {
	for packets := 1; packets <= mostPackets; packets++ {
		var d DropEntry
		for i := range 3 * packets {
			got := d.Drops(Entry{Open, time.Hour, packets, 0})
			d.Drops(Entry{Open, time.Hour, packets%mostPackets + 1, 0}) // others are counted by themselves
			if want := i%packets == 0; got != want {
				t.Errorf("%d packets: number %d: %v, want %v", packets, i, got, want)
			}
		}
	}
}

// TestSynCookies: they are given as long as too many connections are half-open, or would be, and
// always or never if that was said. Each change is told once, also where only a service follows the flood.
func TestSynCookies(t *testing.T) {
	flood := plenty
	flood.HalfOpen, flood.HalfPlaces = 101, 1000
	edge := flood
	edge.HalfOpen = 100
	begins, ends := []Change{{"syn_cookies", true, Flood}}, []Change{{"syn_cookies", false, NoPressure}}
	for _, test := range []struct {
		name              string
		mode              Mode
		watched           bool
		quiet, atFlood    bool // SynCookies of the levels
		set, begins, ends []Change
	}{
		{"off", Off, false, false, false, nil, nil, nil},
		{"automatic", Waiting, false, false, true, nil, begins, ends},
		{"always", Always, false, true, true, []Change{{"syn_cookies", true, NoPressure}}, nil, nil},
		{"a service's own", Off, true, false, false, nil, begins, ends},
	} {
		t.Run(test.name, func(t *testing.T) {
			var m Machine
			m.Watch(test.watched)
			expect := func(what string, changes, want []Change, gives, flood bool) {
				t.Helper()
				if l := m.Levels(); !slices.Equal(changes, want) || l.SynCookies != gives || l.Flood != flood {
					t.Errorf("%s: changes %+v, want %+v; levels %+v", what, changes, want, l)
				}
			}
			expect("set", m.Set(Settings{SynCookies: test.mode, HalfOpen: 10}, edge), test.set, test.quiet, false)
			expect("flood", m.Update(flood), test.begins, test.atFlood, true)
			expect("flood still", m.Update(flood), nil, test.atFlood, true)
			expect("over", m.Update(edge), test.ends, test.quiet, false)
		})
	}
	s := Settings{HalfOpen: 0}
	flood.HalfOpen = 1000
	if s.flooded(flood) {
		t.Error("a threshold of 0 makes a flood")
	}
}
