// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"slices"
	"testing"
)

// Choosing: plans in order, and what they name that takes no new connection.
var pickTests = []programTest{
	{name: "a sequence goes round", steps: newConns("a", "b", "c", "a", "b"), conns: synRecv("a", "b", "c", "a", "b")},
	{name: "a sequence with a beginning", setup: func(r *rig) { r.plan("web", 1, "a", "b", "c") },
		steps: newConns("a", "b", "c", "b", "c", "b"), conns: synRecv("a", "b", "c", "b", "c", "b")},
	{name: "a sequence longer than a chunk", setup: func(r *rig) {
		r.plan("web", 16, "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "b", "c", "b")
		r.service("web").Cursor[0] = 14
	}, steps: newConns("a", "b", "c", "b", "c", "b", "c"), conns: synRecv("a", "b", "c", "b", "c", "b", "c")},
	{name: "the other plan is turned to", setup: func(r *rig) {
		s := r.service("web")
		s.Plan[1] = r.newPlan(PlanSequence, 0, "b")
		s.Current = 1
	}, steps: newConns("b", "b"), conns: synRecv("b", "b"), check: cursors(0, 2)},
	{name: "turns are counted", setup: func(r *rig) {
		s := r.service("web")
		s.Plan[1] = r.newPlan(PlanSequence, 0, "b")
		s.Current = 0xffffffff
	}, steps: newConns("b"), conns: synRecv("b"), check: cursors(0, 1)},
	{name: "known connections take nothing from the plan", steps: []step{
		{send: tcp(syn), want: begins("a")}, {send: tcp(ack), want: known("a")}, {send: tcp(syn), want: known("a")},
	}, conns: []string{"c:40000>vip:80 ESTABLISHED a 3"}, check: cursors(1, 0)},
	{name: "skipped: not usable", setup: unusable("a"), steps: newConns("b", "c", "b"), conns: synRecv("b", "c", "b"), check: cursors(5, 0)},
	{name: "skipped: no next hop", setup: func(r *rig) { r.real("a").Flags &^= RealNextHop },
		steps: newConns("b", "c"), conns: synRecv("b", "c"), check: cursors(3, 0)},
	{name: "skipped: overloaded", setup: func(r *rig) { r.real("a").Flags |= RealOverloaded },
		steps: newConns("b", "c"), conns: synRecv("b", "c"), check: cursors(3, 0)},
	{name: "skipped: another service's", setup: func(r *rig) { r.plan("web", 0, "d", "b", "e") },
		steps: newConns("b", "b"), conns: synRecv("b", "b"), check: cursors(5, 0)},
	{name: "an empty slot refuses", setup: func(r *rig) { r.plan("web", 0, "-", "b"); r.flowPlan("web", "c") }, steps: []step{
		{send: tcp(syn, from(1)), want: untouched("drop_no_real")},
		{send: tcp(syn, from(2)), want: begins("b")},
		{send: tcp(syn, from(3)), want: untouched("drop_no_real")},
	}, conns: []string{"c:2>vip:80 SYN_RECV b 1"}, check: cursors(3, 0)},
	{name: "an empty slot refuses behind one that is skipped", setup: func(r *rig) {
		unusable("a")(r)
		r.plan("web", 0, "a", "-", "b")
		r.flowPlan("web", "c")
	}, steps: []step{
		{send: tcp(syn, from(1)), want: untouched("drop_no_real")},
		{send: tcp(syn, from(2)), want: begins("b")},
	}, conns: []string{"c:2>vip:80 SYN_RECV b 1"}, check: cursors(3, 0)},
	{name: "skipped: no such real server", setup: func(r *rig) { r.Plans[r.service("web").Plan[0].Base] = uint32(len(r.Reals)) },
		steps: newConns("b"), conns: synRecv("b"), check: cursors(2, 0)},
	{name: "as far as it looks", setup: func(r *rig) { r.longPlan(int(directorLimitPICK_TRIES)) },
		steps: newConns("a"), conns: synRecv("a"), check: cursors(uint64(directorLimitPICK_TRIES)+1, 0)},
	{name: "farther than it looks", setup: func(r *rig) { r.longPlan(int(directorLimitPICK_TRIES) + 1) },
		steps: []step{{send: tcp(syn), want: untouched("drop_no_real")}}, check: cursors(uint64(directorLimitPICK_TRIES)+1, 0)},
	{name: "none is usable", setup: unusable("a", "b", "c"), steps: []step{
		{send: tcp(syn), want: untouched("drop_no_real")},
		{send: tcp(syn), want: untouched("drop_no_real")},
		{send: udp(), want: begins("d")},
	}, conns: []string{"c:40000>vip:53 UDP d 1"}, check: noReal(2)},
	{name: "an empty plan", setup: func(r *rig) { r.plan("web", 0) }, steps: []step{
		{send: tcp(syn), want: untouched("drop_no_real")},
	}, check: noReal(1)},
	{name: "a loop behind the end", setup: func(r *rig) { r.plan("web", 3, "a", "b", "c") }, steps: []step{
		{send: tcp(syn), want: untouched("drop_no_real")},
	}, check: noReal(1)},
	{name: "none is usable, and the service says pass", setup: func(r *rig) {
		unusable("a", "b", "c")(r)
		r.service("web").Answer = uint8(directorServiceAnswerANSWER_PASS)
	}, steps: []step{{send: tcp(syn), want: untouched("pass_answer")}}, check: noReal(1)},
	{name: "the flow plan: nothing else is usable", setup: func(r *rig) {
		unusable("a", "b")(r)
		r.plan("web", 0, "a", "b")
		r.flowPlan("web", "c")
	}, steps: newConns("c", "c"), conns: synRecv("c", "c")},
	{name: "the flow plan goes on, too", setup: func(r *rig) {
		unusable("a", "b")(r)
		r.plan("web", 0, "a")
		r.flowPlan("web", "a", "b", "a", "c", "a", "b", "d")
	}, steps: newConns("c", "c", "c"), conns: synRecv("c", "c", "c")},
	{name: "the flow plan: none of it is usable", setup: func(r *rig) {
		unusable("a", "b", "c")(r)
		r.flowPlan("web", "a", "b", "c")
	}, steps: []step{{send: tcp(syn), want: untouched("drop_no_real")}}, check: noReal(1)},
	{name: "all are overloaded: the service's answer", setup: overloaded("a", "b", "c"), steps: []step{
		{send: tcp(syn), want: untouched("drop_no_real")},
	}, check: noReal(1)},
	{name: "all are overloaded, and the service says pass", setup: func(r *rig) {
		overloaded("a", "b", "c")(r)
		r.flowPlan("web", "a", "b", "c")
		r.service("web").Answer = uint8(directorServiceAnswerANSWER_PASS)
	}, steps: []step{{send: tcp(syn), want: untouched("pass_answer")}}, check: noReal(1)},
	{name: "upper threshold", setup: func(r *rig) { r.threshold("a", 2); r.plan("web", 0, "a", "a", "a", "b") }, steps: []step{
		{send: tcp(syn, from(1)), want: begins("a")},
		{send: tcp(syn, from(2)), want: begins("a")},
		{send: tcp(syn, from(3)), want: begins("b")},
		{send: tcp(ack, from(2)), want: known("a")},
		{send: tcp(syn, from(4)), want: begins("b")},
	}, conns: []string{
		"c:1>vip:80 SYN_RECV a 1", "c:2>vip:80 ESTABLISHED a 2", "c:3>vip:80 SYN_RECV b 1", "c:4>vip:80 SYN_RECV b 1",
	}, check: func(t *testing.T, r *rig) {
		if r.real("a").Flags&RealOverloaded == 0 || r.real("b").Flags&RealOverloaded != 0 {
			t.Errorf("flags: a %#x, b %#x", r.real("a").Flags, r.real("b").Flags)
		}
	}},
}

// newConns begins connections from ports 1, 2, ... that go to these real servers.
func newConns(reals ...string) (steps []step) {
	for i, name := range reals {
		steps = append(steps, step{send: tcp(syn, from(uint16(i+1))), want: begins(name)})
	}
	return steps
}

// synRecv is what newConns leaves. It works for up to nine, which sort as they come.
func synRecv(reals ...string) (conns []string) {
	for i, name := range reals {
		conns = append(conns, "c:"+string(rune('1'+i))+">vip:80 SYN_RECV "+name+" 1")
	}
	return conns
}

func cursors(first, second uint64) func(*testing.T, *rig) {
	return func(t *testing.T, r *rig) {
		if got, want := r.service("web").Cursor, [2]uint64{first, second}; got != want {
			t.Errorf("cursors are %d, want %d", got, want)
		}
	}
}

func noReal(n uint64) func(*testing.T, *rig) {
	return func(t *testing.T, r *rig) {
		if got := r.service("web").NoReal; got != n {
			t.Errorf("no_real is %d, want %d", got, n)
		}
	}
}

// longPlan has n slots that are of no use in front of one that is.
func (r *rig) longPlan(n int) {
	unusable("c")(r)
	r.plan("web", 0, append(slices.Repeat([]string{"c"}, n), "a")...)
}

func overloaded(names ...string) func(*rig) {
	return func(r *rig) {
		for _, name := range names {
			r.real(name).Flags |= RealOverloaded
		}
	}
}

// threshold gives a real server an upper threshold, and the lower one that IPVS derives of it.
func (r *rig) threshold(name string, upper uint32) {
	r.real(name).Upper, r.real(name).Lower = upper, upper-upper/4
}
