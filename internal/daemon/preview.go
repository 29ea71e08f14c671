// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"reflect"
	"slices"

	"xdplvs/configs"
	"xdplvs/director"
)

// previewer finds out what another document would change.
type previewer struct {
	director.Preview
	conns  map[director.ServiceKey]map[director.RealKey]uint64
	inside bool // of services only those that both documents have are looked into
}

// preview compares two documents, with the connections that a snapshot shows.
func preview(before, after *document, s *director.Snapshot) director.Preview {
	p := previewer{conns: map[director.ServiceKey]map[director.RealKey]uint64{}}
	return p.compare(before, after, s)
}

// outline is preview without connections, and without the real servers of services that are added or removed as a
// whole: describing those takes longer than all the rest.
func outline(before, after *document) director.Preview {
	p := previewer{inside: true}
	return p.compare(before, after, &director.Snapshot{})
}

func (p *previewer) compare(before, after *document, s *director.Snapshot) director.Preview {
	for i := range s.Services {
		reals := map[director.RealKey]uint64{}
		for _, r := range s.Services[i].Reals {
			reals[r.Key] = uint64(r.Active) + uint64(r.Inactive)
		}
		p.conns[s.Services[i].Key] = reals
	}
	p.Other = otherParts(before.config, after.config)
	wanted := map[director.ServiceKey]*director.Service{}
	for i := range after.services {
		wanted[after.services[i].Key] = &after.services[i]
	}
	for i := range before.services {
		former := &before.services[i]
		p.service(former, wanted[former.Key])
		delete(wanted, former.Key)
	}
	for i := range after.services {
		if s := &after.services[i]; wanted[s.Key] != nil {
			p.service(nil, s)
		}
	}
	return p.Preview
}

// otherParts names what differs besides services.
func otherParts(before, after *configs.Config) (parts []string) {
	for _, part := range []struct {
		name          string
		before, after any
	}{
		{"interfaces", before.Desired.Interfaces, after.Desired.Interfaces},
		{"timeouts", before.Desired.Timeouts, after.Desired.Timeouts},
		{"marks", before.Desired.Marks, after.Desired.Marks},
		{"fullnat", before.Desired.Locals, after.Desired.Locals},
		{"addresses", before.Addresses, after.Addresses},
		{"announce", before.Announce, after.Announce},
		{"defense", before.Desired.Defense, after.Desired.Defense},
		{"notify", before.Notify, after.Notify},
		{"api", before.API, after.API},
	} {
		if !reflect.DeepEqual(part.before, part.after) {
			parts = append(parts, part.name)
		}
	}
	return parts
}

// service adds what becomes of one; without a former one it is added, without a wanted one removed.
func (p *previewer) service(former, wanted *director.Service) {
	if former != nil && wanted != nil && sameService(former, wanted) {
		p.Unchanged.Services++
		p.Unchanged.RealServers += len(former.Reals)
		for i := range former.Reals {
			p.Unchanged.Connections += p.conns[former.Key][former.Reals[i].Key]
		}
		return
	}
	one := director.ServicePreview{Op: director.PreviewInside}
	none := &director.Service{}
	before, after := former, wanted
	switch {
	case former == nil:
		one.Op, one.Key, one.Name, before = director.PreviewAdd, wanted.Key, wanted.Name, none
	case wanted == nil:
		one.Op, one.Key, one.Name, after = director.PreviewRemove, former.Key, former.Name, none
		none.Conns = former.Conns // what becomes of its connections it says itself
	default:
		one.Key, one.Name = wanted.Key, wanted.Name
		if one.Keys = configs.DifferService(former, wanted); len(one.Keys) > 0 {
			one.Op = director.PreviewChange
		}
	}
	if !p.inside || former != nil && wanted != nil {
		p.reals(&one, before, after)
	}
	if one.Op == director.PreviewInside && len(one.Reals) == 0 {
		p.Unchanged.Services++
		return
	}
	p.Services = append(p.Services, one)
}

// sameService tells that nothing has changed, which costs a hundredth of finding out what has.
func sameService(a, b *director.Service) bool {
	if len(a.Reals) != len(b.Reals) || len(a.Reals) > 0 && &a.Reals[0] != &b.Reals[0] && !slices.Equal(a.Reals, b.Reals) {
		return false
	}
	x, y := *a, *b
	x.Reals, y.Reals = nil, nil
	return reflect.DeepEqual(&x, &y)
}

// reals adds what becomes of a service's real servers.
func (p *previewer) reals(one *director.ServicePreview, before, after *director.Service) {
	conns := p.conns[one.Key]
	wanted := map[director.RealKey]*director.RealServer{}
	for i := range after.Reals {
		wanted[after.Reals[i].Key] = &after.Reals[i]
	}
	for i := range before.Reals {
		r := &before.Reals[i]
		to := wanted[r.Key]
		delete(wanted, r.Key)
		step := director.RealPreview{Key: r.Key, Name: r.Name, Connections: conns[r.Key]}
		switch {
		case to == nil:
			step.Op, step.Effect = director.PreviewRemove, after.Conns.EffectOfRemoval()
		case *to == *r:
			p.Unchanged.RealServers++
			p.Unchanged.Connections += step.Connections
			continue
		default:
			step.Op, step.Name = director.PreviewChange, to.Name
			step.Keys, step.Effect = configs.DifferReal(after, r, to), after.Conns.EffectOfChange(r, to)
		}
		one.Reals = append(one.Reals, step)
	}
	for i := range after.Reals {
		if r := &after.Reals[i]; wanted[r.Key] != nil {
			one.Reals = append(one.Reals, director.RealPreview{Key: r.Key, Name: r.Name, Op: director.PreviewAdd, Effect: director.EffectNone,
				Keys: configs.DescribeReal(after, r)})
		}
	}
}
