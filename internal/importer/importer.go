// SPDX-License-Identifier: Apache-2.0

// Package importer reads the configurations of other directors: what they say of services and real
// servers becomes ours, and each line that does not is listed with the reason.
package importer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/configs"
	"xdplvs/director"
	"xdplvs/internal/ipvsadm"
)

// Note is a line that is not carried over.
type Note struct {
	Line int    // from 1
	Text string // of the line, without blanks around it
	Why  string
}

// Result is what became of a configuration.
type Result struct {
	Services []director.Service
	Notify   []byte // the key notify of our file; empty: nobody is told
	Notes    []Note // in the order of their lines
}

// File is our file, but for its interfaces.
func (r *Result) File() []byte { return append(slices.Clip(r.Notify), configs.Format(r.Services)...) }

var formats = map[string]func(*builder){
	"keepalived":   (*builder).keepalived,
	"ldirectord":   (*builder).ldirectord,
	"ipvsadm-save": (*builder).rules,
	"lvs.cf":       (*builder).piranha,
}

// Formats are the configurations that are known: keepalived.conf, ldirectord.cf, what ipvsadm-save
// prints, and Piranha's lvs.cf.
func Formats() []string { return slices.Sorted(maps.Keys(formats)) }

// Import reads a configuration of one of the Formats.
func Import(format string, text []byte) (*Result, error) {
	read := formats[format]
	if read == nil {
		return nil, fmt.Errorf("unknown format %q (known: %s)", format, strings.Join(Formats(), ", "))
	}
	b := &builder{}
	for line := range bytes.Lines(text) {
		b.lines = append(b.lines, strings.TrimRight(string(line), "\r\n"))
	}
	read(b)
	b.make()
	slices.SortStableFunc(b.notes, func(x, y Note) int { return x.Line - y.Line })
	return &Result{b.services, b.mail.text(), slices.Compact(b.notes)}, nil // a line may count for several services
}

// builder collects edits, each with the line that it comes from.
type builder struct {
	lines    []string
	edits    []director.Edit
	from     []int // the edits' lines
	services []director.Service
	notes    []Note
	mail     notification
	spare    map[director.ServiceKey][]spare
}

// spare are keys that can be left out of a service, if they do not fit the rest.
type spare struct {
	line int
	keys []string
}

// note lists a line; lines count from 1.
func (b *builder) note(line int, format string, args ...any) {
	text := ""
	if line >= 1 && line <= len(b.lines) {
		text = strings.TrimSpace(b.lines[line-1])
	}
	b.notes = append(b.notes, Note{line, text, fmt.Sprintf(format, args...)})
}

func (b *builder) add(line int, e director.Edit) {
	b.edits = append(b.edits, e)
	b.from = append(b.from, line)
}

// make makes the edits; one that cannot be is listed, and left out, or only what it says of checks.
func (b *builder) make() {
	e := configs.Default().NewEditor(nil)
	for i := range b.edits {
		step := &b.edits[i]
		fault := e.Edit(step)
		if fault == nil {
			continue
		}
		b.note(b.from[i], "%s", strings.ReplaceAll(fault.Text, "\n", "; "))
		if rest := without(step.Set, checking...); len(rest) < len(step.Set) && fault.Fault == director.FaultInvalid {
			step.Set = rest
			_ = e.Edit(step) // if it fails again, the first fault was not the checks'
		}
	}
	b.services = e.Services()
	for i := range b.services {
		b.fit(&b.services[i])
	}
}

// fit leaves out what a file cannot say of a service that came out as this one, such as a quorum that is never there.
func (b *builder) fit(s *director.Service) {
	for _, spare := range b.spare[s.Key] {
		_, err := configs.Parse("import", append([]byte("interfaces: [lo]\n"), configs.Format([]director.Service{*s})...))
		var faults *configs.Errors
		if !errors.As(err, &faults) {
			return
		}
		set := map[string]json.RawMessage{}
		for _, key := range spare.keys {
			set[key] = json.RawMessage("null")
		}
		b.note(spare.line, "%s", (*faults)[0].Message)
		if less, err := configs.Default().EditService(s, set); err == nil {
			*s = less
		}
	}
}

// portNames knows ports by name, but no hosts: whose address that would be is the resolver's to say, today.
type portNames struct{ *ipvsadm.SystemNames }

func newPortNames() portNames { return portNames{&ipvsadm.SystemNames{}} }

// Host implements ipvsadm.Names.
func (portNames) Host(string) (netip.Addr, bool) { return netip.Addr{}, false }

// settings are keys of our file, and their values.
type settings map[string]any

func (s settings) raw() map[string]json.RawMessage {
	raw := make(map[string]json.RawMessage, len(s))
	for key, value := range s {
		switch value.(type) {
		case settings, []settings: // written as in the file, which is a text here
			value = written(value)
		}
		text, err := json.Marshal(value)
		if err != nil {
			panic(err) // texts, numbers, truths, and lists of them
		}
		raw[key] = text
	}
	return raw
}

// virtual is a service of another configuration.
type virtual struct {
	key   director.ServiceKey
	line  int
	set   settings
	reals []server

	quorumLine, sorryLine int
}

// server is one of its real servers.
type server struct {
	line int
	set  settings
}

// leave tells which keys a service can be without. Those that no service could have are left out at once.
func (b *builder) leave(v *virtual, line int, keys ...string) {
	if line == 0 {
		return
	}
	set := settings{"address": "192.0.2.1", "port": 80}
	if v.key.Addr.Is6() {
		set["address"] = "2001:db8::1"
	}
	for _, key := range keys {
		if value, ok := v.set[key]; ok {
			set[key] = value
		}
	}
	if _, err := configs.Default().EditService(nil, set.raw()); err != nil {
		b.note(line, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		for _, key := range keys {
			delete(v.set, key)
		}
		return
	}
	if b.spare == nil {
		b.spare = map[director.ServiceKey][]spare{}
	}
	b.spare[v.key] = append(b.spare[v.key], spare{line, keys})
}

// service adds a service with its real servers. IPVS served them before, so its semantics stay.
func (b *builder) service(v *virtual) {
	v.set["semantics"] = "ipvs"
	if v.key.Mark != 0 {
		v.set["fwmark"] = v.key.Mark
		if v.key.Addr.Is6() {
			v.set["family"] = "ipv6"
		}
	} else {
		v.set["protocol"], v.set["address"], v.set["port"] = v.key.Protocol.String(), v.key.Addr.String(), any("any")
		if v.key.Port != 0 {
			v.set["port"] = v.key.Port
		}
	}
	b.leave(v, v.quorumLine, "quorum", "hysteresis")
	b.leave(v, v.sorryLine, "sorry_servers")
	b.add(v.line, director.Edit{Op: director.AddService, Set: v.set.raw()})
	for _, r := range v.reals {
		b.add(r.line, director.Edit{Op: director.AddReal, Service: v.key.String(), Set: r.set.raw()})
	}
}
