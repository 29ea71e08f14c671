// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOtherSizes: whatever size becomes another one, connections go on, new ones are made, and nothing is
// counted twice or not at all.
func TestOtherSizes(t *testing.T) {
	newRig(t, oneSet)
	for name, change := range map[string]func(*Sizes){
		"connections": func(s *Sizes) { s.Conns4, s.Conns6, s.Overflow = 1<<10, 1<<9, 64 },
		"more of everything": func(s *Sizes) {
			*s = Sizes{Conns4: 64, Conns6: 64, Overflow: 9, Services: 99, Reals: 99, Plans: 4096, Marks: 99, Prefixes: 9999, Destinations: 9}
		},
		"less of it": func(s *Sizes) { s.Services, s.Reals, s.Plans = s.Services-1, s.Reals-1, s.Plans-PlanAlign },
	} {
		for _, f := range families {
			t.Run(name+" "+f.name, func(t *testing.T) {
				noLeaks(t)
				dir, sizes := pinDir(t), oneSet
				before := former(t, dir, f)
				counts := before.counts
				change(&sizes)
				second, lost := openPins(t, dir, sizes)
				defer func() { must(t, second.Close()) }()
				if lost != nil || second.Fresh || second.Moved == nil {
					t.Fatalf("lost %v, fresh %t, moved %v", lost, second.Fresh, second.Moved)
				}
				if got := need(second.Verdicts())(t); !maps.Equal(got, before.verdicts) {
					t.Errorf("verdicts are %v, were %v", got, before.verdicts)
				}
				n := min(len(counts), len(second.Tables.Counts))
				if got := second.Tables.Counts[:n]; !slices.Equal(got, counts[:n]) {
					t.Errorf("counts are %v, were %v", got, counts[:n])
				}
				goneOn(t, second, f, before)
				fits, lost := lookForPins(t, dir, sizes)
				if fits.maps == nil || lost != nil || len(fits.renewed) > 0 {
					t.Errorf("the next start would not find everything: %v, %v", lost, fits.renewed)
				}
				fits.close()
				mustBeSettled(t, dir)
			})
		}
	}
}

// mustBeSettled fails where something lies beside the tables in use.
func mustBeSettled(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{pinNext + "*", pinDone} {
		if left := need(filepath.Glob(filepath.Join(dir, pattern)))(t); len(left) > 0 {
			t.Errorf("left are %v", left)
		}
	}
}

// TestOtherSizesTooSmall: what is in use and has no room is said, and nothing was changed when that was found out.
func TestOtherSizesTooSmall(t *testing.T) {
	newRig(t, oneSet)
	for name, test := range map[string]struct {
		change func(*Sizes)
		reason string
	}{
		"services":     {func(s *Sizes) { s.Services = 1 }, ": service 3 is in use, and there would be room for 1"},
		"real servers": {func(s *Sizes) { s.Reals = 1 }, ": real server 5 is in use, and there would be room for 1"},
		"plan slots":   {func(s *Sizes) { s.Plans = PlanAlign }, "is in use, and there would be room for 16"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			dir, sizes := pinDir(t), oneSet
			former(t, dir, families[0])
			test.change(&sizes)
			second, lost := openPins(t, dir, sizes)
			defer func() { must(t, second.Close()) }()
			if !errors.Is(lost, ErrIncompatible) || !strings.Contains(fmt.Sprint(lost), test.reason) {
				t.Errorf("the reason is %v, want %q", lost, test.reason)
			}
			if !second.Fresh || isEmpty(second.Tables) != nil {
				t.Errorf("fresh %t, %v", second.Fresh, isEmpty(second.Tables))
			}
		})
	}
}

