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
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Tables of other sizes, or with rows as another version lays them out, are made beside the former ones, filled from them, and
// take their place with the program, while packets flow:
//
//  1. maps that stay as they are are shared by both programs; the others are made anew and filled;
//  2. new connections are chosen for by the hash of their flow, so that whichever program sees the second
//     packet of one decides as the other did for the first;
//  3. what has changed since is carried, the program on each interface is replaced, and the rest is carried;
//  4. plans are what they were, and the new maps are pinned.

// Prefixes of the names of pins while tables change: what is made, and that it is all in use.
const (
	pinNext = "next_"
	pinDone = "moved"
)

// settleTime is how long a packet may be in a program that was replaced, and much more.
const settleTime = 2 * time.Millisecond

// connMaps go together: their entries name each other's places.
var connMaps = []string{directorMapConns4, directorMapConns6, directorMapOverflow, directorMapSplices4}

// migration is one way from former tables to others.
type migration struct {
	*pinned
	old, new *DataPlane
	links    []*Attachment
	mover    *mover
	counted  []RealCounts // what counters of their own began with
	traffic  []RealTraffic
}

// migrate makes a data plane of the blueprint from pinned maps of other sizes, or of another version. lost is why it
// cannot, and everything is as before then.
func migrate(dir string, spec *ebpf.CollectionSpec, sizes Sizes, p *pinned) (d *DataPlane, lost, err error) {
	g := &migration{pinned: p}
	g.renewed[mapSettings] = true
	if slices.ContainsFunc(connMaps, func(name string) bool { return g.renewed[name] }) {
		for _, name := range connMaps {
			g.renewed[name] = true
		}
	}
	if g.old, err = viewOf(p, sizes.CPUs); err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, g.old.unmapAll()) }()
	kept := maps.Clone(p.maps)
	maps.DeleteFunc(kept, func(name string, _ *ebpf.Map) bool { return g.renewed[name] })
	if g.new, err = load(spec, kept, sizes); err != nil {
		return nil, nil, err
	}
	g.new.pins = dir
	if lost = g.fill(); lost == nil {
		lost, err = g.swap()
	}
	if lost != nil || err != nil {
		return nil, lost, errors.Join(err, g.new.Close())
	}
	return g.new, nil, nil
}

// viewOf sees maps as tables of this version.
func viewOf(p *pinned, cpus int) (*DataPlane, error) {
	d := &DataPlane{objects: &ebpf.Collection{Maps: p.maps}}
	if p.former != nil {
		d.former = &formerTables{rows: p.rows, raw: map[string][]byte{}}
	}
	if err := d.mapTables(cpus); err != nil {
		return nil, errors.Join(err, d.unmapAll())
	}
	return d, nil
}

// fill copies what only userspace writes, and finds out whether all of it has room.
func (g *migration) fill() error {
	*g.new.Tables.Settings = *g.old.Tables.Settings
	for _, copy := range []struct {
		name string
		rows func(to, from *Tables) error
	}{
		{directorMapServices, copyServices},
		{directorMapServiceKeys, copyKeys},
		{directorMapGuards, func(to, from *Tables) error { copy(to.Guards, from.Guards); return nil }},
		{directorMapPlans, copyPlans},
		{directorMapReals, copyReals},
		{directorMapSources, func(to, from *Tables) error { return copyRows("source", to.Sources, from.Sources) }},
		{directorMapPools, func(to, from *Tables) error { return copyRows("pool of sources", to.Pools, from.Pools) }},
		{directorMapMarkRules, copyMarks},
		{directorMapMarkShapes, func(to, from *Tables) error { return copyAll("marking rules", to.MarkShapes, from.MarkShapes) }},
		{directorMapPrefixes, copyPrefixes},
		{directorMapPrefixTrees, func(to, from *Tables) error { return copyAll("prefix lists", to.Trees, from.Trees) }},
		{directorMapBudgets, copyBudgets},
		{mapDefense, func(to, from *Tables) error { *to.Defense = *from.Defense; return nil }},
		{mapFilter, func(to, _ *Tables) error { NewKeyTable(to); return nil }},
	} {
		if !g.renewed[copy.name] || g.maps[copy.name] == nil {
			continue
		}
		if err := copy.rows(g.new.Tables, g.old.Tables); err != nil {
			return fmt.Errorf("%w: %w", ErrIncompatible, err)
		}
	}
	return g.fillMaps()
}

// fillMaps copies maps that are no memory of ours. Of what packets write, whatever has no room is made anew when it is needed.
func (g *migration) fillMaps() error {
	for name, needed := range map[string]bool{
		directorMapAnswered: true, directorMapClosed: true, directorMapTxPorts: true,
		directorMapDestinations: false, directorMapFragments: false, directorMapProbes: false,
	} {
		if !g.renewed[name] {
			continue
		}
		to := g.new.objects.Maps[name]
		err := g.old.entries(name, func(key, value []byte) error { return to.Put(key, value) })
		if err != nil && needed {
			return fmt.Errorf("%w: %w", ErrIncompatible, err)
		}
	}
	return nil
}

