// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"net/netip"
	"strconv"

	"xdplvs/director"
)

// Why keys of lvs.cf are not carried over, by key. To carry one over, take it in piranhaService or piranhaServer.
var piranhaReasons = map[string]string{
	"send": healthChecks, "expect": healthChecks, "send_program": healthChecks, "expect_program": healthChecks,
	"use_regex": healthChecks, "load_monitor": healthChecks, "timeout": healthChecks, "reentry": healthChecks,
	"quiesce_server": healthChecks, "sorry_server": sorryServers, "vip_nmask": "addresses are listed under addresses",
}

// piranhaMethods are the values of network.
var piranhaMethods = map[string]string{"direct": "dr", "nat": "nat", "tunnel": "tun"}

// piranha reads lvs.cf: KEY = VALUE, and blocks for services and real servers.
func (b *builder) piranha() {
	tree := b.blocks("#", func(_ int, words []string) []string { return words })
	method := "dr"
	for _, s := range tree {
		switch value := s.value(); s.words[0] {
		case "network":
			if method = piranhaMethods[value]; method == "" {
				b.note(s.line, "unknown network %q (known: direct, nat, tunnel)", value)
				method = "dr"
			}
		case "service":
			if value != "lvs" {
				b.note(s.line, "it is for another service than lvs")
			}
		case "virtual":
			b.piranhaVirtual(s, method)
		default:
			b.note(s.line, "it is not about services")
		}
	}
}

// value is what stands behind the equals sign.
func (s *statement) value() string {
	if s.word(1) == "=" {
		return s.word(2)
	}
	return s.word(1)
}

// piranhaVirtual adds virtual NAME { … }. One that is not active is left out.
func (b *builder) piranhaVirtual(s *statement, method string) {
	v := virtual{line: s.line, set: settings{"scheduler": "wlc", "name": s.word(1)}, key: director.ServiceKey{Protocol: director.TCP}}
	active := false
	persistence := settings{}
	var servers []*statement
	for _, k := range s.block {
		switch value := k.value(); k.words[0] {
		case "active":
			active = value == "1"
		case "server":
			servers = append(servers, k)
		case "persistent":
			persistence["timeout"] = value
		case "pmask":
			persistence["netmask"] = value
		default:
			b.piranhaService(&v, k, value)
		}
	}
	if persistence["timeout"] != nil {
		v.set["persistence"] = persistence
	}
	if !active {
		b.note(s.line, "it is not active")
		return
	}
	for _, r := range servers {
		b.piranhaServer(&v, r, method)
	}
	b.service(&v)
}

// piranhaService takes one key of a service.
func (b *builder) piranhaService(v *virtual, k *statement, value string) {
	ok := true
	switch k.words[0] {
	case "address": // a device follows
		a, err := netip.ParseAddr(value)
		ok = err == nil
		if ok && v.key.Mark == 0 {
			v.key.Addr = a
		}
	case "port":
		port, err := strconv.ParseUint(value, 10, 16)
		ok = err == nil
		if v.key.Mark == 0 {
			v.key.Port = uint16(port)
		}
	case "protocol":
		ok = v.key.Protocol.UnmarshalText([]byte(value)) == nil
	case "fwmark":
		mark, err := strconv.ParseUint(value, 10, 32)
		if ok = err == nil && mark > 0; ok {
			v.key = director.MarkKey(uint32(mark), false)
		}
	case "scheduler":
		v.set["scheduler"] = value
	default:
		b.note(k.line, "%s", cmp.Or(piranhaReasons[k.words[0]], unknownKey))
	}
	if !ok {
		b.note(k.line, "%s cannot be %q", k.words[0], value)
	}
}

// piranhaServer adds server NAME { … }. One that is not active is left out.
func (b *builder) piranhaServer(v *virtual, s *statement, method string) {
	r := server{s.line, settings{"name": s.word(1), "method": method}}
	active := false
	for _, k := range s.block {
		switch value := k.value(); k.words[0] {
		case "address":
			r.set["address"] = value
		case "active":
			active = value == "1"
		case "weight":
			r.set["weight"] = value
		case "port":
			if method == "nat" {
				r.set["port"] = value
			}
		default:
			b.note(k.line, "%s", unknownKey)
		}
	}
	if !active {
		b.note(s.line, "it is not active")
		return
	}
	v.reals = append(v.reals, r)
}