// TestOtherSizesAfterCrash: a process that was killed in the middle leaves the former tables or the new ones, whole.
func TestOtherSizesAfterCrash(t *testing.T) {
	newRig(t, oneSet)
	for _, inUse := range []bool{false, true} {
		t.Run(fmt.Sprintf("the new ones are in use: %t", inUse), func(t *testing.T) {
			noLeaks(t)
			f := families[0]
			dir, sizes := pinDir(t), oneSet
			before := former(t, dir, f)
			// What a killed process has left of larger tables: pinned beside, the last rename still to come.
			larger := need(Load(Sizes{Conns4: 64, Conns6: 64, Overflow: 2, Services: 8, Reals: 8, Plans: 64}))(t)
			copy(larger.Tables.Reals, []Real{{Weight: 7}})
			for _, name := range []string{directorMapConns4, directorMapConns6, directorMapSplices4, directorMapOverflow} {
				must(t, larger.objects.Maps[name].Pin(filepath.Join(dir, pinNext+pinName(name))))
			}
			must(t, larger.Close())
			if inUse {
				must(t, os.Mkdir(filepath.Join(dir, pinDone), 0o700))
				sizes.Conns4, sizes.Conns6, sizes.Overflow = 64, 64, 2
			}
			second, lost := openPins(t, dir, sizes)
			defer func() { must(t, second.Close()) }()
			if lost != nil || second.Fresh || second.Moved != nil {
				t.Fatalf("lost %v, fresh %t, moved %v", lost, second.Fresh, second.Moved)
			}
			if !inUse {
				goneOn(t, second, f, before)
			}
			mustBeSettled(t, dir)
		})
	}
}

// TestSplicesMove: what is translated of connections that SYN cookies began goes with them, whichever table changes its size.
func TestSplicesMove(t *testing.T) {
	for name, resize := range map[string]func(*Sizes){
		"their own": func(s *Sizes) { s.Conns4 = 1 << 10 }, "the other": func(s *Sizes) { s.Conns6 = 1 << 10 },
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			dir, sizes := pinDir(t), oneSet
			first, _ := openPins(t, dir, sizes)
			begun(t, first, families[0])
			want := splices(first.Tables, false, func(s *uint64, c *Conn) { c.Word, *s = c.Word|connSpliced, c.Tag>>32 })
			must(t, first.Close())
			resize(&sizes)
			second, lost := openPins(t, dir, sizes)
			defer func() { must(t, second.Close()) }()
			got := splices(second.Tables, false, func(*uint64, *Conn) {})
			maps.DeleteFunc(got, func(fingerprint, _ uint64) bool { return want[fingerprint] == 0 }) // of the overflow map
			if lost != nil || len(want) < 3 || !maps.Equal(got, want) {
				t.Errorf("lost %v; %d connections have %x, want %x", lost, len(got), got, want)
			}
		})
	}
}

// splices are those of the connections, by fingerprint, after each was changed.
func splices(t *Tables, v6 bool, change func(*uint64, *Conn)) map[uint64]uint64 {
	b, all := t.table4(), map[uint64]uint64{}
	if v6 {
		b = t.table6()
	}
	for i := range b.n {
		c := b.slot(i)
		if c.Tag&tagMask != tagUsed || isTemplate(c.Word) || isWayBack(c.Word) {
			continue
		}
		change(b.splice(i), c)
		all[c.Tag>>32] = *b.splice(i)
	}
	return all
}

// TestSpliceAnsweredInMotion: what the real server answers while tables are changed is carried, unless it came by the new one.
func TestSpliceAnsweredInMotion(t *testing.T) {
	d := newRig(t, oneSet).plane
	for v6, f := range families {
		begun(t, d, f)
		to := need(NewMemoryTables(Sizes{Conns4: 64, Conns6: 64, Overflow: 1, Services: 8, Reals: 8, Plans: 64, CPUs: d.Tables.CPUs}))(t)
		splices(d.Tables, v6 == 1, func(s *uint64, c *Conn) { c.Word, *s = c.Word|connSpliced, 15 })
		spill := func(*ConnKey, *Conn) error { return errors.New("there is no map") }
		m := need(newMover(d, &DataPlane{Tables: to}, spill, nil))(t)
		m.pass()
		const answered = uint64(directorSplicePartSPLICE_ANSWERED)
		want := splices(d.Tables, v6 == 1, func(s *uint64, c *Conn) { *s = answered | c.Tag>>32 })
		m.pass()
		if got := splices(to, v6 == 1, func(*uint64, *Conn) {}); len(want) < 3 || !maps.Equal(got, want) {
			t.Errorf("%s: answered: %x, want %x", f.name, got, want)
		}
		splices(d.Tables, v6 == 1, func(s *uint64, c *Conn) { *s = answered | 1 })
		m.pass()
		if got := splices(to, v6 == 1, func(*uint64, *Conn) {}); !maps.Equal(got, want) {
			t.Errorf("%s: answered by the new table, which was given %x for %x", f.name, got, want)
		}
	}
}
