// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"xdplvs/scheduler"
)

// service is a scheduler with its servers, called A, B, C … in the order added.
type service struct {
	t       testing.TB
	s       scheduler.Scheduler
	servers []scheduler.Server
	added   uint32
}

func newService(t testing.TB, name string, o scheduler.Options, weights ...uint32) *service {
	t.Helper()
	s, err := scheduler.New(name, o)
	if err != nil {
		t.Fatal(err)
	}
	v := &service{t: t, s: s}
	for _, w := range weights {
		v.add(w)
	}
	return v
}

func serverAddr(id uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 2, byte(id >> 8), byte(id)})
}

func (v *service) add(weight uint32) {
	s := scheduler.Server{ID: v.added, Addr: serverAddr(v.added), Port: 80, Weight: weight, LastWeight: weight}
	v.added++
	v.restore(s)
}

func (v *service) restore(s scheduler.Server) {
	v.servers = slices.Insert(v.servers, 0, s)
	v.s.Edit(v.servers)
}

func (v *service) at(name string) int {
	id := uint32(name[0] - 'A')
	return slices.IndexFunc(v.servers, func(s scheduler.Server) bool { return s.ID == id })
}

func (v *service) get(name string) *scheduler.Server { return &v.servers[v.at(name)] }

func (v *service) weigh(name string, weight uint32) {
	s := v.get(name)
	s.Weight = weight
	if weight > 0 {
		s.LastWeight = weight
	}
	v.s.Edit(v.servers)
}

func (v *service) remove(name string) scheduler.Server {
	s := *v.get(name)
	v.servers = slices.Delete(v.servers, v.at(name), v.at(name)+1)
	v.s.Edit(v.servers)
	return s
}

// pick makes one choice and counts it.
func (v *service) pick(p scheduler.Packet, c scheduler.Counting) string {
	v.t.Helper()
	i := v.s.Pick(p, v.servers)
	if i < 0 {
		return "-"
	}
	v.servers[i].Connect(c)
	return letter(v.servers[i].ID)
}

// picks makes n choices.
func (v *service) picks(n int, c scheduler.Counting) string {
	v.t.Helper()
	var names []string
	for range n {
		names = append(names, v.pick(scheduler.Packet{}, c))
	}
	return strings.Join(names, " ")
}

func letter(id uint32) string {
	if id == scheduler.NoServer {
		return "-"
	}
	return string(rune('A' + id))
}

func letters(ids []uint32) string {
	var names []string
	for _, id := range ids {
		names = append(names, letter(id))
	}
	return strings.Join(names, " ")
}

// seeded returns a generator whose seed is in the test's log.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
