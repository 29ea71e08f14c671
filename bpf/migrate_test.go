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
				if fits == nil || lost != nil {
					t.Errorf("the next start would lose everything: %v", lost)
				}
				closeMaps(fits)
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
			for _, name := range []string{directorMapConns4, directorMapConns6, directorMapSplices4, directorMapSplices6, directorMapOverflow} {
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

// TestSplicesMove: what is translated of connections that SYN cookies began goes with them.
func TestSplicesMove(t *testing.T) {
	first := newRig(t, oneSet)
	noLeaks(t)
	dir, sizes := pinDir(t), oneSet
	former(t, dir, families[0])
	const version = uint(directorSpliceRestSPLICE_VERSION)
	spliced := map[uint64]Splice{} // by fingerprint
	for i := range first.Tables.Conns4 {
		c := &first.Tables.Conns4[i].C
		if c.Tag&tagMask != tagUsed || isTemplate(c.Word) || isWayBack(c.Word) {
			continue
		}
		c.Word |= connSpliced
		s := Splice{Cookie: uint32(i) + 1, Server: uint32(i) + 2, Rest: c.Tag>>16&0xffff<<version | 1<<uint(directorSpliceRestSPLICE_ANSWERED)}
		first.Tables.Splices4[i] = s
		spliced[c.Tag>>32] = s
	}
	sizes.Conns4 = 1 << 10
	second, lost := openPins(t, dir, sizes)
	defer func() { must(t, second.Close()) }()
	if lost != nil || len(spliced) < 3 {
		t.Fatalf("lost %v, of %d connections", lost, len(spliced))
	}
	found := 0
	for i := range second.Tables.Conns4 {
		c := &second.Tables.Conns4[i].C
		want, ok := spliced[c.Tag>>32]
		if c.Tag&tagMask != tagUsed || !ok {
			continue
		}
		found++
		want.Rest = want.Rest&^(0xffff<<version) | c.Tag>>16&0xffff<<version
		if got := second.Tables.Splices4[i]; got != want {
			t.Errorf("slot %d has %+v, want %+v", i, got, want)
		}
	}
	if found != len(spliced) {
		t.Errorf("%d connections of %d moved", found, len(spliced))
	}
}
