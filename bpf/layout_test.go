// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// anotherVersion is how another version of the director has laid out its tables.
type anotherVersion struct {
	structs func(*btf.Struct) // changes the members of each; they are put in their places afterwards
	enums   map[string]func(*btf.Enum)
	without []string // maps that it has not
}

// writtenBy makes pinned tables those that another version would have left.
func writtenBy(t *testing.T, dir string, sizes Sizes, v anotherVersion) {
	t.Helper()
	now := need(sizedSpec(need(sizes.withCPUs())(t)))(t)
	then := need(sizedSpec(need(sizes.withCPUs())(t)))(t)
	delete(then.Maps, mapLayout)
	for _, name := range v.without {
		must(t, os.Remove(filepath.Join(dir, pinName(name))))
		delete(then.Maps, name)
	}
	for name, change := range v.enums {
		var enum *btf.Enum
		must(t, then.Types.TypeByName(name, &enum))
		change(enum)
	}
	if v.structs != nil {
		v.relay(t, dir, now, then)
	}
	if v.enums[enumVerdict] != nil {
		shiftVerdicts(t, dir)
	}
	must(t, addLayout(then))
	replacePin(t, dir, mapLayout, need(ebpf.NewMap(then.Maps[mapLayout]))(t))
}

// relay writes what the tables hold as the other version has it.
func (v *anotherVersion) relay(t *testing.T, dir string, now, then *ebpf.CollectionSpec) {
	seen := map[*btf.Struct]bool{}
	for _, name := range slices.Sorted(maps.Keys(then.Maps)) {
		was := then.Maps[name]
		if !isState(name) || transient[name] || was.Value == nil {
			continue
		}
		v.lay(rowType(was.Value), seen)
		key := need(newRecast(name, now.Maps[name].Key, was.Key))(t)
		row, err := newRecast(name, rowType(now.Maps[name].Value), rowType(was.Value))
		if err != nil {
			t.Fatal(err)
		}
		if row.from == row.to && slices.Equal(row.spans, identity(uint32(row.from)).spans) {
			continue
		}
		other := &DataPlane{
			objects: &ebpf.Collection{Maps: map[string]*ebpf.Map{name: need(ebpf.LoadPinnedMap(filepath.Join(dir, pinName(name)), nil))(t)}},
			former:  &formerTables{rows: map[string]*formerRows{name: {key: key, row: row}}},
		}
		if was.Type == ebpf.Array {
			key = identity(4)
			other.former.rows[name].key = nil
		}
		spec := was.Copy()
		spec.KeySize, spec.ValueSize, spec.Contents, spec.Key, spec.Value = uint32(key.to), uint32(row.to), nil, nil, nil
		to := need(ebpf.NewMap(spec))(t)
		must(t, other.entries(name, func(key, value []byte) error { return to.Put(key, value) }))
		must(t, other.objects.Maps[name].Close())
		replacePin(t, dir, name, to)
	}
}

// lay changes a type, and those it is made of, and gives members their places.
func (v *anotherVersion) lay(t btf.Type, seen map[*btf.Struct]bool) (size, align uint32) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Array:
		size, align = v.lay(t.Type, seen)
		return size * t.Nelems, align
	case *btf.Struct:
		if seen[t] {
			return t.Size, 8
		}
		seen[t] = true
		if t.Name == "bpf_devmap_val" { // the kernel's
			return t.Size, 4
		}
		v.structs(t)
		t.Size = 0
		for i := range t.Members {
			size, align := v.lay(t.Members[i].Type, seen)
			at := (t.Size + align - 1) / align * align
			t.Members[i].Offset, t.Size = btf.Bits(at*8), at+size
		}
		t.Size = (t.Size + 7) / 8 * 8
		return t.Size, 8
	default:
		n, err := btf.Sizeof(t)
		if err != nil {
			panic(err)
		}
		return uint32(n), uint32(n)
	}
}

func replacePin(t *testing.T, dir, name string, m *ebpf.Map) {
	t.Helper()
	path := filepath.Join(dir, pinName(name))
	must(t, os.Remove(path))
	must(t, m.Pin(path))
	must(t, m.Close())
}

// shifted gives all names another number.
func shifted(e *btf.Enum) {
	for i := range e.Values {
		e.Values[i].Value++
	}
}

// shiftVerdicts moves what was counted likewise.
func shiftVerdicts(t *testing.T, dir string) {
	from := need(ebpf.LoadPinnedMap(filepath.Join(dir, pinName(directorMapVerdicts)), nil))(t)
	defer from.Close()
	to := need(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: from.MaxEntries() + 1}))(t)
	perCPU := make([]uint64, need(ebpf.PossibleCPU())(t))
	for i := range from.MaxEntries() {
		must(t, from.Lookup(i, &perCPU))
		must(t, to.Put(i+1, perCPU))
	}
	replacePin(t, dir, directorMapVerdicts, to)
}

// oneMore puts a field in front that this version does not have.
func oneMore(s *btf.Struct) {
	s.Members = slices.Insert(s.Members, 0, btf.Member{Name: "bygone", Type: &btf.Int{Name: "u64", Size: 8}})
}

