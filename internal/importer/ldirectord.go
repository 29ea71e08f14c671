// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"xdplvs/director"
	"xdplvs/internal/ipvsadm"
)

// Why keys of ldirectord are not carried over, by key, of the file and of a virtual service. To carry one
// over, take it in setting.
var ldirectordReasons = map[string]string{
	"cleanstop": "services stay until they are removed", "maintenancedir": "write a check with file", "load": "weights follow checks, not loads",
	"monitorfile": "it is a checkcommand of its own", "fork": "checks are no processes", "readdquiescent": "who is back gets connections at once",
	"fallbackcommand": notifyScripts, "callback": "configurations are not copied to other directors",
	"emailalertfreq": "who is told is told once", "emailalertstatus": "events are listed under notify",
	"logfile": "the log goes to standard error", "autoreload": "director reload reads the file", "supervised": "director run stays in the foreground",
	"execute": "another configuration is not read: import it, too",
}

// ldirectordMethods are the words after a real server.
var ldirectordMethods = map[string]string{"gate": "dr", "masq": "nat", "ipip": "tun"}

// ldirectordVirtual is a virtual service while it is read.
type ldirectordVirtual struct {
	*builder
	names       portNames
	line        int
	where       string
	v6          bool
	protocol    string
	set         settings
	persistence settings
	reals       []ldirectordReal
	checks      ldirectordCheck
	fallback    ldirectordValue
}

type ldirectordReal struct {
	line  int
	words []string
}

