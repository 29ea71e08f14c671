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
	"unsafe"

	"github.com/cilium/ebpf"
)

// pinDir is a directory for pins that the test does not have to remove.
func pinDir(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := strings.Replace(pinPattern(), "*", strings.NewReplacer("/", "_", " ", "_", ".", "_").Replace(t.Name()), 1)
	t.Cleanup(func() {
		if err := Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// openPins opens a data plane, which the caller closes.
func openPins(t testing.TB, dir string, sizes Sizes) (d *DataPlane, lost error) {
	t.Helper()
	d, lost, err := Open(dir, sizes)
	must(t, err)
	loaded.note(t, d.objects)
	return d, lost
}

// contents are the bytes of all tables.
func contents(t *Tables) map[string][]byte {
	return map[string][]byte{
		"settings": bytesOfRows([]Settings{*t.Settings}),
		"filter":   bytesOfRows(t.Filter), "services": bytesOfRows(t.Services), "keys": bytesOfRows(t.Keys),
		"plans": bytesOfRows(t.Plans), "reals": bytesOfRows(t.Reals), "counts": bytesOfRows(t.Counts),
		"traffic": bytesOfRows(t.Traffic), "conns4": bytesOfRows(t.Conns4), "conns6": bytesOfRows(t.Conns6),
	}
}

func bytesOfRows[T any](rows []T) []byte {
	return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(rows))), len(rows)*int(unsafe.Sizeof(rows[0]))))
}

// isEmpty tells whether nothing but the settings of a new start is there.
func isEmpty(t *Tables) error {
	for name, b := range contents(t) {
		if name != "settings" && slices.ContainsFunc(b, func(b byte) bool { return b != 0 }) {
			return fmt.Errorf("table %s is not empty", name)
		}
	}
	return nil
}

// rigOf makes a rig of an open data plane.
func rigOf(t *testing.T, d *DataPlane) *rig {
	t.Helper()
	r := &rig{Tables: d.Tables, plane: d, keys: NewKeyTable(d.Tables)}
	r.clock = need(d.Clock())(t)
	must(t, r.openEntry())
	t.Cleanup(func() { r.entry.Close(); r.targets.Close() })
	return r
}

// TestPinsKeepEverything: a second process goes on where the first one ended.
func TestPinsKeepEverything(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			noLeaks(t)
			dir := filepath.Join(pinDir(t), "below", "it")
			t.Cleanup(func() { os.Remove(filepath.Dir(dir)) })
			t.Cleanup(func() { must(t, Remove(dir)) })
			first, lost := openPins(t, dir, oneSet)
			if lost != nil || isEmpty(first.Tables) != nil {
				t.Fatalf("tables where nothing was: %v, %v", lost, isEmpty(first.Tables))
			}
			before := begun(t, first, f)
			must(t, first.Close())

			second, lost := openPins(t, dir, oneSet)
			defer func() { must(t, second.Close()) }()
			if lost != nil {
				t.Fatal(lost)
			}
			for name, b := range contents(second.Tables) {
				if !slices.Equal(b, before.contents[name]) {
					t.Errorf("table %s has changed", name)
				}
			}
			if got := need(second.Verdicts())(t); !maps.Equal(got, before.verdicts) {
				t.Errorf("verdicts are %v, were %v", got, before.verdicts)
			}
			goneOn(t, second, f, before)
		})
	}
}

// past is what a process knew when it ended.
type past struct {
	contents map[string][]byte
	verdicts map[string]uint64
	counts   []RealCounts
	reals    map[uint16]byte // by client port
	world    *rig
}

// former leaves in dir what a process that has ended would: the tables of the rig of oneSet. They are the rig's, which is
// loaded already where other processes' files are counted (noLeaks).
func former(t *testing.T, dir string, f family) past {
	t.Helper()
	r := newRig(t, oneSet)
	d := *r.plane
	d.pins = dir
	must(t, MakePinDir(dir))
	must(t, d.pinMaps())
	return begunOn(t, r, f)
}

// begun fills tables: one more connection than places, and a first fragment.
func begun(t *testing.T, d *DataPlane, f family) past {
	t.Helper()
	return begunOn(t, rigOf(t, d), f)
}

