// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// DataPlane is the loaded program with its tables. It may be used by one
// goroutine at a time, but Tables may be read by any.
type DataPlane struct {
	Tables *Tables
	Fresh  bool // the tables are new: nothing of a former process is in them
	// Moved is what was carried over from tables of other sizes, or of another version; nil: they were the same.
	Moved *Moved

	sizes   Sizes
	objects *ebpf.Collection
	unmap   []func() error
	former  *formerTables // tables of another version, seen as those of this one
	pins    string        // directory in bpffs; empty: nothing is pinned
}

// Load creates the maps and loads the program. Nothing is attached and nothing
// is pinned: when the process ends, it is gone.
func Load(sizes Sizes) (*DataPlane, error) {
	sizes, err := sizes.withCPUs()
	if err != nil {
		return nil, err
	}
	spec, err := sizedSpec(sizes)
	if err != nil {
		return nil, err
	}
	return load(spec, nil, sizes)
}

func load(spec *ebpf.CollectionSpec, replace map[string]*ebpf.Map, sizes Sizes) (*DataPlane, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("remove memlock limit: %w", err)
	}
	objects, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, fmt.Errorf("load data plane (Linux 6.1 or later is needed): %w", err)
	}
	d := &DataPlane{sizes: sizes, objects: objects}
	if err := d.mapTables(sizes.CPUs); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// A CPU makes at most answerLimit packets of its own (ICMP errors, resets, echo
// replies) in answerWindow jiffies, which is about a second, or a quarter of one
// where there are a thousand to the second.
const (
	answerLimit  = 1000
	answerWindow = 256
)

// sizedSpec is the blueprint with the sizes and the constants filled in.
func sizedSpec(s Sizes) (*ebpf.CollectionSpec, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	spec, err := loadDirector()
	if err != nil {
		return nil, fmt.Errorf("read data plane object: %w", err)
	}
	for name, n := range map[string]uint32{
		directorMapConns4:       s.Conns4 / ways,
		directorMapConns6:       s.Conns6 / ways,
		directorMapSplices4:     s.Conns4,
		directorMapOverflow:     s.Overflow,
		directorMapServices:     s.Services,
		directorMapServiceKeys:  s.keyBuckets(),
		directorMapPlans:        s.planChunks(),
		directorMapReals:        s.Reals,
		directorMapSources:      uint32(Sources),
		directorMapPools:        uint32(Pools),
		directorMapMarkShapes:   uint32(markSets * 2 * markShapes),
		directorMapMarkRules:    s.markBuckets(),
		directorMapGuards:       s.Services + 1,
		directorMapPrefixes:     s.prefixBuckets(),
		directorMapPrefixTrees:  uint32(prefixTrees),
		directorMapBudgets:      uint32(budgetBuckets),
		directorMapSamples:      uint32(s.CPUs),
		directorMapTraces:       uint32(MaxTraces),
		directorMapRealConns:    s.Reals,
		directorMapRealTraffic:  s.Reals * uint32(s.CPUs),
		directorMapDestinations: max(1, s.Destinations),
	} {
		spec.Maps[name].MaxEntries = n
	}
	for _, name := range []string{mapSettings, mapFilter, mapDefense} {
		// The loader adds it to sections; said here, it counts when pinned maps are compared too.
		spec.Maps[name].Flags |= unix.BPF_F_MMAPABLE
	}
	err = spec.Variables[directorVarConfig].Set(directorLoadConfig{
		Conn4Mask:        s.Conns4 - 1,
		Conn6Mask:        s.Conns6 - 1,
		ServiceMask:      s.keyBuckets() - 1,
		Cpus:             uint32(s.CPUs),
		UnprivilegedPort: 1024,
		AnswerLimit:      answerLimit,
		AnswerWindow:     answerWindow,
		TotalOrder:       totalOrder(),
	})
	if err != nil {
		return nil, fmt.Errorf("set constants: %w", err)
	}
	settings := Settings{HashKey: newHashKey(), CookieKey: newCookieKey()}
	settings.keepWaysBack()
	if err := spec.Variables[directorVarSettings].Set(settings); err != nil {
		return nil, fmt.Errorf("set settings: %w", err)
	}
	return spec, addLayout(spec)
}

