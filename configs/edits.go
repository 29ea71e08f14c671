// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// Edit makes edits to services, which may use the checks of the configuration, one after the other, and returns those that result; what it was given
// stays as it is. It makes all or none: the error is then a *director.EditError.
func (c *Config) Edit(services []director.Service, edits []director.Edit) ([]director.Service, error) {
	e := c.NewEditor(services)
	for i := range edits {
		if err := e.Edit(&edits[i]); err != nil {
			err.Index = i
			return nil, err
		}
	}
	return e.Services(), nil
}

// FindService is the key of the service that a text means, as director.Edit has it; the error is a
// *director.EditError.
func FindService(services []director.Service, text string) (director.ServiceKey, error) {
	at, err := newEditor(services).find(text)
	if err != nil {
		return director.ServiceKey{}, err
	}
	return services[at].Key, nil
}

// NewEditor is an Editor of services, which stay as they are.
func (c *Config) NewEditor(services []director.Service) *Editor {
	e := newEditor(slices.Clone(services))
	e.file = c
	return e
}

func newEditor(services []director.Service) *Editor {
	e := &Editor{services: services, index: make(map[director.ServiceKey]int, len(services)), own: map[int]bool{}}
	for i := range services {
		e.index[services[i].Key] = i
	}
	return e
}

// Editor is a list of services that is changed step by step. Who is removed leaves a hole, so that the
// others keep their places.
type Editor struct {
	file     *Config // whose checks there are
	services []director.Service
	index    map[director.ServiceKey]int
	own      map[int]bool // whose real servers are a copy
	holes    bool
}

func faulty(fault director.EditFault, format string, args ...any) *director.EditError {
	return &director.EditError{Fault: fault, Text: fmt.Sprintf(format, args...)}
}

// Services are those that there are now. The Editor is not used any more.
func (e *Editor) Services() []director.Service {
	if !e.holes {
		return e.services
	}
	return slices.DeleteFunc(e.services, func(s director.Service) bool { return s.Key == director.ServiceKey{} })
}

// Edit makes one edit, or nothing.
func (e *Editor) Edit(step *director.Edit) *director.EditError {
	switch step.Op {
	case director.AddService:
		return e.addService(step)
	case director.RemoveAll:
		clear(e.index)
		clear(e.own)
		e.services = e.services[:0]
		return nil
	}
	if !slices.Contains(director.EditOps(), step.Op) {
		return faulty(director.FaultInvalid, "unknown op %q (known: %s)", step.Op, known(director.EditOps()))
	}
	at, err := e.find(step.Service)
	if err != nil {
		return err
	}
	switch step.Op {
	case director.EditService:
		return e.editService(at, step)
	case director.RemoveService:
		delete(e.index, e.services[at].Key)
		delete(e.own, at)
		e.services[at], e.holes = director.Service{}, true
		return nil
	case director.AddReal:
		return e.addReal(at, step)
	default:
		return e.changeReal(at, step)
	}
}

func known(ops []director.EditOp) string {
	var texts []string
	for _, op := range ops {
		texts = append(texts, string(op))
	}
	return strings.Join(texts, ", ")
}

func (e *Editor) addService(step *director.Edit) *director.EditError {
	s, err := e.file.EditService(nil, step.Set)
	if err != nil {
		return faulty(director.FaultInvalid, "add service: %s", err)
	}
	if _, taken := e.index[s.Key]; taken {
		return faulty(director.FaultServiceExists, "service %s exists already", s.Key)
	}
	if fault := e.nameTaken(s.Name, -1); fault != nil {
		return fault
	}
	e.index[s.Key] = len(e.services)
	e.services = append(e.services, s)
	return nil
}

func (e *Editor) nameTaken(name string, but int) *director.EditError {
	if name == "" {
		return nil
	}
	at := slices.IndexFunc(e.services, func(s director.Service) bool { return s.Name == name })
	if at < 0 || at == but {
		return nil
	}
	return faulty(director.FaultInvalid, "name %s is already that of service %s", name, e.services[at].Key)
}

func (e *Editor) editService(at int, step *director.Edit) *director.EditError {
	former := &e.services[at]
	s, err := e.file.EditService(former, step.Set)
	if err != nil {
		return faulty(director.FaultInvalid, "service %s: %s", former.Key, err)
	}
	if s.Key != former.Key {
		return faulty(director.FaultInvalid, "service %s: its address, port, protocol or mark cannot be changed: add another one", former.Key)
	}
	if fault := e.nameTaken(s.Name, at); fault != nil {
		return fault
	}
	e.services[at], e.own[at] = s, true
	return nil
}

