// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"xdplvs/bpf"
)

func TestTry(t *testing.T) {
	bpf.NoLeaks(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to load programs")
	}
	trial, err := bpf.Try()
	if err != nil || trial.Took <= 0 {
		t.Fatalf("%+v, %v", trial, err)
	}
	// Kernels that always compile have no such file, or no other value.
	if text, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable"); err == nil && (text[0] != '0') != trial.JIT {
		t.Errorf("compiled: %v, bpf_jit_enable is %s", trial.JIT, text)
	}
}

// TestMemory: what is said before loading is what it is then, and what only packets see: a place has an entry, and room for
// what a SYN cookie leaves to translate.
func TestMemory(t *testing.T) {
	sizes := bpf.SmallSizes
	sizes.CPUs = 4
	before, err := sizes.Memory()
	must(t, err)
	tables, err := bpf.NewMemoryTables(sizes)
	must(t, err)
	if after := tables.Bytes(); before < after || before > after+after/4+4<<20 {
		t.Errorf("said %d bytes, the tables have %d", before, after)
	}
	larger := sizes
	larger.Conns4 *= 2
	twice, err := larger.Memory()
	must(t, err)
	if got, want := twice-before, uint64(sizes.Conns4)*(64+8); got != want {
		t.Errorf("%d more places for IPv4 take %d bytes more, want %d", sizes.Conns4, got, want)
	}
}

// TestPinnedPrograms: ours are told by the interfaces that they are on, and no others.
func TestPinnedPrograms(t *testing.T) {
	s := newSite(t)
	bpf.NoLeaks(t)
	if programs, err := bpf.PinnedPrograms(filepath.Join(t.TempDir(), "none")); err != nil || len(programs) > 0 {
		t.Errorf("without a directory: %v, %v", programs, err)
	}
	dir := bpf.PinDir(t)
	d := s.open(dir)
	a := s.mustAttach(d, bpf.Native)
	must(t, a.CloseLink())
	must(t, d.Close())
	attached, _ := s.program("eth0")
	programs, err := bpf.PinnedPrograms(dir)
	must(t, err)
	if !maps.Equal(programs, map[int]uint32{s.iface.Index: attached}) {
		t.Errorf("programs %v, the interface has %d", programs, attached)
	}
	if name, err := bpf.ProgramName(attached); err != nil || name != "director" {
		t.Errorf("program %d is %q, %v", attached, name, err)
	}
	if name, err := bpf.ProgramName(1<<31 - 1); err == nil {
		t.Errorf("a program that is not there is %q", name)
	}
}