// ldirectord reads ldirectord.cf: keys of a virtual service are indented.
func (b *builder) ldirectord() {
	var v *ldirectordVirtual
	names := newPortNames()
	globals := map[string]ldirectordValue{}
	for i, text := range b.lines {
		line := i + 1
		bare := strings.TrimSpace(text)
		if bare == "" || strings.HasPrefix(bare, "#") {
			continue
		}
		key, value, ok := strings.Cut(bare, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		indented := strings.HasPrefix(text, "\t") || strings.HasPrefix(text, "    ")
		switch {
		case key == "virtual" || key == "virtual6":
			v.finish()
			v = &ldirectordVirtual{builder: b, names: names, line: line, where: value, v6: key == "virtual6", set: settings{"scheduler": "wrr"},
				checks: ldirectordCheck{maps.Clone(globals), b.note}, fallback: globals["fallback"]}
			if v.v6 && globals["fallback6"].text != "" {
				v.fallback = globals["fallback6"]
			}
		case !ok && key != "supervised":
			b.note(line, "%s", unknownKey)
		case indented && v != nil:
			v.setting(line, key, value)
		default:
			b.ldirectordGlobal(globals, key, ldirectordValue{line, unquoted(value)})
		}
	}
	v.finish()
}

// ldirectordGlobal takes one key that is for all services after it, or about the daemon.
func (b *builder) ldirectordGlobal(globals map[string]ldirectordValue, key string, value ldirectordValue) {
	switch {
	case key == "emailalert":
		b.mail.to = nil
		b.mailTo(value.line, strings.FieldsFunc(value.text, func(r rune) bool { return r == ',' || r == ' ' })...)
	case key == "emailalertfrom":
		b.mailFrom(value.line, value.text)
	case key == "smtp":
		b.mailBy(value.line, value.text)
	case key == "fallback" || key == "fallback6" || slices.Contains(ldirectordKeys, key):
		globals[key] = value
	default:
		b.refuse(value.line, key)
	}
}

// unquoted is a value without the quotes around it.
func unquoted(text string) string { return strings.Trim(text, `"`) }

// refuse lists a line with the reason.
func (b *builder) refuse(line int, key string) {
	b.note(line, "%s", cmp.Or(ldirectordReasons[key], unknownKey))
}

// setting takes one key of the service.
func (v *ldirectordVirtual) setting(line int, key, value string) {
	value = unquoted(value)
	if slices.Contains(ldirectordKeys, key) {
		v.checks.keys[key] = ldirectordValue{line, value}
		return
	}
	switch key {
	case "fallback", "fallback6":
		v.fallback = ldirectordValue{line, value}
	case "emailalert", "emailalertfrom", "smtp":
		v.note(line, mailForAll)
	case "real", "real6":
		v.reals = append(v.reals, ldirectordReal{line, wordsOf(value, "")})
	case "scheduler":
		v.set["scheduler"] = value
	case "protocol":
		v.protocol = value
	case "persistent":
		v.persist()["timeout"] = value
	case "netmask":
		v.persist()["netmask"] = value
	case "ops":
		if value == "yes" {
			v.set["one_packet"] = true
		}
	default:
		v.refuse(line, key)
	}
}

func (v *ldirectordVirtual) persist() settings {
	if v.persistence == nil {
		v.persistence = settings{"timeout": strconv.Itoa(defaultPersistence)}
	}
	return v.persistence
}

// finish adds the service, if there is one.
func (v *ldirectordVirtual) finish() {
	if v == nil {
		return
	}
	key, ok := v.key()
	if !ok {
		v.note(v.line, "%s is no address and port, and no firewall mark; names of hosts are not looked up", v.where)
		return
	}
	if v.persistence != nil {
		v.set["persistence"] = v.persistence
	}
	one := virtual{key: key, line: v.line, set: v.set}
	v.apology(&one)
	if check := v.checks.settings(key); check != nil && v.sound(v.checks.line(v.line), check) {
		one.set["check"] = check
		if quiescent := v.checks.get("quiescent"); quiescent == "" || quiescent == "yes" {
			one.set["inhibit_on_failure"] = true
		}
	}
	for _, r := range v.reals {
		one.reals = append(one.reals, v.servers(r, key)...)
	}
	v.service(&one)
}

// apology adds the fallback as a sorry server: ADDRESS[:PORT] [METHOD].
func (v *ldirectordVirtual) apology(one *virtual) {
	words := strings.Fields(v.fallback.text)
	if len(words) == 0 {
		return
	}
	protocol := one.key.Protocol
	where, ok := ipvsadm.ParseEndpoint(words[0], protocol, v.names)
	method := "dr"
	if len(words) > 1 {
		method = ldirectordMethods[words[1]]
	}
	if !ok || method == "" {
		v.note(v.fallback.line, "want an address, a port, and gate, masq or ipip")
		return
	}
	s := settings{"address": where.Addr().String(), "method": method}
	if where.Addr().IsLoopback() {
		s["method"] = "local"
	} else if where.Port() != 0 && method == "nat" {
		s["port"] = where.Port()
	}
	one.set["sorry_servers"], one.sorryLine = []settings{s}, v.fallback.line
}

// key is ADDRESS:PORT, or a firewall mark.
func (v *ldirectordVirtual) key() (director.ServiceKey, bool) {
	if mark, err := strconv.ParseUint(v.where, 10, 32); err == nil && mark > 0 {
		return director.MarkKey(uint32(mark), v.v6), true
	}
	protocol := director.TCP
	if v.protocol != "" && protocol.UnmarshalText([]byte(v.protocol)) != nil {
		return director.ServiceKey{}, false
	}
	where, ok := ipvsadm.ParseEndpoint(v.where, protocol, v.names)
	return director.ServiceKey{Protocol: protocol, Addr: where.Addr(), Port: where.Port()}, ok
}

// servers reads ADDRESS[->LAST][:PORT] METHOD [WEIGHT] ["REQUEST", "RECEIVE"] [<l:N>] [<u:N>].
func (v *ldirectordVirtual) servers(r ldirectordReal, key director.ServiceKey) (list []server) {
	if len(r.words) < 2 {
		v.note(r.line, "want an address and a method")
		return nil
	}
	addrs, port, ok := v.places(r.words[0], key)
	method := ldirectordMethods[r.words[1]]
	if !ok || method == "" {
		v.note(r.line, "want an address, a port, and one of gate, masq and ipip")
		return nil
	}
	set := settings{"method": method}
	for i, word := range r.words[2:] {
		if !serverWord(set, word) {
			if check := v.checks.server(r.line, r.words[2+i:], key); check != nil && v.sound(r.line, check) {
				set["check"] = check
			}
			break
		}
	}
	for _, a := range addrs {
		one := server{r.line, settings{"address": a.String()}}
		for k, value := range set {
			one.set[k] = value
		}
		if a.IsLoopback() {
			one.set["method"] = "local"
		} else if port != 0 && (method == "nat" || key.Mark != 0) {
			one.set["port"] = port
		}
		list = append(list, one)
	}
	return list
}

// serverWord takes a weight or a threshold.
func serverWord(set settings, word string) bool {
	if n, err := strconv.ParseUint(word, 10, 32); err == nil {
		set["weight"] = n
		return true
	}
	for prefix, key := range map[string]string{"<l:": "lower", "<u:": "upper"} {
		if number, ok := strings.CutPrefix(word, prefix); ok {
			set[key] = strings.TrimSuffix(number, ">")
			return true
		}
	}
	return false
}

// places are the addresses, and the port, 0 if there is none.
func (v *ldirectordVirtual) places(text string, key director.ServiceKey) (addrs []netip.Addr, port uint16, ok bool) {
	low, high, isRange := strings.Cut(text, "->")
	if isRange && !strings.HasPrefix(low, "[") {
		last, number, has := strings.Cut(high, ":")
		if has {
			where, ok := ipvsadm.ParseEndpoint(low+":"+number, key.Protocol, v.names)
			if !ok {
				return nil, 0, false
			}
			port = where.Port()
		}
		addrs, ok = addressRange(low+"->"+last, "->")
		return addrs, port, ok
	}
	where, ok := ipvsadm.ParseEndpoint(text, key.Protocol, v.names)
	return []netip.Addr{where.Addr()}, where.Port(), ok && !isRange
}