func inUse(what string, number, room int) error {
	return fmt.Errorf("%s %d is in use, and there would be room for %d", what, number, room)
}

func copyServices(to, from *Tables) error {
	copy(to.Services, from.Services)
	for _, e := range (&KeyTable{t: from}).All() {
		if int(e.Service) < len(from.Services) && int(e.Service) >= len(to.Services) {
			return inUse("service", int(e.Service), len(to.Services))
		}
	}
	return nil
}

func copyKeys(to, from *Tables) error {
	keys := KeyTable{t: to}
	for _, e := range (&KeyTable{t: from}).All() {
		if err := keys.place(e.Key, e.Service); err != nil {
			return err
		}
	}
	return nil
}

func copyPlans(to, from *Tables) error {
	copy(to.Plans, from.Plans)
	for i := range from.Services {
		s := &from.Services[i]
		for _, p := range []*Plan{&s.Plan[0], &s.Plan[1], &s.Flow} {
			if end := int(p.Base) + int(p.Length); p.Length > 0 && end > len(to.Plans) {
				return inUse("plan slot", end-1, len(to.Plans))
			}
		}
	}
	return nil
}

func copyReals(to, from *Tables) error {
	copy(to.Reals, from.Reals)
	for i := len(to.Reals); i < len(from.Reals); i++ {
		if from.Reals[i].Addr != [16]byte{} {
			return inUse("real server", i, len(to.Reals))
		}
	}
	return nil
}

// copyRows copies rows that go by number; those that are not 0 need room.
func copyRows[T comparable](what string, to, from []T) error {
	copy(to, from)
	var zero T
	for i := len(to); i < len(from); i++ {
		if from[i] != zero {
			return inUse(what, i, len(to))
		}
	}
	return nil
}

// copyAll copies rows whose places depend on how many there are.
func copyAll[T any](what string, to, from []T) error {
	if len(to) != len(from) {
		return fmt.Errorf("%s are in %d rows, not %d", what, len(from), len(to))
	}
	copy(to, from)
	return nil
}

// copyBudgets: in a table of another size all begin anew.
func copyBudgets(to, from *Tables) error {
	if len(to.Budgets) == len(from.Budgets) {
		copy(to.Budgets, from.Budgets)
	}
	return nil
}

// copyMarks keeps the rules that are in force; the set that is not is free.
func copyMarks(to, from *Tables) error {
	if from.Settings.Marking == MarksNone {
		return nil
	}
	which := from.Settings.MarkSet % markSets
	set, half := (*MarkSet)(&to.Settings.MarkSets[which]), uint32(len(to.MarkRules)/markSets)
	if set.Mask >= half {
		return inUse("entry of marking rules", int(set.Mask), int(half))
	}
	copy(to.MarkRules[which*half:], from.MarkRules[set.Base:][:set.Mask+1])
	set.Base = which * half
	return nil
}

func copyPrefixes(to, from *Tables) error {
	which := from.Settings.PrefixSet % prefixSets
	set, half := &to.Settings.PrefixSets[which], uint32(len(to.Prefixes)/prefixSets)
	used := from.Prefixes[set.Base:][:min(int(set.Mask)+1, len(from.Prefixes))]
	if set.Mask < half {
		copy(to.Prefixes[which*half:], used)
		set.Base = which * half
		return nil
	}
	if slices.ContainsFunc(used, func(b PrefixBucket) bool { return b != PrefixBucket{} }) {
		return inUse("entry of prefix lists", int(set.Mask), int(half))
	}
	set.Base, set.Mask = which*half, half-1
	return nil
}

// swap lets the new program take the place of the former one everywhere.
func (g *migration) swap() (lost, err error) {
	if err := g.openLinks(); err != nil {
		return fmt.Errorf("%w: %w", ErrIncompatible, err), nil
	}
	defer g.closeLinks()
	if err := g.pinNext(); err != nil {
		return nil, errors.Join(err, dropNext(g.new.pins))
	}
	if g.renewed[directorMapConns4] {
		if g.mover, err = newMover(g.old, g.new, g.new.spill, g.words()); err == nil {
			err = g.carry()
		}
	}
	undo, failed := g.bridge()
	defer undo()
	time.Sleep(settleTime) // for packets that have begun to choose
	g.copyCounters()
	if err = errors.Join(err, failed); err == nil {
		err = g.carry()
	}
	if err == nil {
		err = errors.Join(g.copyVerdicts(), g.replace())
	}
	if err != nil {
		return nil, errors.Join(err, dropNext(g.new.pins))
	}
	err = g.carry()
	time.Sleep(settleTime) // for packets in the former program
	err = errors.Join(err, g.carry())
	undo()
	g.addCounters()
	g.new.Moved = &Moved{}
	if g.mover != nil {
		g.mover.giveBack()
		g.new.Moved = &g.mover.n
	}
	g.new.Moved.Rows, g.new.Moved.Left = g.former != nil, g.left
	return nil, errors.Join(err, g.pinMoved())
}

