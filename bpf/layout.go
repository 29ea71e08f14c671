// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// What lies in the tables is described in a map of its own, which is pinned with them: type information (BTF) of their
// keys and rows, the enums that rows are made of, and samples of the hashes that tell where rows lie. Another version
// of the director finds out by it what it can take over. The kernel has type information of maps too, but shows
// it to those only that may do everything (CAP_SYS_ADMIN), which the daemon may not.
const mapLayout = "layout"

// layout is such a description.
type layout struct {
	keys, rows map[string]btf.Type // by map; there are no rows of what is no table
	enums      map[string]*btf.Enum
}

// Names in the description: that of the struct whose members are all rows, what is behind a map's name for its keys,
// and that of the samples.
const (
	layoutRoot   = "tables"
	layoutKey    = " key"
	layoutHashes = "hashes"
)

//go:embed abi.h
var abiSource string

// abiEnums are the names of the enums that Go and the programs agree on: what rows are made of.
func abiEnums() (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^enum (\w+) \{`).FindAllStringSubmatch(abiSource, -1) {
		names = append(names, m[1])
	}
	return names
}

// describe makes the description of a blueprint's tables.
func describe(spec *ebpf.CollectionSpec) ([]byte, error) {
	root := &btf.Struct{Name: layoutRoot}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if m := spec.Maps[name]; isState(name) && !transient[name] && m.Value != nil {
			root.Members = append(root.Members, btf.Member{Name: name, Type: rowType(m.Value)})
			if _, ok := m.Key.(*btf.Void); m.Key != nil && !ok {
				root.Members = append(root.Members, btf.Member{Name: name + layoutKey, Type: m.Key})
			}
		}
	}
	types := []btf.Type{root, sampleHashes()}
	for _, name := range abiEnums() {
		var enum *btf.Enum
		if err := spec.Types.TypeByName(name, &enum); err != nil {
			return nil, fmt.Errorf("describe tables: enum %s: %w", name, err)
		}
		types = append(types, enum)
	}
	b, err := btf.NewBuilder(types, nil)
	if err != nil {
		return nil, fmt.Errorf("describe tables: %w", err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("describe tables: %w", err)
	}
	return raw, nil
}

// transient maps hold nothing that is worth carrying: what a packet needs on its way, and what somebody looks at.
var transient = map[string]bool{
	directorMapWorks: true, directorMapAnswers: true, directorMapSamples: true,
	directorMapTraces: true, directorMapTraceNotes: true, directorMapTraceRing: true,
}

// rowType is what a map holds; the one variable, if it is a section.
func rowType(t btf.Type) btf.Type {
	if section, ok := t.(*btf.Datasec); ok && len(section.Vars) == 1 {
		t = section.Vars[0].Type
	}
	if v, ok := t.(*btf.Var); ok {
		t = v.Type
	}
	return t
}

// addLayout gives a blueprint the map that describes its tables.
func addLayout(spec *ebpf.CollectionSpec) error {
	raw, err := describe(spec)
	if err != nil {
		return err
	}
	spec.Maps[mapLayout] = &ebpf.MapSpec{
		Name: mapLayout, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(raw)), MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: raw}},
	}
	return nil
}

// readLayout reads a description.
func readLayout(raw []byte) (*layout, error) {
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read description of tables: %w", err)
	}
	l := &layout{map[string]btf.Type{}, map[string]btf.Type{}, map[string]*btf.Enum{}}
	var root *btf.Struct
	if err := spec.TypeByName(layoutRoot, &root); err != nil {
		return nil, fmt.Errorf("read description of tables: %w", err)
	}
	for _, m := range root.Members {
		if name, ok := strings.CutSuffix(m.Name, layoutKey); ok {
			l.keys[name] = m.Type
		} else {
			l.rows[m.Name] = m.Type
		}
	}
	for t, err := range spec.All() {
		if err != nil {
			return nil, fmt.Errorf("read description of tables: %w", err)
		}
		if enum, ok := t.(*btf.Enum); ok {
			l.enums[enum.Name] = enum
		}
	}
	return l, nil
}

// sampleHashes are results of the functions that say where rows lie: they tell whether two versions
// have the same ones. That Go's are those of the programs, tests hold.
func sampleHashes() *btf.Enum {
	s := Settings{HashKey: directorHashKey{Factor: 0x9e3779b97f4a7c15, Word: [10]uint32{3, 5, 7, 11, 13, 17, 19, 23, 29, 31}}}
	c := Conn{Ports: 0x12345678, Tag: uint64(protoTCP) << 8}
	addr := netip.MustParseAddr("2001:db8::1234:5678").As16()
	both := append(addr[:], addr[:]...)
	key := Key{Addr: netip.AddrFrom16(addr), Port: 443, Protocol: protoTCP}
	set := MarkSet{Factor: [6]uint64{3, 5, 7, 11, 13, 17}}
	return &btf.Enum{Name: layoutHashes, Size: 8, Values: []btf.EnumValue{
		{Name: "of IPv4 connections", Value: s.flowHash(&c, both[8:16])},
		{Name: "of IPv6 connections", Value: s.flowHash(&c, both)},
		{Name: "of their second sets", Value: uint64(table{n: 1 << 20}.other(5, 0x87654321))},
		{Name: "of services", Value: key.hash()},
		{Name: "of their second buckets", Value: uint64(secondBucket(key.hash()))},
		{Name: "of marks", Value: markHash(markWordsOf{1, 2, 3, 4, 5, 6}, &set)},
		{Name: "of prefixes", Value: prefixHash(netip.PrefixFrom(key.Addr, 48).Masked(), 3, s.HashKey.Factor)},
	}}
}

// limitsInRows are those of enum limit that rows depend on; the others are sizes.
var limitsInRows = []string{"PLAN_CHUNK", "WEIGHT_WHOLE", "NO_REAL"}

// sameMeaning tells whether numbers in the former rows mean what they mean here. That one side has names which
// the other has not is no difference: the mover leaves out connections that have one.
func (l *layout) sameMeaning(former *layout) error {
	var all []error
	for _, name := range slices.Sorted(maps.Keys(l.enums)) {
		if name == enumVerdict { // counted by name
			continue
		}
		had := valuesOf(former.enums[name])
		for _, v := range l.enums[name].Values {
			if name == "limit" && !slices.Contains(limitsInRows, v.Name) {
				continue
			}
			if was, ok := had[v.Name]; ok && was != v.Value {
				all = append(all, fmt.Errorf("%s %s was %d, and is %d", name, v.Name, was, v.Value))
			}
		}
	}
	return errors.Join(all...)
}

// Enums that more is known of.
const (
	enumVerdict   = "verdict"
	enumConnState = "conn_state"
	enumConnFlag  = "conn_flag"
)

// vocabulary is what the word of an entry may say.
type vocabulary struct {
	states map[uint8]bool
	flags  uint32
}

// words is the vocabulary of a version.
func (l *layout) words() *vocabulary {
	v := &vocabulary{states: map[uint8]bool{}}
	for _, state := range valuesOf(l.enums[enumConnState]) {
		v.states[uint8(state)] = true
	}
	for _, flag := range valuesOf(l.enums[enumConnFlag]) {
		v.flags |= uint32(flag)
	}
	return v
}

// knows tells whether the state and the flags of an entry are known; without a vocabulary they are.
func (v *vocabulary) knows(word uint32) bool {
	const flags = uint32(0xffff00)
	return v == nil || v.states[uint8(word&^connDead)] && word&flags&^v.flags == 0
}

// valuesOf are the values of an enum by name; none if there is no such enum.
func valuesOf(e *btf.Enum) map[string]uint64 {
	values := map[string]uint64{}
	if e != nil {
		for _, v := range e.Values {
			values[v.Name] = v.Value
		}
	}
	return values
}

// vital are the fields that nothing could be taken over without, as type and field.
var vital = []string{
	"conn.tag", "conn.word", "conn.ports", "conn.real", "conn.generation", "conn.last_use", "conn.link",
	"conn4.c", "conn4.saddr", "conn4.daddr", "conn6.c", "conn6.saddr", "conn6.daddr",
	"service.flags", "service.id", "service.current", "service.plan", "service.flow", "service.port", "service.protocol", "plan.base", "plan.length", "plan.kind",
	"service_key.addr", "service_key.port", "service_key.protocol", "service_key.id",
	"real.generation", "real.flags", "real.method", "real.service", "real.port", "real.addr",
	"runtime_settings.hash_key",
}

// formerRows is how a table is read whose rows are laid out otherwise.
type formerRows struct {
	from, to btf.Type
	key      *recast // nil: keys are the same, or numbers
	row      *recast
}

// differences finds the tables of a former version whose keys or rows are laid out otherwise. left are fields that have
// no place here. lost is why it cannot be taken over.
func (l *layout) differences(former *layout) (rows map[string]*formerRows, left []string, lost error) {
	if err := l.sameMeaning(former); err != nil {
		return nil, nil, err
	}
	rows = map[string]*formerRows{}
	for _, name := range slices.Sorted(maps.Keys(l.rows)) {
		from := former.rows[name]
		if from == nil || name == mapFilter { // new; or made of the keys
			continue
		}
		row, err := newRecast(name, from, l.rows[name])
		var key *recast
		if have := l.keys[name]; have != nil && former.keys[name] != nil {
			var e error
			key, e = newRecast(name, former.keys[name], have)
			err = errors.Join(err, e)
		}
		if err != nil {
			lost = errors.Join(lost, err)
			continue
		}
		left = append(left, row.left...)
		if key != nil && key.same() {
			key = nil
		}
		if key != nil || !row.same() {
			rows[name] = &formerRows{from, l.rows[name], key, row}
		}
	}
	return rows, slices.Compact(slices.Sorted(slices.Values(left))), lost
}
