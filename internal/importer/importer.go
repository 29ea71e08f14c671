// SPDX-License-Identifier: Apache-2.0

// Package importer reads the configurations of other directors: what they say of services and real
// servers becomes ours, and each line that does not is listed with the reason.
package importer

import (
	"bytes"
	"encoding/json"
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
	Notes    []Note // in the order of their lines
}

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
	return &Result{b.services, slices.Compact(b.notes)}, nil // a line may count for several services
}

// builder collects edits, each with the line that it comes from.
type builder struct {
	lines    []string
	edits    []director.Edit
	from     []int // the edits' lines
	services []director.Service
	notes    []Note
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

// make makes the edits; one that cannot be is listed, and left out.
func (b *builder) make() {
	e := configs.Default().NewEditor(nil)
	for i := range b.edits {
		if fault := e.Edit(&b.edits[i]); fault != nil {
			b.note(b.from[i], "%s", strings.ReplaceAll(fault.Text, "\n", "; "))
		}
	}
	b.services = e.Services()
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
		text, err := json.Marshal(value)
		if err != nil {
			panic(err) // texts, numbers, truths, and maps and lists of them
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
}

// server is one of its real servers.
type server struct {
	line int
	set  settings
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
	b.add(v.line, director.Edit{Op: director.AddService, Set: v.set.raw()})
	for _, r := range v.reals {
		b.add(r.line, director.Edit{Op: director.AddReal, Service: v.key.String(), Set: r.set.raw()})
	}
}
