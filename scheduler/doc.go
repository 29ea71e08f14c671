// SPDX-License-Identifier: Apache-2.0

// Package scheduler decides which real server a new connection goes to, exactly
// as the Linux kernel's IPVS does, and writes the decisions down ahead of time.
//
// The data plane runs no scheduler. Userspace runs the algorithm forward and
// hands over a [Plan], a table of real-server ids:
//
//   - a sequence plan is taken in order, with one cursor per service
//     (rr wrr lc wlc sed nq fo ovf twos, and what lblc and lblcr do on a miss);
//   - a hash plan is indexed by a hash of the packet (dh sh mh).
//
// A connection so costs the same whatever the algorithm and however many real
// servers there are, and a new scheduler is one Go file.
//
// # The life of a plan
//
//	s, err := scheduler.New("wlc", scheduler.Options{})
//	s.Edit(servers)                                  // after every change of the set or of a weight
//	plan := scheduler.Forward(s, servers, scheduler.CountActive, 4096)
//	...                                              // the data plane hands out n slots
//	scheduler.Advance(s, servers, scheduler.CountActive, n)
//	plan = scheduler.Forward(s, serversNow, scheduler.CountActive, 4096)
//
// Forward never moves the scheduler it is given; Advance tells it afterwards how
// much of the plan was used. Between them nothing is lost and nothing counted twice.
//
// A data plane that finds a slot's server unusable (the plan is some milliseconds
// old) takes the next slot. It must consume the slots it passes over: leaving a
// server out of the sequence of rr, wrr, lc, wlc, sed or nq gives the sequence
// those schedulers produce without it, so that skipping is exact too.
//
// # What the caller keeps
//
// List order: the server added last comes first, as in IPVS; ties go to the first
// in the list. Counts, thresholds and time are the caller's and are passed in.
// There is no I/O, no clock and no goroutine here. A Scheduler is not safe for
// concurrent use; different ones are independent.
//
// The behaviour is that of net/netfilter/ipvs in Linux 6.1, tested against
// recordings of that kernel in testdata; none of its code is here.
package scheduler
