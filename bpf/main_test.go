// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// TestMain fails the run when a test left something behind: an open file, a
// mapping of a table, a pin, a program or a map that the kernel still holds.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	before := openFiles()
	code := m.Run()
	if code != 0 || isFuzzing() {
		return code // a worker's pipes are not ours
	}
	leaks := errors.Join(closeRigs(), before.leaked("open files"), leakedPins())
	// The library maps sections of the object, and leaves unmapping to the collector.
	runtime.GC()
	leaks = errors.Join(leaks, loaded.leaked(), leakedMappings())
	if leaks != nil {
		fmt.Fprintf(os.Stderr, "tests passed, but left behind:\n%v\n", leaks)
		return 1
	}
	return 0
}

func isFuzzing() bool {
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}

// files counts what the process has open, by what it is.
type files map[string]int

func openFiles() files {
	open := files{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return open
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && !ofRuntime(target) {
			open[target]++
		}
	}
	return open
}

// ofRuntime are files that Go opens when it first needs them, and keeps.
func ofRuntime(target string) bool {
	switch target {
	case "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "anon_inode:[pidfd]":
		return true
	}
	return strings.HasPrefix(target, "/sys/devices/system/cpu/") || strings.HasPrefix(target, "/proc/")
}

func (f files) leaked(what string) error {
	var errs []error
	for target, n := range openFiles() {
		if n > f[target] && !strings.HasPrefix(target, "socket:") && !strings.HasPrefix(target, "pipe:") {
			errs = append(errs, fmt.Errorf("%s: %d more of %s", what, n-f[target], target))
		}
	}
	return errors.Join(errs...)
}

// leakedMappings finds tables that are still mapped: they keep their maps alive.
func leakedMappings() error {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "bpf-map") {
			errs = append(errs, fmt.Errorf("mapping: %s", strings.TrimSpace(line)))
		}
	}
	return errors.Join(errs...)
}

// pinPattern are the directories that tests pin in, of this process.
func pinPattern() string { return fmt.Sprintf("/sys/fs/bpf/xdplvs-test-%d-*", os.Getpid()) }

func leakedPins() error {
	left, err := filepath.Glob(pinPattern())
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("pins: %v", left)
	}
	return err
}

// ids are the programs and maps that tests made the kernel load. The kernel
// gives ids out one after the other, so that of a freed object stays free.
type ids struct {
	mu       sync.Mutex
	programs map[ebpf.ProgramID]string
	maps     map[ebpf.MapID]string
}

var loaded = ids{programs: map[ebpf.ProgramID]string{}, maps: map[ebpf.MapID]string{}}

// note remembers what belongs to a plane.
func (i *ids) note(t testing.TB, c *ebpf.Collection) {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	for name, p := range c.Programs {
		info, err := p.Info()
		must(t, err)
		id, _ := info.ID()
		i.programs[id] = name
	}
	for name, m := range c.Maps {
		info, err := m.Info()
		must(t, err)
		id, _ := info.ID()
		i.maps[id] = name
	}
}

// leaked waits a little: the kernel frees after a grace period.
func (i *ids) leaked() error {
	var err error
	for range 200 {
		if err = i.alive(); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func (i *ids) alive() error {
	var errs []error
	for id, name := range i.programs {
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			errs = append(errs, fmt.Errorf("program %s, id %d", name, id), p.Close())
		}
	}
	for id, name := range i.maps {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			errs = append(errs, fmt.Errorf("map %s, id %d", name, id), m.Close())
		}
	}
	return errors.Join(errs...)
}

// noLeaks fails the test if it ends with more of the kernel's BPF objects open
// than it began with. Until then nothing is collected, because the collector
// closes what was forgotten. Call it first.
func noLeaks(t testing.TB) {
	t.Helper()
	percent := debug.SetGCPercent(-1)
	before := openFiles()
	t.Cleanup(func() {
		if err := before.leaked("open files"); err != nil {
			t.Error(err)
		}
		debug.SetGCPercent(percent)
	})
}

// needRoot skips a test that needs the kernel.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to load BPF programs")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// need returns value, or ends the test: need(f())(t).
func need[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
