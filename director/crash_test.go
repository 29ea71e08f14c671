// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
)

// crashFile in the environment makes the test's binary a process that changes
// tables in shared memory until it is killed; crashSeed is its seed.
const (
	crashFile = "DIRECTOR_TEST_CRASH_FILE"
	crashSeed = "DIRECTOR_TEST_CRASH_SEED"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(crashFile); file != "" {
		crash(file)
	}
	os.Exit(m.Run())
}

// shared is what both processes map.
type shared struct {
	tables *bpf.Tables
	ports  *portMap
	rounds *uint64 // changes that the other process has made
}

// mapShared maps a file, which it makes if it has to.
func mapShared(file string) (*shared, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size = 4 << 20
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	like, err := bpf.NewMemoryTables(medium)
	if err != nil {
		return nil, err
	}
	s := &shared{ports: &carve[portMap](&memory, 1)[0], rounds: &carve[uint64](&memory, 8)[0]}
	s.tables = &bpf.Tables{
		Settings: &carve[bpf.Settings](&memory, 1)[0],
		Filter:   carve[uint64](&memory, len(like.Filter)),
		Services: carve[bpf.Service](&memory, len(like.Services)),
		Keys:     carve[bpf.Bucket](&memory, len(like.Keys)),
		Plans:    carve[uint32](&memory, len(like.Plans)),
		Reals:    carve[bpf.Real](&memory, len(like.Reals)),
		Counts:   carve[bpf.RealCounts](&memory, len(like.Counts)),
		Traffic:  carve[bpf.RealTraffic](&memory, len(like.Traffic)),
		Conns4:   carve[bpf.Conn4](&memory, len(like.Conns4)),
		Conns6:   carve[bpf.Conn6](&memory, len(like.Conns6)),
		Defense:  &carve[bpf.DefenseState](&memory, 1)[0],
		Guards:   carve[bpf.Guard](&memory, len(like.Guards)),
		Prefixes: carve[bpf.PrefixBucket](&memory, len(like.Prefixes)),
		Trees:    carve[bpf.PrefixTree](&memory, len(like.Trees)),
		CPUs:     like.CPUs,
	}
	return s, nil
}

// carve takes n items from the head of the memory, which stays aligned to 64.
func carve[T any](memory *[]byte, n int) []T {
	var zero T
	size := (n*int(unsafe.Sizeof(zero)) + 63) &^ 63
	items := unsafe.Slice((*T)(unsafe.Pointer(&(*memory)[0])), n)
	*memory = (*memory)[size:]
	return items
}

// crash changes the tables for ever.
func crash(file string) {
	s, err := mapShared(file)
	must(err)
	seed, err := strconv.ParseUint(os.Getenv(crashSeed), 10, 64)
	must(err)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorldOn(nil, s.tables)
	w.plane.ports = s.ports
	for {
		want := randomDesired(random)
		want.Interfaces = nil
		_ = w.d.apply(want) // full tables are as good a case
		w.d.setHops(randomHops(random))
		w.d.reap()
		w.d.reap()
		if random.IntN(8) == 0 {
			w.d.compact()
		}
		if random.IntN(16) == 0 {
			w.restart()
		}
		atomic.AddUint64(s.rounds, 1)
	}
}

// TestKill lets a process change tables, kills it between any two stores, and
// takes over: nothing is lost but what was not wanted, no connection changes
// hands, and the rows come to be those of a fresh start.
func TestKill(t *testing.T) {
	random := seeded(t)
	file := filepath.Join(t.TempDir(), "tables")
	s, err := mapShared(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, s.tables)
	w.plane.ports = s.ports
	want := randomDesired(random)
	want.Interfaces = nil
	w.wantWhatFits(want)
	w.setHops(randomHops(random))
	connectSome(w, random)
	for range 12 {
		runUntilKilled(t, file, s, random)
		before := fmt.Sprint(w.tables.Conns4, w.tables.Conns6)
		w.restart()
		w.mustRestore()
		want := randomDesired(random)
		want.Interfaces = nil
		w.wantWhatFits(want) // removed real servers take the rows until they are reaped
		expect(t, "connections", fmt.Sprint(w.tables.Conns4, w.tables.Conns6) == before, true)
		w.setHops(randomHops(random))
		w.tick()
		w.tick()
	}
	w.expire()
	w.tick()
	w.tick()
	last := randomDesired(random)
	last.Interfaces = nil
	last = w.wantWhatFits(last)
	w.setHops(allHops())
	w.follow()
	w.tick()
	w.tick()
	compareWithFresh(t, w, last)
}

// wantWhatFits leaves services out until the state is accepted, which it returns.
func (w *world) wantWhatFits(want Desired) Desired {
	w.t.Helper()
	for {
		err := w.d.apply(want)
		if err == nil {
			w.mustHold()
			return want
		}
		if len(want.Services) == 0 || !errors.Is(err, bpf.ErrFull) {
			w.t.Fatal(err)
		}
		want.Services = want.Services[1:]
	}
}

func runUntilKilled(t *testing.T, file string, s *shared, random *rand.Rand) {
	t.Helper()
	atomic.StoreUint64(s.rounds, 0)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashFile+"="+file, fmt.Sprint(crashSeed, "=", random.Uint64()))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); atomic.LoadUint64(s.rounds) < 3; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Error("the other process does nothing")
			break
		}
	}
	time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the other process ended by itself")
	}
}

// mustRestore looks at what a new process has found: every service that has a key
// has its row, its real servers and plans; nobody else has any.
func (w *world) mustRestore() {
	w.t.Helper()
	r := &report{}
	given := map[uint32]bool{}
	for key, id := range w.d.heritage.services {
		row := &w.tables.Services[id]
		r.is(!given[id] && row.Id == id && row.Protocol == uint8(key.Protocol), "service %s: row %d", key, id)
		given[id] = true
		plan := &row.Plan[row.Current&1]
		usable := map[uint32]bool{}
		for _, x := range w.d.heritage.reals[id] {
			usable[x.id] = true
		}
		for _, slot := range w.tables.Plans[plan.Base:][:plan.Length] {
			// A plan may be that of before a change: then it names one that has been marked as removed.
			if slot == bpf.NoReal {
				continue
			}
			named := &w.tables.Reals[slot]
			r.is(usable[slot] || named.Service != id, "service %s: plan names %d, which is nobody's", key, slot)
		}
	}
	for _, x := range w.d.leaving {
		r.is(x.row.Flags&(bpf.RealUsable|bpf.RealRemoved) == bpf.RealRemoved, "real server %d leaves, its row does not say so", x.id)
	}
	w.checkArena(r)
	if r.errs != nil {
		w.t.Fatal(r.errs)
	}
}

func allHops() map[netip.Addr]NextHop {
	hops := map[netip.Addr]NextHop{}
	for n := range 16 {
		a := randomAddr(n%2 == 0, n/2)
		hops[a] = hopFor(a)
	}
	return hops
}