// words is what entries may say that are carried; nil: all that they say is this version's.
func (g *migration) words() *vocabulary {
	if g.former == nil {
		return nil
	}
	return g.now.words()
}

// carry is a pass of the mover, with what lies outside the tables.
func (g *migration) carry() error {
	if g.mover == nil {
		return nil
	}
	g.old.former.look()
	g.mover.pass()
	return g.old.entries(directorMapOverflow, func(key, value []byte) error {
		var k ConnKey
		var c Conn
		copy(memoryOf(&k), key)
		copy(memoryOf(&c), value)
		g.mover.outside(&k, &c)
		return nil
	})
}

// memoryOf is a row as it lies in memory.
func memoryOf[T any](row *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(row)), unsafe.Sizeof(*row))
}

// spill puts a connection into the overflow map.
func (d *DataPlane) spill(key *ConnKey, c *Conn) error {
	return d.objects.Maps[directorMapOverflow].Update(key, c, ebpf.UpdateNoExist)
}

// bridge makes services choose by the flow's hash, in both programs, and let every segment begin a connection.
// undo may be called again.
func (g *migration) bridge() (undo func(), err error) {
	tables := []*Tables{g.new.Tables}
	if g.renewed[directorMapServices] {
		tables = append(tables, g.old.Tables)
	}
	var undos []func()
	for _, t := range tables {
		for i := range t.Services {
			if s := &t.Services[i]; s.Flow.Length > 0 {
				undos = append(undos, s.bridge())
			}
		}
	}
	err = g.tellServices("plan", "flags", "current")
	return sync.OnceFunc(func() {
		for _, undo := range undos {
			undo()
		}
		if g.tellServices("current", "plan", "flags") != nil {
			return // it would have failed before
		}
	}), err
}

// tellServices writes fields of the former services to where the former program reads them.
func (g *migration) tellServices(fields ...string) error {
	if !g.old.former.differs(directorMapServices) {
		return nil
	}
	return g.old.former.tell(g.old.Tables.Services, fields...)
}

const bridging = ServiceSloppy | ServiceHashPort | ServiceFallback

func (s *Service) bridge() (undo func()) {
	flags, current := s.Flags, s.Current
	other := &s.Plan[1-current&1]
	spare := *other
	hashed := s.Plan[current&1].Kind == PlanDH || s.Plan[current&1].Kind == PlanSH || s.Plan[current&1].Kind == PlanMH
	if hashed {
		atomic.OrUint32(&s.Flags, ServiceSloppy)
	} else {
		*other = Plan{Base: s.Flow.Base, Length: s.Flow.Length, Kind: PlanMH}
		atomic.OrUint32(&s.Flags, bridging)
		atomic.StoreUint32(&s.Current, 1-current&1)
	}
	return func() {
		atomic.StoreUint32(&s.Current, current)
		*other = spare
		atomic.AndUint32(&s.Flags, flags|^bridging)
	}
}

// copyCounters takes over what packets count, where the counters are others.
func (g *migration) copyCounters() {
	g.old.former.look()
	if g.renewed[directorMapServices] {
		for i := range min(len(g.old.Tables.Services), len(g.new.Tables.Services)) {
			to, from := &g.new.Tables.Services[i], &g.old.Tables.Services[i]
			to.Cursor, to.NoReal, to.Untracked = from.Cursor, from.NoReal, from.Untracked
		}
	}
	if g.renewed[directorMapRealConns] {
		g.counted = slices.Clone(g.old.Tables.Counts)
		copy(g.new.Tables.Counts, g.counted)
	}
	if g.renewed[directorMapRealTraffic] {
		g.traffic = slices.Clone(g.old.Tables.Traffic)
		copy(g.new.Tables.Traffic, g.traffic)
	}
}