// fewer leaves out what can be done without.
func fewer(s *btf.Struct) {
	s.Members = slices.DeleteFunc(s.Members, func(m btf.Member) bool {
		return slices.Contains([]string{
			"conn.packets", "conn.peer", "real.held", "real.retired", "service.untracked", "service.mss", "runtime_settings.cookie_period", "guard.prefix6",
		}, s.Name+"."+m.Name)
	})
}

func reversed(s *btf.Struct) { slices.Reverse(s.Members) }

// TestOtherLayout: what a version left that has laid out rows otherwise goes on here: connections, numbers of
// services and real servers, and counters.
func TestOtherLayout(t *testing.T) {
	v4, v6 := families[0], families[1]
	all := anotherVersion{
		structs: func(s *btf.Struct) { reversed(s); oneMore(s) },
		enums:   map[string]func(*btf.Enum){enumVerdict: shifted},
		without: []string{directorMapProbes, directorMapClosed, directorMapBudgets},
	}
	for name, v := range map[string]struct {
		anotherVersion
		f    family
		left []string
	}{
		"more fields":                         {anotherVersion{structs: oneMore}, v4, []string{"conn.bygone", "real.bygone", "service.bygone"}},
		"fewer fields":                        {anotherVersion{structs: fewer}, v6, nil},
		"another order, verdicts, maps, IPv4": {all, v4, []string{"conn4.bygone"}},
		"another order, verdicts, maps, IPv6": {all, v6, []string{"conn6.bygone"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := v.f
			noLeaks(t)
			dir := pinDir(t)
			first, _ := openPins(t, dir, oneSet)
			before := begun(t, first, f)
			counts, traffic := slices.Clone(first.Tables.Counts), slices.Clone(first.Tables.Traffic)
			must(t, first.Close())
			writtenBy(t, dir, oneSet, v.anotherVersion)
			second, lost := openPins(t, dir, oneSet)
			defer func() { must(t, second.Close()) }()
			if lost != nil || second.Fresh || second.Moved == nil || !second.Moved.Rows {
				t.Fatalf("lost %v, fresh %t, moved %+v", lost, second.Fresh, second.Moved)
			}
			for _, field := range v.left {
				if !slices.Contains(second.Moved.Left, field) {
					t.Errorf("%s is not said to be left behind, only %v", field, second.Moved.Left)
				}
			}
			if got := need(second.Verdicts())(t); !maps.Equal(got, before.verdicts) {
				t.Errorf("verdicts are %v, were %v", got, before.verdicts)
			}
			if !slices.Equal(second.Tables.Counts, counts) || !slices.Equal(second.Tables.Traffic, traffic) {
				t.Errorf("counters are %v, were %v", second.Tables.Counts, counts)
			}
			goneOn(t, second, f, before)
			mustBeSettled(t, dir)
			fits, lost := lookForPins(t, dir, oneSet)
			if fits.maps == nil || lost != nil || len(fits.renewed) > 0 {
				t.Errorf("the next start would not find everything: %v, %v", lost, fits.renewed)
			}
			fits.close()
		})
	}
}

// TestOtherMeaning: what would be misread is not read, and the reason names what it was.
func TestOtherMeaning(t *testing.T) {
	resize := func(name, field string, size uint32) anotherVersion {
		return anotherVersion{structs: func(s *btf.Struct) {
			for i := range s.Members {
				if s.Name == name && s.Members[i].Name == field {
					s.Members[i].Type = &btf.Int{Name: "int", Size: size}
				}
			}
		}}
	}
	for name, test := range map[string]struct {
		anotherVersion
		reason string
	}{
		"a number":        {anotherVersion{enums: map[string]func(*btf.Enum){"conn_flag": shifted}}, "conn_flag CONN_CONTROLLED was 1025, and is 1024"},
		"a size":          {resize("real", "weight", 4), "real.weight had 4 bytes, and has 2"},
		"a field missing": {anotherVersion{structs: func(s *btf.Struct) { renameMember(s, "conn", "word", "state") }}, "conn.word is new, and nothing works without"},
		"a byte order":    {resizeTo("real", "port", "__u16"), "real.port has another byte order"},
	} {
		t.Run(name, func(t *testing.T) {
			now, then := layoutOf(t, anotherVersion{}), layoutOf(t, test.anotherVersion)
			if _, _, err := now.differences(then); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("the reason is %v, want %q", err, test.reason)
			}
		})
	}
}

func renameMember(s *btf.Struct, name, from, to string) {
	for i := range s.Members {
		if s.Name == name && s.Members[i].Name == from {
			s.Members[i].Name = to
		}
	}
}

func resizeTo(name, field, def string) anotherVersion {
	return anotherVersion{structs: func(s *btf.Struct) {
		for i := range s.Members {
			if s.Name == name && s.Members[i].Name == field {
				s.Members[i].Type = &btf.Typedef{Name: def, Type: &btf.Int{Name: "unsigned short", Size: 2}}
			}
		}
	}}
}