// find finds the service that a text means.
func (e *Editor) find(text string) (int, *director.EditError) {
	if key, err := director.ParseServiceKey(text); err == nil {
		if at, ok := e.index[key]; ok {
			return at, nil
		}
		return 0, faulty(director.FaultNoService, "no service %s", key)
	}
	found, also := -1, -1
	for i := range e.services {
		s := &e.services[i]
		if s.Key == (director.ServiceKey{}) {
			continue
		}
		if s.Name != "" && s.Name == text {
			return i, nil
		}
		if s.Key.Mark == 0 && netip.AddrPortFrom(s.Key.Addr, s.Key.Port).String() == text {
			found, also = i, found
		}
	}
	switch {
	case found < 0:
		return 0, faulty(director.FaultNoService, "no service %q (known: %s)", text, e.names())
	case also >= 0:
		return 0, faulty(director.FaultInvalid, "%s is several services: say %q or %q", text, e.services[also].Key, e.services[found].Key)
	}
	return found, nil
}

// names are some that are known.
func (e *Editor) names() string {
	var names []string
	for i := range e.services {
		if s := &e.services[i]; s.Key != (director.ServiceKey{}) {
			names = append(names, cmp.Or(s.Name, s.Key.String()))
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(someOf(names), ", ")
}

// reals are the service's real servers, to be changed.
func (e *Editor) reals(at int) []director.RealServer {
	if !e.own[at] {
		e.services[at].Reals = slices.Clone(e.services[at].Reals)
		e.own[at] = true
	}
	return e.services[at].Reals
}

func (e *Editor) addReal(at int, step *director.Edit) *director.EditError {
	s := &e.services[at]
	r, err := e.file.EditReal(s, nil, step.Set)
	if err != nil {
		return faulty(director.FaultInvalid, "service %s: add real server: %s", s.Key, err)
	}
	if slices.ContainsFunc(s.Reals, func(o director.RealServer) bool { return o.Key == r.Key }) {
		return faulty(director.FaultRealExists, "service %s: real server %s exists already", s.Key, r.Key)
	}
	if fault := realNameTaken(s, r.Name, -1); fault != nil {
		return fault
	}
	s.Reals = append(e.reals(at), r)
	return nil
}

func realNameTaken(s *director.Service, name string, but int) *director.EditError {
	if name == "" {
		return nil
	}
	at := slices.IndexFunc(s.Reals, func(r director.RealServer) bool { return r.Name == name })
	if at < 0 || at == but {
		return nil
	}
	return faulty(director.FaultInvalid, "service %s: name %s is already that of real server %s", s.Key, name, s.Reals[at].Key)
}

// changeReal edits or removes one.
func (e *Editor) changeReal(at int, step *director.Edit) *director.EditError {
	s := &e.services[at]
	i, fault := findReal(s, step.Real)
	if fault != nil {
		return fault
	}
	if step.Op == director.RemoveReal {
		s.Reals = slices.Delete(e.reals(at), i, i+1)
		return nil
	}
	r, err := e.file.EditReal(s, &s.Reals[i], step.Set)
	if err != nil {
		return faulty(director.FaultInvalid, "service %s: real server %s: %s", s.Key, s.Reals[i].Key, err)
	}
	if r.Key != s.Reals[i].Key {
		return faulty(director.FaultInvalid, "service %s: real server %s: its address and port cannot be changed: add another one", s.Key, s.Reals[i].Key)
	}
	if fault := realNameTaken(s, r.Name, i); fault != nil {
		return fault
	}
	e.reals(at)[i] = r
	return nil
}

// findReal finds the real server that a text means.
func findReal(s *director.Service, text string) (int, *director.EditError) {
	var key director.RealKey
	if a, err := netip.ParseAddr(text); err == nil {
		key = director.RealKey{Addr: a, Port: s.Key.Port}
	} else if p, err := netip.ParseAddrPort(text); err == nil {
		key = director.RealKey{Addr: p.Addr(), Port: p.Port()}
	}
	var names []string
	for i := range s.Reals {
		r := &s.Reals[i]
		if r.Key == key || r.Name != "" && r.Name == text {
			return i, nil
		}
		names = append(names, cmp.Or(r.Name, r.Key.String()))
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return 0, faulty(director.FaultNoReal, "service %s: no real server %q (known: %s)", s.Key, text, strings.Join(someOf(names), ", "))
}
