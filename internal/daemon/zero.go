// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"sync"

	"xdplvs/configs"
	"xdplvs/director"
)

// zeroes are the counts at which shown counters begin, as ipvsadm -Z has it: the tables' own go on,
// so that rates and what a service inherits of removed real servers stay right. They end with the daemon.
type zeroes struct {
	mu       sync.Mutex
	services map[director.ServiceKey]zero
	total    director.Counters
}

// zero is where a service's counters begin, and those of its real servers.
type zero struct {
	service director.Counters
	reals   map[director.RealKey]director.Counters
}

// begin notes the counts of services as their beginning.
func (z *zeroes) begin(s *director.Snapshot, only func(director.ServiceKey) bool, all bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.services == nil {
		z.services = map[director.ServiceKey]zero{}
	}
	for i := range s.Services {
		state := &s.Services[i]
		if !only(state.Key) {
			continue
		}
		begin := zero{state.Counters, map[director.RealKey]director.Counters{}}
		for _, r := range state.Reals {
			begin.reals[r.Key] = r.Counters
		}
		z.services[state.Key] = begin
	}
	if all {
		z.total = s.Total
	}
}

// adjust takes the beginnings off.
func (z *zeroes) adjust(s *director.Snapshot) {
	z.mu.Lock()
	defer z.mu.Unlock()
	s.Total = since(s.Total, z.total)
	for i := range s.Services {
		state := &s.Services[i]
		begin, ok := z.services[state.Key]
		if !ok {
			continue
		}
		state.Counters = since(state.Counters, begin.service)
		for j := range state.Reals {
			state.Reals[j].Counters = since(state.Reals[j].Counters, begin.reals[state.Reals[j].Key])
		}
	}
}

// since is what was counted since a beginning. Whoever has less than that has begun anew.
func since(now, begin director.Counters) director.Counters {
	if now.Conns < begin.Conns || now.InPkts < begin.InPkts || now.OutPkts < begin.OutPkts ||
		now.InBytes < begin.InBytes || now.OutBytes < begin.OutBytes {
		return now
	}
	return director.Counters{
		Conns:    now.Conns - begin.Conns,
		InPkts:   now.InPkts - begin.InPkts,
		OutPkts:  now.OutPkts - begin.OutPkts,
		InBytes:  now.InBytes - begin.InBytes,
		OutBytes: now.OutBytes - begin.OutBytes,
	}
}

// Zero implements api.Backend.
func (b backend) Zero(ctx context.Context, service string) error {
	only := func(director.ServiceKey) bool { return true }
	if service != "" {
		b.d.reloading.Lock()
		key, err := configs.FindService(b.d.doc.services, service)
		b.d.reloading.Unlock()
		if err != nil {
			return err
		}
		only = func(k director.ServiceKey) bool { return k == key }
	}
	s, err := b.d.director.Snapshot(ctx)
	if err != nil {
		return err
	}
	b.d.zeroes.begin(s, only, service == "")
	return nil
}
