// SPDX-License-Identifier: Apache-2.0

package director

import "slices"

// Changes are what run-time changes made of the services of a file: what is to be in force is the
// file's with them applied. A service, and a real server, that was changed is as a whole what it was
// changed to; everything else is as the file says, also when that is another file.
type Changes struct {
	Services []ServiceChange `json:"services,omitempty"`
}

// ServiceChange is what became of one service.
type ServiceChange struct {
	Key     ServiceKey   `json:"service"`
	Removed bool         `json:"removed,omitempty"`
	Added   bool         `json:"added,omitempty"`   // the file has none
	Options *Service     `json:"options,omitempty"` // all but the real servers; nil: as in the file
	Reals   []RealChange `json:"reals,omitempty"`
}

// RealChange is what became of one real server.
type RealChange struct {
	Key     RealKey     `json:"real"`
	Removed bool        `json:"removed,omitempty"`
	Added   bool        `json:"added,omitempty"` // the file has none
	Options *RealServer `json:"options,omitempty"`
}

// Empty tells that everything is as the file says.
func (c Changes) Empty() bool { return len(c.Services) == 0 }

// Diff finds the changes that make the wanted services of those of a file.
func Diff(file, want []Service) (c Changes) {
	had := byServiceKey(file)
	for i := range want {
		w := &want[i]
		change := diffService(had[w.Key], w)
		delete(had, w.Key)
		if change != nil {
			c.Services = append(c.Services, *change)
		}
	}
	for i := range file { // in the file's order
		if _, gone := had[file[i].Key]; gone {
			c.Services = append(c.Services, ServiceChange{Key: file[i].Key, Removed: true})
		}
	}
	return c
}

func byServiceKey(services []Service) map[ServiceKey]*Service {
	m := make(map[ServiceKey]*Service, len(services))
	for i := range services {
		m[services[i].Key] = &services[i]
	}
	return m
}

// diffService is nil if there is no difference; without a former one the service is added.
func diffService(former, want *Service) *ServiceChange {
	if former != nil && former.equal(want) {
		return nil
	}
	change := &ServiceChange{Key: want.Key, Added: former == nil}
	options := want.withoutReals()
	if former == nil {
		change.Options = options
		former = options
	} else if !former.withoutReals().equal(options) {
		change.Options = options
	}
	change.Reals = diffReals(former.Reals, want.Reals)
	if !change.Added && change.Options == nil && change.Reals == nil {
		return nil // another order only
	}
	return change
}

func (s *Service) withoutReals() *Service {
	options := *s
	options.Reals = nil
	return &options
}

func diffReals(file, want []RealServer) (changes []RealChange) {
	had := byRealKey(file)
	for i := range want {
		w := want[i]
		former := had[w.Key]
		delete(had, w.Key)
		if former == nil || *former != w {
			changes = append(changes, RealChange{Key: w.Key, Added: former == nil, Options: &w})
		}
	}
	for i := range file {
		if _, gone := had[file[i].Key]; gone {
			changes = append(changes, RealChange{Key: file[i].Key, Removed: true})
		}
	}
	return changes
}

func byRealKey(reals []RealServer) map[RealKey]*RealServer {
	m := make(map[RealKey]*RealServer, len(reals))
	for i := range reals {
		m[reals[i].Key] = &reals[i]
	}
	return m
}

// Apply makes the changes to the services of a file, which stay as they are. What the file has no
// more is neither changed nor removed; what was added comes last.
func (c Changes) Apply(file []Service) []Service {
	if c.Empty() {
		return file
	}
	changed := make(map[ServiceKey]*ServiceChange, len(c.Services))
	for i := range c.Services {
		changed[c.Services[i].Key] = &c.Services[i]
	}
	services := make([]Service, 0, len(file)+len(c.Services))
	for i := range file {
		change := changed[file[i].Key]
		delete(changed, file[i].Key)
		if change == nil {
			services = append(services, file[i])
		} else if !change.Removed {
			services = append(services, change.apply(&file[i]))
		}
	}
	for i := range c.Services {
		s := &c.Services[i]
		if changed[s.Key] != nil && s.Added && s.Options != nil {
			services = append(services, s.apply(&Service{}))
		}
	}
	if len(services) == 0 {
		return nil // as of a file without any
	}
	return services
}

func (c *ServiceChange) apply(former *Service) Service {
	s := *former
	if c.Options != nil {
		s = *c.Options
	}
	s.Reals = changeReals(former.Reals, c.Reals)
	return s
}

func changeReals(file []RealServer, changes []RealChange) []RealServer {
	if len(changes) == 0 {
		return file
	}
	changed := make(map[RealKey]*RealChange, len(changes))
	for i := range changes {
		changed[changes[i].Key] = &changes[i]
	}
	reals := make([]RealServer, 0, len(file)+len(changes))
	for _, r := range file {
		change := changed[r.Key]
		delete(changed, r.Key)
		switch {
		case change == nil:
			reals = append(reals, r)
		case change.Options != nil:
			reals = append(reals, *change.Options)
		case !change.Removed:
			reals = append(reals, r)
		}
	}
	for i := range changes {
		if c := &changes[i]; changed[c.Key] != nil && c.Added && c.Options != nil {
			reals = append(reals, *c.Options)
		}
	}
	if len(reals) == 0 {
		return nil // as a file without any has it
	}
	return slices.Clip(reals)
}
