// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"xdplvs/director"
)

// Why keys of lvs.cf are not carried over, by key. To carry one over, take it in piranhaService or piranhaServer.
var piranhaReasons = map[string]string{"load_monitor": "weights follow checks, not loads", "vip_nmask": "addresses are listed under addresses"}

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
	check := newPiranhaCheck()
	for _, k := range s.block {
		switch value := k.value(); k.words[0] {
		case "sorry_server":
			one := settings{"address": value, "method": method}
			if a, err := netip.ParseAddr(value); err == nil && a.IsLoopback() {
				one["method"] = "local"
			}
			v.set["sorry_servers"], v.sorryLine = []settings{one}, k.line
		case "quiesce_server":
			v.set["inhibit_on_failure"] = value == "1"
		case "active":
			active = value == "1"
		case "server":
			servers = append(servers, k)
		case "persistent":
			persistence["timeout"] = value
		case "pmask":
			persistence["netmask"] = value
		default:
			if !check.key(b, k, value) {
				b.piranhaService(&v, k, value)
			}
		}
	}
	if v.key.Protocol == director.TCP || check.asks() {
		if c := check.settings(); b.sound(s.line, c) {
			v.set["check"] = c
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
	case "load_monitor":
		if value != "none" {
			b.note(k.line, "%s", piranhaReasons["load_monitor"])
		}
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

// piranhaCheck is how the real servers of a service are checked.
type piranhaCheck struct {
	send, program, expect string
	regex                 bool
	timing                timing
}

func newPiranhaCheck() *piranhaCheck {
	return &piranhaCheck{timing: timing{interval: 10 * time.Second, timeout: 10 * time.Second, fall: 1}}
}

// key takes one key, if it is about checks.
func (c *piranhaCheck) key(b *builder, k *statement, value string) bool {
	switch k.words[0] {
	case "send":
		c.send = unescaped.Replace(value)
	case "send_program":
		c.program = value
	case "expect", "expect_program":
		c.expect = unescaped.Replace(value)
	case "use_regex":
		c.regex = value == "1"
	case "timeout", "reentry":
		d, ok := seconds(value)
		if !ok {
			b.note(k.line, "%s cannot be %q", k.words[0], value)
		} else if k.words[0] == "timeout" {
			c.timing.interval, c.timing.timeout = d, d
		} else {
			b.note(k.line, "who answers is back at once: rise is how often he has to")
		}
	default:
		return false
	}
	return true
}

// unescaped are the line ends that are written as in C.
var unescaped = strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\t`, "\t", `\"`, `"`, `\\`, `\`)

// asks tells that more than a connection is wanted.
func (c *piranhaCheck) asks() bool { return c.program+c.send+c.expect != "" }

// equals is a shell's command: what a program prints is the text that stands before it.
const equals, matches = `test "$("$@")" = "$0"`, `"$@" | grep -q -E -e "$0"`

func (c *piranhaCheck) settings() settings {
	check := settings{}
	c.timing.write(check)
	expected := settings{"text": c.expect}
	if c.regex {
		expected = pattern(c.expect)
	}
	program := strings.Fields(strings.NewReplacer("%h", "{address}", "%p", "{port}").Replace(c.program))
	switch {
	case len(program) > 0:
		script := equals
		if c.regex {
			script = matches
		}
		check["external"] = settings{"command": "/bin/sh", "args": append([]string{"-c", script, c.expect}, program...)}
	case c.asks():
		step := settings{}
		step.put("send", c.send)
		if c.expect != "" {
			step["expect"] = expected
		}
		check["expect"] = settings{"steps": []settings{step}}
	default:
		check["tcp"] = settings{}
	}
	return check
}