// addCounters adds what was counted in the former ones since.
func (g *migration) addCounters() {
	g.old.former.look()
	for i := range min(len(g.counted), len(g.new.Tables.Counts)) {
		to, from, was := &g.new.Tables.Counts[i], &g.old.Tables.Counts[i], &g.counted[i]
		atomic.AddUint64(&to.Conns, atomic.LoadUint64(&from.Conns)-was.Conns)
		atomic.AddUint32(&to.Templates, atomic.LoadUint32(&from.Templates)-was.Templates)
		atomic.AddUint32(&to.Refused, atomic.LoadUint32(&from.Refused)-was.Refused)
	}
	for i := range min(len(g.traffic), len(g.new.Tables.Traffic)) {
		to, from, was := &g.new.Tables.Traffic[i].N, &g.old.Tables.Traffic[i].N, &g.traffic[i].N
		atomic.AddUint64(&to.Conns, from.Conns-was.Conns)
		atomic.AddUint64(&to.InPackets, from.InPackets-was.InPackets)
		atomic.AddUint64(&to.OutPackets, from.OutPackets-was.OutPackets)
		atomic.AddUint64(&to.InBytes, from.InBytes-was.InBytes)
		atomic.AddUint64(&to.OutBytes, from.OutBytes-was.OutBytes)
	}
}

// copyVerdicts takes over what was counted under names that are still known, where their numbers are others. What the former program
// counts in its last moments is not among it.
func (g *migration) copyVerdicts() error {
	if !g.renewed[directorMapVerdicts] {
		return nil
	}
	now := valuesOf(g.now.enums[enumVerdict])
	perCPU := make([]uint64, g.new.Tables.CPUs)
	for name, number := range valuesOf(g.former.enums[enumVerdict]) {
		to, ok := now[name]
		if !ok || to >= uint64(directorVerdictVERDICTS) || number >= uint64(g.maps[directorMapVerdicts].MaxEntries()) {
			continue
		}
		if err := g.maps[directorMapVerdicts].Lookup(uint32(number), &perCPU); err != nil {
			return fmt.Errorf("read former verdict %s: %w", name, err)
		}
		if err := g.new.objects.Maps[directorMapVerdicts].Put(uint32(to), perCPU); err != nil {
			return fmt.Errorf("write verdict %s: %w", name, err)
		}
	}
	return nil
}

// openLinks finds the interfaces that have the former program.
func (g *migration) openLinks() error {
	pinned, err := g.new.pinnedLinks()
	if err != nil {
		return err
	}
	for _, a := range pinned {
		if a.link, err = link.LoadPinnedLink(g.new.linkPath(a), nil); err != nil {
			return fmt.Errorf("open pinned link %s: %w", g.new.linkPath(a), err)
		}
		g.links = append(g.links, a)
	}
	return nil
}

func (g *migration) closeLinks() {
	for _, a := range g.links {
		a.link.Close()
	}
}

// replace puts the new program on all of them, or none. One whose interface is gone is left alone.
func (g *migration) replace() error {
	var replaced []func() error
	for _, a := range g.links {
		info, err := a.link.Info()
		if err != nil || info.XDP() == nil || info.XDP().Ifindex == 0 {
			continue
		}
		former, err := ebpf.NewProgramFromID(info.Program)
		if err == nil {
			defer former.Close()
			err = a.link.Update(g.new.objects.Programs[directorProgDirector])
		}
		if err != nil {
			err = fmt.Errorf("replace program on interface %d: %w", a.Index, err)
			for _, back := range replaced {
				err = errors.Join(err, back())
			}
			return err
		}
		replaced = append(replaced, func() error { return a.link.Update(former) })
	}
	return nil
}

// pinNext pins the new maps beside the former ones.
func (g *migration) pinNext() error {
	for name := range g.renewed {
		if err := g.new.objects.Maps[name].Pin(filepath.Join(g.new.pins, pinNext+pinName(name))); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// pinMoved gives the new maps the place of the former ones. From the first step on another process would
// go on with it, see settlePins. Maps that this version does not have go.
func (g *migration) pinMoved() error {
	if err := os.Mkdir(filepath.Join(g.new.pins, pinDone), 0o700); err != nil {
		return fmt.Errorf("note that tables were moved: %w", err)
	}
	err := settlePins(g.new.pins)
	if g.former == nil || err != nil {
		return err
	}
	for name := range g.former.rows {
		if g.new.objects.Maps[name] == nil {
			err = errors.Join(err, os.Remove(filepath.Join(g.new.pins, pinName(name))))
		}
	}
	return err
}

// settlePins ends what a process began that changed tables: forward if they were all in use, else back.
func settlePins(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, pinDone)); errors.Is(err, os.ErrNotExist) {
		return dropNext(dir)
	}
	paths, err := filepath.Glob(filepath.Join(dir, pinNext+"*"))
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	for _, path := range paths {
		if err := os.Rename(path, filepath.Join(dir, strings.TrimPrefix(filepath.Base(path), pinNext))); err != nil {
			return fmt.Errorf("replace pinned map: %w", err)
		}
	}
	return os.Remove(filepath.Join(dir, pinDone))
}

// dropNext removes what was made and is not used.
func dropNext(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, pinNext+"*"))
	for _, path := range paths {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