// layoutOf is the description that a version leaves.
func layoutOf(t *testing.T, v anotherVersion) *layout {
	t.Helper()
	sizes := smallSizes
	sizes.CPUs = 2
	spec := need(sizedSpec(sizes))(t)
	seen := map[*btf.Struct]bool{}
	for name, m := range spec.Maps {
		if v.structs != nil && m.Value != nil && !transient[name] && isState(name) {
			v.lay(rowType(m.Value), seen)
		}
	}
	for name, change := range v.enums {
		var enum *btf.Enum
		must(t, spec.Types.TypeByName(name, &enum))
		change(enum)
	}
	return need(readLayout(need(describe(spec))(t)))(t)
}

// TestUnknownWords: a connection whose state or flags this version does not know is not taken over, and not counted any more.
func TestUnknownWords(t *testing.T) {
	noLeaks(t)
	f := families[0]
	dir := pinDir(t)
	first, _ := openPins(t, dir, oneSet)
	begun(t, first, f)
	var strange Conn
	for i := range first.Tables.Conns4 {
		if c := &first.Tables.Conns4[i].C; c.Tag&tagMask == tagUsed && countOf(c.Word) == activeOne {
			c.Word |= 1 << 23 // a flag that nobody has yet
			strange = *c
			break
		}
	}
	count := first.Tables.Counts[strange.Real].Conns
	must(t, first.Close())
	writtenBy(t, dir, oneSet, anotherVersion{structs: oneMore})
	second, lost := openPins(t, dir, oneSet)
	defer func() { must(t, second.Close()) }()
	if lost != nil || second.Moved == nil || second.Moved.Lost != 1 {
		t.Fatalf("lost %v, moved %+v", lost, second.Moved)
	}
	if got := second.Tables.Counts[strange.Real].Conns; got != count-activeOne {
		t.Errorf("its real server has %#x connections, had %#x", got, count)
	}
}

// TestFormerServicesAreBridged: while both programs see packets, the former one chooses by the flow's hash, too; and
// what it had is back if the new one cannot take over.
func TestFormerServicesAreBridged(t *testing.T) {
	noLeaks(t)
	dir := pinDir(t)
	first, _ := openPins(t, dir, oneSet)
	begun(t, first, families[0])
	for i := range first.Tables.Services {
		if s := &first.Tables.Services[i]; s.Plan[0].Length > 0 {
			s.Flow = s.Plan[0]
		}
	}
	must(t, first.Close())
	writtenBy(t, dir, oneSet, anotherVersion{structs: reversed})
	p, lost := lookForPins(t, dir, oneSet)
	defer p.close()
	must(t, lost)
	old := need(viewOf(p, need(ebpf.PossibleCPU())(t)))(t)
	defer func() { must(t, old.unmapAll()) }()
	sizes := oneSet
	sizes.CPUs = 1
	g := &migration{pinned: p, old: old, new: &DataPlane{Tables: need(NewMemoryTables(sizes))(t)}}
	raw := old.former.raw[directorMapServices]
	before := bytes.Clone(raw)
	undo, err := g.bridge()
	must(t, err)
	old.former.look()
	bridged := 0
	for i := range old.Tables.Services {
		if s := &old.Tables.Services[i]; s.Flow.Length > 0 {
			bridged++
			if s.Flags&ServiceSloppy == 0 || s.Plan[s.Current&1].Kind != PlanMH {
				t.Errorf("service %d chooses by %+v, flags %#x", i, s.Plan[s.Current&1], s.Flags)
			}
		}
	}
	undo()
	if bridged == 0 || !bytes.Equal(raw, before) {
		t.Errorf("of %d services not all are what they were", bridged)
	}
}

// TestVitalFields: there are those that nothing works without.
func TestVitalFields(t *testing.T) {
	spec := need(loadDirector())(t)
	for _, name := range vital {
		of, field, _ := strings.Cut(name, ".")
		var s *btf.Struct
		if err := spec.Types.TypeByName(of, &s); err != nil || member(s, field) == nil {
			t.Errorf("no %s: %v", name, err)
		}
	}
	for name := range transient {
		if spec.Maps[name] == nil {
			t.Errorf("no map %s", name)
		}
	}
}

// TestBadDescription: a description that nobody can read is said, and no reason to fail.
func TestBadDescription(t *testing.T) {
	noLeaks(t)
	dir := pinDir(t)
	first, _ := openPins(t, dir, smallSizes)
	must(t, first.Close())
	m := need(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 64, MaxEntries: 1}))(t)
	must(t, m.Put(uint32(0), binary.LittleEndian.AppendUint64(make([]byte, 56), 7)))
	replacePin(t, dir, mapLayout, m)
	second, lost := openPins(t, dir, smallSizes)
	defer func() { must(t, second.Close()) }()
	if !errors.Is(lost, ErrIncompatible) || !strings.Contains(fmt.Sprint(lost), "description of tables") || !second.Fresh {
		t.Errorf("fresh %t, lost %v", second.Fresh, lost)
	}
}
