// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrIncompatible is wrapped by the reason why pinned tables were not taken over.
var ErrIncompatible = errors.New("pinned tables cannot be taken over")

// Open loads the data plane with tables that outlive the process, pinned in
// dir, which lies on a bpffs; it is mounted if it is missing. Tables that a
// former process left there are taken over, with their connections; where sizes
// are others, or rows are laid out as another version has them, they are moved to tables as
// wanted while packets flow. What cannot be taken over is replaced by empty ones and lost
// is the reason, wrapping ErrIncompatible.
func Open(dir string, sizes Sizes) (d *DataPlane, lost error, err error) {
	if err := MakePinDir(dir); err != nil {
		return nil, nil, err
	}
	if sizes, err = sizes.withCPUs(); err != nil {
		return nil, nil, err
	}
	spec, err := sizedSpec(sizes)
	if err != nil {
		return nil, nil, err
	}
	p, lost, err := pinnedTables(dir, spec)
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	if len(p.renewed) > 0 {
		if d, lost, err = migrate(dir, spec, sizes, p); d != nil || err != nil {
			return d, nil, err
		}
		p.close()
	}
	if d, err = load(spec, p.maps, sizes); err != nil {
		return nil, lost, err
	}
	d.pins = dir
	if d.Fresh = p.maps == nil; d.Fresh {
		err = d.pinMaps()
	}
	if err != nil {
		return nil, lost, errors.Join(err, d.Close())
	}
	return d, lost, nil
}

// MakePinDir makes the directory for Open, on a bpffs, which it mounts if it is
// missing. One that is there already is fine.
func MakePinDir(dir string) error {
	const root = "/sys/fs/bpf"
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err == nil && fs.Type != unix.BPF_FS_MAGIC && strings.HasPrefix(dir, root+"/") {
		if err := unix.Mount("bpf", root, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount bpffs on %s: %w", root, err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at pin directory %s: %w", dir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("pin directory %s is not on a bpffs", dir)
	}
	return nil
}

// pinName is a map's file: bpffs takes no dots.
func pinName(name string) string { return "map" + strings.ReplaceAll("_"+name, ".", "_") }

// isState tells whether a map is worth keeping: constants are compiled anew.
func isState(name string) bool { return name != ".rodata" && !strings.HasPrefix(name, ".rodata.") }

// pinned is what lies in a directory of pins.
type pinned struct {
	maps    map[string]*ebpf.Map // nil: there is nothing, or nothing that can be taken over
	renewed map[string]bool      // those that are not as the blueprint has them; empty: all of them are
	// Where another version has made them:
	former, now *layout
	rows        map[string]*formerRows
	left        []string // fields that have no place here
}

func (p *pinned) close() {
	for _, m := range p.maps {
		m.Close()
	}
	*p = pinned{}
}

// pinnedTables opens what lies in dir. lost is why it cannot be taken over.
func pinnedTables(dir string, spec *ebpf.CollectionSpec) (p *pinned, lost, err error) {
	if err := settlePins(dir); err != nil {
		return nil, nil, err
	}
	p = &pinned{maps: map[string]*ebpf.Map{}, renewed: map[string]bool{}}
	if lost, err = p.open(dir, spec); err == nil && lost == nil && p.maps != nil {
		lost = p.compare(spec)
	}
	if lost != nil || err != nil {
		p.close()
	}
	return p, lost, err
}

// open opens the maps of the blueprint, first the one that describes them. It is pinned last, so a set that has it was whole.
func (p *pinned) open(dir string, spec *ebpf.CollectionSpec) (lost, err error) {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(spec.Maps)), func(name string) bool { return !isState(name) || name == mapLayout })
	var former *layout
	for _, name := range append([]string{mapLayout}, names...) {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, pinName(name)), nil)
		switch {
		case err == nil:
			p.maps[name] = m
		case !errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		case former == nil:
			p.close()
			return missing(dir, name), nil
		case former.rows[name] != nil:
			return missing(dir, name), nil
		default:
			p.renewed[name] = true
		}
		if former == nil {
			if former, lost = p.describe(spec); lost != nil {
				return lost, nil
			}
		}
	}
	return nil, nil
}

// describe compares the description of what is pinned with the blueprint's.
func (p *pinned) describe(spec *ebpf.CollectionSpec) (former *layout, lost error) {
	var raw []byte
	if err := p.maps[mapLayout].Lookup(uint32(0), &raw); err != nil {
		return nil, fmt.Errorf("%w: read description of tables: %w", ErrIncompatible, err)
	}
	former, err := readLayout(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIncompatible, err)
	}
	wanted := spec.Maps[mapLayout].Contents[0].Value.([]byte)
	if bytes.Equal(raw, wanted) {
		return former, nil
	}
	p.renewed[mapLayout] = true
	if p.now, err = readLayout(wanted); err == nil {
		p.former = former
		p.rows, p.left, err = p.now.differences(former)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: another version has written them: %w", ErrIncompatible, err)
	}
	if !maps.Equal(valuesOf(former.enums[enumVerdict]), valuesOf(p.now.enums[enumVerdict])) {
		p.renewed[directorMapVerdicts] = true
	}
	return former, nil
}

// compare finds the maps that have to be made anew: those of other sizes, and with other rows.
func (p *pinned) compare(spec *ebpf.CollectionSpec) (lost error) {
	for name, m := range p.maps {
		err := spec.Maps[name].Compatible(m)
		switch {
		case err == nil && p.rows[name] == nil:
			continue
		case name == directorMapSamples && m.MaxEntries() != spec.Maps[name].MaxEntries:
			return fmt.Errorf("%w: they are for %d processors, not %d", ErrIncompatible, m.MaxEntries(), spec.Maps[name].MaxEntries)
		case m.Type() != spec.Maps[name].Type:
			return fmt.Errorf("%w: %w", ErrIncompatible, err)
		}
		p.renewed[name] = true
	}
	return nil
}

// missing is why tables without one of them are lost; nil if there are none at all.
func missing(dir, name string) error {
	if paths, err := filepath.Glob(filepath.Join(dir, "map_*")); err != nil || len(paths) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s is missing", ErrIncompatible, name)
}

// pinMaps pins every map. The old ones go first, all of them, and the description of the new ones comes last: a crash
// in the middle leaves a set that is not whole, never a mixture.
func (d *DataPlane) pinMaps() error {
	old, err := filepath.Glob(filepath.Join(d.pins, "map_*"))
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	description := filepath.Join(d.pins, pinName(mapLayout))
	for _, path := range append([]string{description}, old...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("replace pinned map: %w", err)
		}
	}
	names := slices.DeleteFunc(slices.Collect(maps.Keys(d.objects.Maps)), func(name string) bool { return !isState(name) || name == mapLayout })
	for _, name := range append(names, mapLayout) {
		if err := d.objects.Maps[name].Pin(filepath.Join(d.pins, pinName(name))); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// Remove takes everything off: programs, tables and the directory. That stays, empty, where it belongs to
// a directory of somebody else's.
func Remove(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	// Links first: no packet meets a program whose tables are half gone.
	for _, prefix := range []string{"xdp_", "map_", pinNext, pinDone} {
		for _, path := range paths {
			if strings.HasPrefix(filepath.Base(path), prefix) {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}
	if e := os.Remove(dir); e != nil && !errors.Is(e, os.ErrNotExist) && !errors.Is(e, os.ErrPermission) {
		err = errors.Join(err, e)
	}
	return err
}
