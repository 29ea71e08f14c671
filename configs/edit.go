// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"xdplvs/director"
	"xdplvs/internal/health"
)

// EditService is the service that a former one becomes when keys get other values; without a former
// one it is a new service. Keys and values are those of the file, as JSON; a text is read as the file
// would be, so that "5m" and "3" are what they are there, and null takes a key back to what its
// absence stands for. What is wrong is said as for a file.
func (c *Config) EditService(former *director.Service, set map[string]json.RawMessage) (director.Service, error) {
	w := newWriter()
	if former != nil {
		w.node = serviceNode(former)
	}
	if err := w.merge(set); err != nil {
		return director.Service{}, err
	}
	return c.oneService(w.node)
}

// EditReal is the same for a real server of a service. One without a method has the one that the
// service's others have, if they all have the same.
func (c *Config) EditReal(of *director.Service, former *director.RealServer, set map[string]json.RawMessage) (director.RealServer, error) {
	w := newWriter()
	method := commonMethod(of.Reals)
	if former != nil {
		w.node = realNode(of, former, method)
	}
	if err := w.merge(set); err != nil {
		return director.RealServer{}, err
	}
	// The others are left out: there may be many, and what holds between them is known without reading them.
	alone := serviceWriter(of)
	writeOption(alone, "method", method, director.DirectRouting)
	alone.set("reals", &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{w.node}})
	s, err := c.oneService(alone.node)
	if err != nil {
		return director.RealServer{}, err
	}
	return s.Reals[0], nil
}

// merge sets keys; those that are new come last, in the order of their names.
func (w writer) merge(set map[string]json.RawMessage) error {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		value, err := valueNode(set[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.remove(name)
		if value != nil {
			w.set(name, value)
		}
	}
	return nil
}

func (w writer) remove(name string) {
	for i := 0; i+1 < len(w.node.Content); {
		if key := w.node.Content[i].Value; key == name {
			w.node.Content = slices.Delete(w.node.Content, i, i+2)
		} else {
			i += 2
		}
	}
}

// valueNode reads a value; nil: it is null.
func valueNode(value json.RawMessage) (*yaml.Node, error) {
	text := string(value)
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(value, &text); err != nil {
			return nil, err
		}
		if text == "" {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle}, nil
		}
	}
	doc := &document{}
	top, ok := doc.parse([]byte(text))
	if !ok && text == "null" {
		return nil, nil
	}
	if err := doc.report(); err != nil {
		return nil, errors.New(doc.errs[0].Message)
	}
	return top.node(), nil
}

// oneService builds a service that is not in the file.
func (c *Config) oneService(node *yaml.Node) (director.Service, error) {
	config, err := c.with(node)
	if err != nil {
		return director.Service{}, err
	}
	return config.Desired.Services[0], nil
}

// with builds a configuration that has only this service, and the file's checks.
func (c *Config) with(node *yaml.Node) (*Config, error) {
	top := newWriter()
	top.set("interfaces", flow([]string{"lo"})) // a file has one
	if c.checks != nil {
		top.set("checks", c.checks)
	}
	top.set("services", &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{node}})
	doc := &document{}
	b := newBuilder(doc)
	b.changing = true
	if r, ok := rootObject.decode(cursor{&path{doc: doc}, top.node}); ok {
		b.root(r)
	}
	if len(doc.errs) > 0 {
		return nil, alone(doc.errs.sorted())
	}
	return b.config, b.config.ReadLists()
}

// HealthOf is what is checked of services, of which those that changed names are not as the file has them. The
// error names what one of these asks for and the file has not, as a check.
func (c *Config) HealthOf(services []director.Service, changed director.Changes) ([]health.Service, error) {
	other := map[director.ServiceKey]bool{}
	for _, s := range changed.Services {
		other[s.Key] = true
	}
	file := make(map[director.ServiceKey]int, len(c.Health))
	for i := range c.Health {
		file[c.Health[i].Key] = i
	}
	all := make([]health.Service, 0, len(services))
	var errs []error
	for i := range services {
		s := &services[i]
		if !other[s.Key] {
			all = append(all, c.Health[file[s.Key]])
			continue
		}
		own, err := c.with(serviceNode(s))
		if err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", s.Key, err))
			continue
		}
		all = append(all, own.Health...)
	}
	return all, errors.Join(errs...)
}

// alone tells the faults of what is in no file: without lines, and without the list that it was put in.
func alone(errs Errors) error {
	var all []error
	for _, e := range errs {
		where := strings.TrimPrefix(strings.TrimPrefix(e.Path, "services[0]"), ".")
		where = strings.TrimPrefix(strings.TrimPrefix(where, "reals[0]"), ".")
		if where != "" {
			where += ": "
		}
		all = append(all, errors.New(where+e.Message))
	}
	return errors.Join(all...)
}
