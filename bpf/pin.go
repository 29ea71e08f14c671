// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The sources that say what rows look like, and where they lie in their tables.
//
//go:embed abi.h hash.h service.h
var layoutSources embed.FS

// layout names the version of the rows: what was pinned with other rows cannot
// be read.
func layout() uint64 {
	h := fnv.New64a()
	for _, name := range []string{"abi.h", "hash.h", "service.h"} {
		source, err := layoutSources.ReadFile(name)
		if err != nil {
			panic(err) // cannot be: it is embedded
		}
		h.Write(source)
	}
	return h.Sum64()
}

// ErrIncompatible is wrapped by the reason why pinned tables were not taken over.
var ErrIncompatible = errors.New("pinned tables cannot be taken over")

// Open loads the data plane with tables that outlive the process, pinned in
// dir, which lies on a bpffs; it is mounted if it is missing. Tables that a
// former process left there are taken over, with their connections, if rows
// are the same; where sizes are others, they are moved to tables of the wanted ones while
// packets flow. Otherwise they are replaced by empty ones and lost
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
	maps, others, lost, err := pinnedMaps(dir, spec)
	if err != nil {
		return nil, nil, err
	}
	defer closeMaps(maps)
	if len(others) > 0 {
		if d, lost, err = migrate(dir, spec, sizes, maps, others); d != nil || err != nil {
			return d, nil, err
		}
		maps = closeMaps(maps)
	}
	if d, err = load(spec, maps, sizes); err != nil {
		return nil, lost, err
	}
	d.pins = dir
	if d.Fresh = maps == nil; d.Fresh {
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

// pinnedMaps opens what lies in dir. nil maps: there is nothing, or, with a
// reason, nothing that fits. others are those of other sizes.
func pinnedMaps(dir string, spec *ebpf.CollectionSpec) (maps map[string]*ebpf.Map, others []string, lost, err error) {
	if err := settlePins(dir); err != nil {
		return nil, nil, nil, err
	}
	maps = map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if !isState(name) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, pinName(name)), nil)
		if errors.Is(err, os.ErrNotExist) {
			return closeMaps(maps), nil, missing(dir, name), nil
		}
		if err != nil {
			return closeMaps(maps), nil, nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		maps[name] = m
	}
	if lost = sameLayout(maps[mapSettings]); lost == nil {
		others, lost = otherSizes(spec, maps)
	}
	if lost != nil {
		return closeMaps(maps), nil, lost, nil
	}
	return maps, others, nil, nil
}

// missing is why tables without one of them are lost; nil if there are none at all.
func missing(dir, name string) error {
	if paths, err := filepath.Glob(filepath.Join(dir, "map_*")); err != nil || len(paths) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s is missing", ErrIncompatible, name)
}

func sameLayout(settings *ebpf.Map) error {
	if want := binary.Size(Settings{}); int(settings.ValueSize()) != want {
		return fmt.Errorf("%w: they were written by another version", ErrIncompatible)
	}
	v, err := mapArray[Settings](settings)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIncompatible, err)
	}
	defer v.close()
	if v.items[0].Layout != layout() {
		return fmt.Errorf("%w: they were written by another version", ErrIncompatible)
	}
	return nil
}

// closeMaps returns nil, for those who have no maps then.
func closeMaps(maps map[string]*ebpf.Map) map[string]*ebpf.Map {
	for _, m := range maps {
		m.Close()
	}
	return nil
}

// pinMaps pins every map. The old ones go first, all of them: a crash in the
// middle leaves a set that is not whole, never a mixture.
func (d *DataPlane) pinMaps() error {
	old, err := filepath.Glob(filepath.Join(d.pins, "map_*"))
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("replace pinned map: %w", err)
		}
	}
	for name, m := range d.objects.Maps {
		if !isState(name) {
			continue
		}
		path := filepath.Join(d.pins, pinName(name))
		if err := m.Pin(path); err != nil {
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
