// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Trial is how the data plane loads on this kernel.
type Trial struct {
	Took time.Duration // of the verifier and the compiler, for the most part
	JIT  bool          // the program is machine code, not interpreted
}

// Try loads the data plane with small tables, and throws it away: nothing is attached or pinned.
func Try() (t Trial, err error) {
	start := time.Now()
	d, err := Load(Sizes{Conns4: ways, Conns6: ways, Overflow: 1, Services: 1, Reals: 1, Plans: 1})
	if err != nil {
		return t, err
	}
	t.Took = time.Since(start)
	defer func() { err = errors.Join(err, d.Close()) }()
	info, err := d.objects.Programs[directorProgDirector].Info()
	if err != nil {
		return t, fmt.Errorf("look at program: %w", err)
	}
	size, err := info.JitedSize()
	t.JIT = err == nil && size > 0
	_, err = d.Clock()
	return t, err
}

// Memory is how many bytes the tables take in the kernel.
func (s Sizes) Memory() (bytes uint64, err error) {
	if s, err = s.withCPUs(); err != nil {
		return 0, err
	}
	spec, err := sizedSpec(s)
	if err != nil {
		return 0, err
	}
	for _, m := range spec.Maps {
		bytes += uint64(m.ValueSize) * uint64(m.MaxEntries)
	}
	return bytes, nil
}

// Program is the director's program as the kernel has it.
type Program struct {
	Name string // cut by the kernel after 15 characters
	Tag  string // the kernel's hash of its instructions
	ID   uint32
}

// Program asks the kernel about the program that this data plane has loaded.
func (d *DataPlane) Program() (Program, error) {
	info, err := d.objects.Programs[directorProgDirector].Info()
	if err != nil {
		return Program{}, fmt.Errorf("look at program: %w", err)
	}
	id, _ := info.ID() // since Linux 4.13
	return Program{Name: info.Name, Tag: info.Tag, ID: uint32(id)}, nil
}

// PinnedPrograms are the ids of the programs whose links lie in the directory, by interface. Without
// the directory there are none.
func PinnedPrograms(dir string) (map[int]uint32, error) {
	d := &DataPlane{pins: dir}
	pinned, err := d.pinnedLinks()
	if err != nil {
		return nil, err
	}
	programs := make(map[int]uint32, len(pinned))
	for _, a := range pinned {
		path := d.linkPath(a)
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return nil, fmt.Errorf("open pinned link %s: %w", path, err)
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return nil, fmt.Errorf("look at pinned link %s: %w", path, err)
		}
		programs[a.Index] = uint32(info.Program)
	}
	return programs, nil
}

// ProgramName is the name of a loaded program, cut by the kernel after 15 characters.
func ProgramName(id uint32) (string, error) {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return "", fmt.Errorf("look at program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("look at program %d: %w", id, err)
	}
	return info.Name, nil
}