// totalOrder tells the programs that a plain store publishes what was stored
// before it: so on x86 (Intel SDM volume 3, section 9.2), not on arm64.
func totalOrder() uint16 {
	if runtime.GOARCH == "amd64" {
		return 1
	}
	return 0
}

func (s Sizes) withCPUs() (Sizes, error) {
	if s.CPUs != 0 {
		return s, nil
	}
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return s, fmt.Errorf("count CPUs: %w", err)
	}
	s.CPUs = n
	return s, nil
}

// newHashKey draws the secret of the flow hash.
func newHashKey() (key directorHashKey) {
	b := make([]byte, binary.Size(key))
	rand.Read(b) // never fails (crypto/rand)
	if _, err := binary.Decode(b, binary.NativeEndian, &key); err != nil {
		panic(err) // cannot be: the size is the key's
	}
	key.Factor |= 1
	return key
}

// newCookieKey draws the secret of SYN cookies.
func newCookieKey() (key [2]uint64) {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return [2]uint64{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])}
}

// Maps that hold a section of the object. Their names are the compiler's.
const (
	mapSettings = ".data.settings"
	mapFilter   = ".data.filter"
	mapDefense  = ".data.defense"
)

func (d *DataPlane) mapTables(cpus int) error {
	t := &Tables{
		CPUs:         cpus,
		Destinations: int(entriesOf(d.objects.Maps[directorMapDestinations])),
		Overflow:     int(entriesOf(d.objects.Maps[directorMapOverflow])),
	}
	var settings []Settings
	var defense []DefenseState
	err := errors.Join(
		mapInto(d, &defense, mapDefense),
		mapInto(d, &settings, mapSettings),
		mapInto(d, &t.Filter, mapFilter),
		mapInto(d, &t.Services, directorMapServices),
		mapInto(d, &t.Keys, directorMapServiceKeys),
		mapInto(d, &t.Plans, directorMapPlans),
		mapInto(d, &t.Reals, directorMapReals),
		mapInto(d, &t.Sources, directorMapSources),
		mapInto(d, &t.Pools, directorMapPools),
		mapInto(d, &t.Counts, directorMapRealConns),
		mapInto(d, &t.Traffic, directorMapRealTraffic),
		mapInto(d, &t.Conns4, directorMapConns4),
		mapInto(d, &t.Conns6, directorMapConns6),
		mapInto(d, &t.Splices4, directorMapSplices4),
		mapInto(d, &t.MarkShapes, directorMapMarkShapes),
		mapInto(d, &t.MarkRules, directorMapMarkRules),
		mapInto(d, &t.Guards, directorMapGuards),
		mapInto(d, &t.Prefixes, directorMapPrefixes),
		mapInto(d, &t.Trees, directorMapPrefixTrees),
		mapInto(d, &t.Budgets, directorMapBudgets),
		mapInto(d, &t.Samples, directorMapSamples),
		mapInto(d, &t.Traces, directorMapTraces),
	)
	if err != nil {
		return err
	}
	t.Settings, t.Defense = &settings[0], &defense[0]
	d.Tables = t
	return nil
}

// entriesOf is how many entries a map has room for; a former version may lack it.
func entriesOf(m *ebpf.Map) uint32 {
	if m == nil {
		return 0
	}
	return m.MaxEntries()
}

// mapInto leaves rows nil where a former version had no such table.
func mapInto[T any](d *DataPlane, rows *[]T, name string) error {
	if d.former != nil && d.objects.Maps[name] == nil {
		return nil
	}
	if d.former.differs(name) {
		return recastInto(d, rows, name)
	}
	v, err := mapArray[T](d.objects.Maps[name])
	if err != nil {
		return err
	}
	*rows = v.items
	d.unmap = append(d.unmap, v.close)
	return nil
}

// Close gives the memory back. Tables must not be used any more. What is pinned goes on.
func (d *DataPlane) Close() error {
	err := d.unmapAll()
	d.objects.Close()
	return err
}

func (d *DataPlane) unmapAll() error {
	var errs []error
	for _, unmap := range d.unmap {
		errs = append(errs, unmap())
	}
	d.unmap, d.Tables = nil, nil
	return errors.Join(errs...)
}
