// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"xdplvs/scheduler"
)

func TestNames(t *testing.T) {
	names := scheduler.Names()
	for _, want := range strings.Fields("rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos") {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
			continue
		}
		s, err := scheduler.New(want, scheduler.Options{})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "name", s.Name(), want)
		hash := slices.Contains([]string{"dh", "sh", "mh"}, want)
		expect(t, want+" is a hash scheduler", s.Kind() == scheduler.Hash, hash)
		aware := slices.Contains(strings.Fields("lc wlc sed nq ovf twos lblc lblcr"), want)
		expect(t, want+" depends on counts", scheduler.CountAware(want), aware)
	}
	expect(t, "an unknown one counts as aware", scheduler.CountAware("none such"), true)
}

func TestNewErrors(t *testing.T) {
	for _, c := range []struct {
		name, scheduler string
		options         scheduler.Options
		want            string
	}{
		{"unknown name", "rrr", scheduler.Options{}, `unknown scheduler "rrr" (known: dh, fo, lblc, lblcr, lc, mh, nq, ovf, rr, sed, sh,`},
		{"empty name", "", scheduler.Options{}, `unknown scheduler ""`},
		{"alien flag", "rr", scheduler.Options{Flags: scheduler.SHPort}, "scheduler rr: no such flag: sh-port"},
		{"the other's flag", "mh", scheduler.Options{Flags: scheduler.MHPort | scheduler.SHFallback}, "scheduler mh: no such flag: sh-fallback"},
		{"table size not prime", "mh", scheduler.Options{MHTableSize: 4096}, "scheduler mh: table size 4096 is not a prime up to 16777216"},
		{"table size negative", "mh", scheduler.Options{MHTableSize: -7}, "table size -7 is not a prime"},
		{"table size one", "mh", scheduler.Options{MHTableSize: 1}, "table size 1 is not a prime"},
		{"table size too large", "mh", scheduler.Options{MHTableSize: 16777259}, "table size 16777259 is not a prime"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := scheduler.New(c.scheduler, c.options)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestRegisterErrors(t *testing.T) {
	create := func(scheduler.Options) (scheduler.Scheduler, error) { return nil, errors.New("not now") }
	expect(t, "taken", scheduler.Register("rr", create).Error(), `register scheduler "rr": name is taken`)
	expect(t, "no name", scheduler.Register("", create) != nil, true)
	expect(t, "no constructor", scheduler.Register("new", nil) != nil, true)
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		text  string
		flags scheduler.Flags
		err   string
	}{
		{"", 0, ""},
		{"sh-port", scheduler.SHPort, ""},
		{"sh-fallback,sh-port", scheduler.SHFallback | scheduler.SHPort, ""},
		{"mh-fallback,mh-port", scheduler.MHFallback | scheduler.MHPort, ""},
		{"sh_port", 0, `unknown scheduler flag "sh_port" (known: sh-fallback, sh-port, mh-fallback, mh-port)`},
		{"sh-port,", 0, `unknown scheduler flag ""`},
		{"sh-port, mh-port", 0, `unknown scheduler flag " mh-port"`},
	} {
		flags, err := scheduler.ParseFlags(c.text)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v, want %q", c.text, err, c.err)
			}
			continue
		}
		expect(t, c.text, flags, c.flags)
		expect(t, c.text, flags.String(), c.text)
	}
	expect(t, "unknown bits", (scheduler.SHPort | 1<<6).String(), "sh-port,0x40")
}

func TestEnumNames(t *testing.T) {
	expect(t, "kind", scheduler.Hash.String(), "hash")
	expect(t, "counting", scheduler.CountInactive.String(), "inactive")
	expect(t, "unknown", scheduler.Counting(9).String(), "scheduler.Counting(9)")
}

func TestConnect(t *testing.T) {
	s := scheduler.Server{Weight: 1, Active: 1, Inactive: 1, Upper: 4}
	expect(t, "below", s.Connect(scheduler.CountInactive), false)
	expect(t, "one-packet", s.Connect(scheduler.CountNothing), false)
	expect(t, "full", s.Connect(scheduler.CountActive), true)
	expect(t, "state", s, scheduler.Server{Weight: 1, Active: 2, Inactive: 2, Upper: 4, Overloaded: true})
	expect(t, "already full", s.Connect(scheduler.CountActive), false)
	expect(t, "usable", s.Usable(), false)

	most := scheduler.Server{Active: 1<<32 - 1}
	most.Connect(scheduler.CountActive)
	expect(t, "counts do not start again", most.Active, 1<<32-1)

	flagged := scheduler.Server{Overloaded: true}
	flagged.Connect(scheduler.CountActive)
	expect(t, "the flag is not cleared", flagged.Overloaded, true)
}

func TestThreshold(t *testing.T) {
	// Connections below which a server is taken back, by upper threshold.
	for upper, want := range map[uint32]uint64{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4, 7: 5, 8: 5, 10: 7, 12: 8} {
		limit := scheduler.Threshold{Upper: upper}
		total, full := uint64(0), false
		for ; !full; total++ {
			full = limit.Connect(total+1, full)
		}
		expect(t, "admitted", total, uint64(upper))
		for ; full; total-- {
			full = limit.End(total-1, full)
		}
		expect(t, "taken back", total, want)
	}
}

func TestThresholdTransitions(t *testing.T) {
	none, plain, wide := scheduler.Threshold{}, scheduler.Threshold{Upper: 8}, scheduler.Threshold{Upper: 8, Lower: 2}
	for _, c := range []struct {
		name       string
		transition func(uint64, bool) bool
		total      uint64
		was, want  bool
	}{
		{"no limit", none.Connect, 1 << 40, false, false},
		{"no limit clears", none.End, 5, true, false},
		{"below", plain.Connect, 7, false, false},
		{"reached", plain.Connect, 8, false, true},
		{"passed by a known client", plain.Connect, 9, false, false},
		{"stays full", plain.Connect, 9, true, true},
		{"still full", plain.End, 6, true, true},
		{"fewer than the default lower", plain.End, 5, true, false},
		{"only at that step", plain.End, 4, true, true},
		{"the own lower", wide.End, 2, true, true},
		{"fewer than the own lower", wide.End, 1, true, false},
		{"edit: full", plain.Edit, 8, false, true},
		{"edit: more than full", plain.Edit, 20, false, true},
		{"edit: between, was full", plain.Edit, 6, true, true},
		{"edit: between, was not", plain.Edit, 7, false, false},
		{"edit: below", plain.Edit, 5, true, false},
		{"edit: limit removed", none.Edit, 100, true, false},
	} {
		expect(t, c.name, c.transition(c.total, c.was), c.want)
	}
}

func TestThresholdValidate(t *testing.T) {
	if err := (scheduler.Threshold{Upper: 5, Lower: 5}).Validate(); err != nil {
		t.Error(err)
	}
	err := scheduler.Threshold{Upper: 3, Lower: 5}.Validate()
	if err == nil || err.Error() != "lower threshold 5 is above the upper threshold 3" {
		t.Errorf("error %v", err)
	}
}