func begunOn(t *testing.T, r *rig, f family) past {
	r.reset(f)
	p := past{reals: map[uint16]byte{}, world: r}
	for port := range uint16(9) {
		p.reals[port+1] = r.send(t, tcp(syn, from(port+1))(f)).out[5]
		r.send(t, tcp(ack, from(port+1))(f))
	}
	r.send(t, udp()(f))
	r.send(t, piece(0)(f))
	r.check(t)
	p.counts = slices.Clone(r.Counts)
	p.contents, p.verdicts = contents(r.Tables), need(r.plane.Verdicts())(t)
	return p
}

// goneOn lets the same connections go on.
func goneOn(t *testing.T, d *DataPlane, f family, before past) {
	r := rigOf(t, d)
	r.f, r.services, r.reals, r.names = f, before.world.services, before.world.reals, before.world.names
	r.check(t)
	for port, real := range before.reals {
		if got := r.send(t, tcp(ack, from(port))(f)); got.verdict != "tx_forward" || got.out[5] != real {
			t.Errorf("port %d to %c: %v", port, real, got)
		}
	}
	if got := r.send(t, piece(1)(f)); got.verdict != "tx_forward" {
		t.Errorf("a later fragment: %v", got)
	}
	if got := r.send(t, tcp(syn, from(99))(f)); got.verdict != "tx_new" && got.verdict != "tx_untracked" {
		t.Errorf("a new connection: %v", got)
	}
	r.check(t)
	if keys := NewKeyTable(d.Tables).All(); len(keys) != 3 {
		t.Errorf("%d service keys, not 3", len(keys))
	}
}

// TestPinsAreShared: what is taken over is the same memory, not a copy.
func TestPinsAreShared(t *testing.T) {
	dir := pinDir(t)
	first, _ := openPins(t, dir, smallSizes)
	defer first.Close()
	second, lost := openPins(t, dir, smallSizes)
	t.Cleanup(func() { must(t, second.Close()) })
	first.Tables.Plans[3] = 42
	if lost != nil || second.Tables.Plans[3] != 42 {
		t.Errorf("lost %v, read %d", lost, second.Tables.Plans[3])
	}
}

// TestPinsDoNotFit: tables of another version, or of more processors, are replaced.
func TestPinsDoNotFit(t *testing.T) {
	for name, change := range map[string]func(*Sizes, *Tables){
		"CPUs":    func(s *Sizes, t *Tables) { s.CPUs = 2 * t.CPUs },
		"version": func(_ *Sizes, t *Tables) { t.Settings.Layout++ },
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			dir, sizes := pinDir(t), smallSizes
			first, _ := openPins(t, dir, sizes)
			first.Tables.Reals[1].Weight = 7
			first.Tables.Conns4[1].C.Tag = tagUsed
			key := first.Tables.Settings.HashKey
			change(&sizes, first.Tables)
			must(t, first.Close())

			second, lost := openPins(t, dir, sizes)
			if !errors.Is(lost, ErrIncompatible) {
				t.Errorf("the reason is %v", lost)
			}
			if err := isEmpty(second.Tables); err != nil {
				t.Error(err)
			}
			if second.Tables.Settings.HashKey == key {
				t.Error("no new hash key was drawn")
			}
			must(t, second.Close())
			maps, lost := lookForPins(t, dir, sizes)
			if maps == nil || lost != nil {
				t.Errorf("after that: %v", lost)
			}
			closeMaps(maps)
		})
	}
}

// lookForPins is the beginning of Open.
func lookForPins(t *testing.T, dir string, sizes Sizes) (map[string]*ebpf.Map, error) {
	t.Helper()
	maps, _, lost, err := pinnedMaps(dir, need(sizedSpec(need(sizes.withCPUs())(t)))(t))
	must(t, err)
	return maps, lost
}

// statePins are the files of the maps in a pin directory.
func statePins(t *testing.T, dir string) []string {
	t.Helper()
	paths := need(filepath.Glob(filepath.Join(dir, "map_*")))(t)
	if len(paths) < 12 {
		t.Fatalf("pinned are only %v", paths)
	}
	return paths
}

