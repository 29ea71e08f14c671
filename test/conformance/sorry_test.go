// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"slices"

	"xdplvs/director"
	"xdplvs/scheduler"
)

// apology is what a history knows of its service's sorry servers: as of the real
// servers, the counts are the node's and the choices the scheduler's.
type apology struct {
	sched   scheduler.Scheduler // nil: there are no sorry servers
	servers []scheduler.Server
	lost    bool // the quorum
}

// firstSorry is the number of the first sorry server.
const firstSorry = 200

// apologize gives the service up to three sorry servers.
func (h *history) apologize() {
	h.t.Helper()
	n := h.random.IntN(4)
	if n == 0 {
		return
	}
	var err error
	if h.apology.sched, err = scheduler.New("wlc", scheduler.Options{}); err != nil {
		h.t.Fatal(err)
	}
	for i := range n {
		r := director.RealServer{
			Key: director.RealKey{Addr: h.draw(h.random), Port: 80}, Method: director.DirectRouting,
			Weight: uint32(h.random.IntN(4)), Upper: uint32(h.random.IntN(2) * h.random.IntN(9)),
		}
		h.service.Sorry = append(h.service.Sorry, r)
		h.apology.servers = slices.Insert(h.apology.servers, 0, scheduler.Server{
			ID: uint32(firstSorry + i), Addr: r.Key.Addr, Port: 80, Weight: r.Weight, LastWeight: r.Weight, Upper: r.Upper,
		})
		h.reached[firstSorry+i] = true
		h.apology.sched.Edit(h.apology.servers)
	}
	if err := h.set(h.service); err != nil {
		h.t.Fatal(err)
	}
	h.reachAll()
}

// waver lets the quorum be lost or come back, or a sorry server be reached or not.
func (h *history) waver() {
	h.t.Helper()
	if h.apology.sched == nil {
		return
	}
	if h.random.IntN(2) == 0 {
		i := firstSorry + h.random.IntN(len(h.apology.servers))
		h.reached[i] = h.random.IntN(3) > 0
		h.log = append(h.log, fmt.Sprintf("%d reached: %v", i, h.reached[i]))
		h.reachAll()
		return
	}
	h.apology.lost = h.random.IntN(3) == 0
	h.log = append(h.log, fmt.Sprintf("quorum lost: %v", h.apology.lost))
	if err := h.director.SetQuorum(h.ctx, h.service.Key, !h.apology.lost); err != nil {
		h.t.Fatal(err)
	}
}

// refreshSorry takes over what the node has counted.
func (h *history) refreshSorry(counted []director.RealState) {
	h.t.Helper()
	if len(counted) != len(h.apology.servers) {
		h.t.Fatalf("%d sorry servers are listed, want %d", len(counted), len(h.apology.servers))
	}
	for i, r := range counted {
		s := &h.apology.servers[i]
		s.Active, s.Inactive, s.Overloaded = r.Active, r.Inactive, r.Overloaded || !r.Reachable
	}
}

// wantedFor is the number of the server that a new connection should get.
func (h *history) wantedFor(p scheduler.Packet) int {
	a := &h.apology
	able := func(s scheduler.Server) bool { return s.Weight > 0 && h.reached[int(s.ID)] }
	if a.lost && slices.ContainsFunc(a.servers, able) {
		return numberOf(a.sched, p, a.servers)
	}
	if n := numberOf(h.sched, p, h.servers); n != refused || a.sched == nil {
		return n
	}
	return numberOf(a.sched, p, a.servers)
}

func numberOf(s scheduler.Scheduler, p scheduler.Packet, servers []scheduler.Server) int {
	if i := s.Pick(p, servers); i >= 0 {
		return int(servers[i].ID)
	}
	return refused
}
