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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Tables of other sizes are made beside the former ones, filled from them, and take their place with the
// program, while packets flow:
//
//  1. maps of sizes that stay are shared by both programs; the others are made anew and filled;
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
	old, new *DataPlane
	renewed  map[string]bool // maps that are made anew
	links    []*Attachment
	mover    *mover
	counted  []RealCounts // what counters of their own began with
	traffic  []RealTraffic
}

// otherSizes are the maps whose sizes are others than the blueprint's; nil and the reason, if there are
// other differences.
func otherSizes(spec *ebpf.CollectionSpec, have map[string]*ebpf.Map) (names []string, lost error) {
	for name, m := range have {
		want := spec.Maps[name].Copy()
		if want.Compatible(m) == nil {
			continue
		}
		want.MaxEntries = m.MaxEntries()
		if err := want.Compatible(m); err != nil || name == directorMapSamples {
			return nil, fmt.Errorf("%w: %w", ErrIncompatible, errors.Join(spec.Maps[name].Compatible(m)))
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// migrate makes a data plane of the blueprint from pinned maps of other sizes. lost is why it cannot, and
// everything is as before then.
func migrate(dir string, spec *ebpf.CollectionSpec, sizes Sizes, have map[string]*ebpf.Map, names []string) (d *DataPlane, lost, err error) {
	g := &migration{renewed: map[string]bool{mapSettings: true}}
	for _, name := range names {
		g.renewed[name] = true
	}
	if slices.ContainsFunc(connMaps, func(name string) bool { return g.renewed[name] }) {
		for _, name := range connMaps {
			g.renewed[name] = true
		}
	}
	if g.old, err = viewOf(have, sizes.CPUs); err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, g.old.unmapAll()) }()
	kept := maps.Clone(have)
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

// viewOf sees maps as tables.
func viewOf(have map[string]*ebpf.Map, cpus int) (*DataPlane, error) {
	d := &DataPlane{objects: &ebpf.Collection{Maps: have}}
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
		{directorMapMarkRules, copyMarks},
		{directorMapPrefixes, copyPrefixes},
	} {
		if !g.renewed[copy.name] {
			continue
		}
		if err := copy.rows(g.new.Tables, g.old.Tables); err != nil {
			return fmt.Errorf("%w: %w", ErrIncompatible, err)
		}
	}
	if g.renewed[directorMapDestinations] {
		r := Rehearsal{DataPlane: g.new, of: g.old}
		if err := r.copyMap(directorMapDestinations); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return nil // what has no room is chosen for anew
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
		g.mover = newMover(g.old.Tables, g.new.Tables, g.new.spill)
		err = g.carry()
	}
	undo := sync.OnceFunc(g.bridge())
	defer undo()
	time.Sleep(settleTime) // for packets that have begun to choose
	g.copyCounters()
	err = errors.Join(err, g.carry())
	if err == nil {
		err = g.replace()
	}
	if err != nil {
		return nil, errors.Join(err, dropNext(g.new.pins))
	}
	err = g.carry()
	time.Sleep(settleTime) // for packets in the former program
	err = errors.Join(err, g.carry())
	undo()
	g.addCounters()
	if g.mover != nil {
		g.new.Moved = &g.mover.n
	} else {
		g.new.Moved = &Moved{}
	}
	return nil, errors.Join(err, g.pinMoved())
}

// carry is a pass of the mover, with what lies outside the tables.
func (g *migration) carry() error {
	if g.mover == nil {
		return nil
	}
	g.mover.pass()
	return g.old.Overflow(func(key *ConnKey, c *Conn) bool { g.mover.outside(key, c); return true })
}

// spill puts a connection into the overflow map.
func (d *DataPlane) spill(key *ConnKey, c *Conn) error {
	return d.objects.Maps[directorMapOverflow].Update(key, c, ebpf.UpdateNoExist)
}

// bridge makes services choose by the flow's hash, in both programs, and let every segment begin a connection.
func (g *migration) bridge() (undo func()) {
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
	return func() {
		for _, undo := range undos {
			undo()
		}
	}
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
// go on with it, see settlePins.
func (g *migration) pinMoved() error {
	if err := os.Mkdir(filepath.Join(g.new.pins, pinDone), 0o700); err != nil {
		return fmt.Errorf("note that tables were moved: %w", err)
	}
	return settlePins(g.new.pins)
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
