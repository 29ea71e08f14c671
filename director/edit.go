// SPDX-License-Identifier: Apache-2.0

package director

import (
	"cmp"
	"slices"

	"xdplvs/scheduler"
)

// editor changes the list of a service. Each step is one edit to the scheduler,
// as each ipvsadm command is to the kernel's.
type editor struct {
	d       *Director
	s       *service
	servers []scheduler.Server // s.reals, as the scheduler sees them
}

// applyReals adds, changes and removes real servers. In the end the list is the
// wanted one in IPVS's order, the last first, whatever it was before: the same
// configuration is the same list.
func (d *Director) applyReals(s *service, want []RealServer) {
	e := &editor{d, s, s.servers()}
	if len(s.reals) > 0 {
		e.reduce(want)
	}
	have := s.byKey()
	ahead := len(s.reals) // those that stood in the list already, and are not reached yet
	for _, w := range want {
		if have[w.Key] == nil {
			e.insert(ahead, w)
			continue
		}
		ahead--
		e.change(ahead, w)
	}
}

func (e *editor) step() { e.s.sched.Edit(e.servers) }

// reduce leaves those in the list that stay, in the wanted order.
func (e *editor) reduce(want []RealServer) {
	place := make(map[RealKey]int, len(want))
	for i := range want {
		place[want[i].Key] = i
	}
	for i := len(e.s.reals) - 1; i >= 0; i-- {
		r := e.s.reals[i]
		// Another method is another way to the server: its connections stay with the old one.
		if at, wanted := place[r.want.Key]; !wanted || want[at].Method != r.want.Method {
			e.remove(i)
		}
	}
	order := func(a, b *real) int { return cmp.Compare(place[b.want.Key], place[a.want.Key]) }
	if slices.IsSortedFunc(e.s.reals, order) {
		return
	}
	slices.SortFunc(e.s.reals, order)
	e.servers = e.s.servers()
	e.step()
}

func (e *editor) remove(i int) {
	e.d.retire(e.s, e.s.reals[i])
	e.s.reals = slices.Delete(e.s.reals, i, i+1)
	e.servers = slices.Delete(e.servers, i, i+1)
	e.step()
}

// insert adds a real server: its former row, or a new one.
func (e *editor) insert(i int, w RealServer) {
	r := e.d.adoptReal(e.s, w)
	if r == nil {
		r = e.d.comeBack(e.s.id, w)
	}
	if r == nil {
		r = e.d.newReal(e.s.id, w)
		r.founder = e.s.founding
	}
	e.d.beginShares(r)
	r.obey(&e.s.want)
	r.vip = e.s.want.Key.Addr
	e.d.obeyHealth(r, e.d.healthOf(e.s, w))
	if w.Method == Local && e.s.want.Key.Mark == 0 {
		e.d.watchVIP(r)
	}
	e.d.hopTo(r)
	e.s.reals = slices.Insert(e.s.reals, i, r)
	e.servers = slices.Insert(e.servers, i, r.forScheduler())
	e.step()
}

func (e *editor) change(i int, w RealServer) {
	r := e.s.reals[i]
	old := r.want
	if old.Name, old.SlowStart = w.Name, w.SlowStart; old == w {
		r.want = w
		return
	}
	r.setWant(w)
	e.d.obeyHealth(r, e.d.healthOf(e.s, w))
	e.d.hopTo(r) // its tunnel may be another
	e.servers[i] = r.forScheduler()
	e.step()
}

// changeScheduler lets another algorithm choose from now on, as if the real
// servers had been added one by one.
func (d *Director) changeScheduler(s *service, want *Service) {
	if s.want.remembers() || want.remembers() {
		d.forgetService(s)
	}
	s.sched, _ = newScheduler(*want) // compare has seen that it is known
	servers := s.servers()
	for i := len(servers) - 1; i >= 0; i-- {
		s.sched.Edit(servers[i:])
	}
}