// TestPinMissing: when one map is missing that is the reason, in whatever order
// they are opened.
func TestPinMissing(t *testing.T) {
	noLeaks(t)
	dir := pinDir(t)
	d, _ := openPins(t, dir, smallSizes)
	must(t, d.Close())
	must(t, os.Remove(filepath.Join(dir, pinName(directorMapPlans))))
	spec, silent := need(sizedSpec(need(smallSizes.withCPUs())(t)))(t), 0
	for range 200 {
		maps, _, lost, err := pinnedMaps(dir, spec)
		must(t, err)
		if lost == nil {
			silent++
		} else if !errors.Is(lost, ErrIncompatible) || !strings.Contains(lost.Error(), directorMapPlans) {
			t.Errorf("the reason is %v", lost)
		}
		closeMaps(maps)
	}
	if silent > 0 {
		t.Errorf("one map was missing, and %d times of 200 there was no reason to be told", silent)
	}
}

// TestPinsAreCompleted: where one is missing all are replaced, and then whole.
func TestPinsAreCompleted(t *testing.T) {
	noLeaks(t)
	dir := pinDir(t)
	d, _ := openPins(t, dir, smallSizes)
	d.Tables.Reals[1].Weight = 7
	must(t, d.Close())
	whole := statePins(t, dir)
	must(t, os.Remove(whole[3]))
	d, _ = openPins(t, dir, smallSizes)
	if err := isEmpty(d.Tables); err != nil {
		t.Error(err)
	}
	must(t, d.Close())
	if got := statePins(t, dir); !slices.Equal(got, whole) {
		t.Errorf("pinned are %v, were %v", got, whole)
	}
}

// TestPinsAfterCrash: whenever a process is killed while it replaces tables,
// the next one finds none, or some and a reason, but never a mixture.
func TestPinsAfterCrash(t *testing.T) {
	noLeaks(t)
	dir := pinDir(t)
	old, _ := openPins(t, dir, smallSizes)
	old.Tables.Settings.Layout++ // another version wrote them
	must(t, old.Close())
	half := need(Load(smallSizes))(t)
	defer half.Close()
	half.pins = dir
	must(t, half.pinMaps())
	whole := statePins(t, dir)
	for left := len(whole) - 1; left >= 0; left-- { // it was killed after so many
		must(t, os.Remove(whole[left]))
		maps, lost := lookForPins(t, dir, smallSizes)
		if maps != nil || (lost == nil) != (left == 0) {
			t.Errorf("after %d maps were pinned: lost %v", left, lost)
		}
		closeMaps(maps)
	}
}

func TestOpenElsewhere(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	dir := t.TempDir()
	if d, _, err := Open(dir, smallSizes); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("open in %s, which is on no bpffs: %v, %v", dir, d, err)
	}
}

func TestOpenBadSizes(t *testing.T) {
	for name, change := range map[string]func(*Sizes){
		"places no power of two": func(s *Sizes) { s.Conns4 = 24 },
		"less than a set":        func(s *Sizes) { s.Conns6 = 4 },
		"no places":              func(s *Sizes) { s.Conns4 = 0 },
		"no overflow":            func(s *Sizes) { s.Overflow = 0 },
		"no services":            func(s *Sizes) { s.Services = 0 },
		"no real servers":        func(s *Sizes) { s.Reals = 0 },
		"no plans":               func(s *Sizes) { s.Plans = 0 },
	} {
		sizes := smallSizes
		change(&sizes)
		if d, err := Load(sizes); err == nil {
			d.Close()
			t.Errorf("%s: no error", name)
		}
		sizes.CPUs = 2
		if _, err := NewMemoryTables(sizes); err == nil {
			t.Errorf("%s: no error from memory tables", name)
		}
	}
}

// Memory tables have the shape of the kernel's.
func TestMemoryTables(t *testing.T) {
	needRoot(t)
	d := need(Load(smallSizes))(t)
	defer d.Close()
	sizes := smallSizes
	sizes.CPUs = d.Tables.CPUs
	m := need(NewMemoryTables(sizes))(t)
	for name, b := range contents(d.Tables) {
		if n := len(contents(m)[name]); n != len(b) {
			t.Errorf("table %s has %d bytes in memory, %d in the kernel", name, n, len(b))
		}
	}
	if m.Bytes() != d.Tables.Bytes() {
		t.Errorf("%d bytes in memory, %d in the kernel", m.Bytes(), d.Tables.Bytes())
	}
}

// Remove leaves nothing, and nothing to remove is no error.
func TestRemove(t *testing.T) {
	needRoot(t)
	dir := pinDir(t)
	must(t, Remove(dir))
	d, _ := openPins(t, dir, smallSizes)
	must(t, d.Close())
	statePins(t, dir)
	must(t, Remove(dir))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	must(t, Remove(dir))
}
