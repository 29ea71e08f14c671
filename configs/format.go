// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"xdplvs/director"
)

// writer makes a mapping of a file, key by key.
type writer struct{ node *yaml.Node }

func newWriter() writer { return writer{&yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}} }

// set writes a key; a value is text, a number, a truth or a node.
func (w writer) set(name string, value any) {
	node, ok := value.(*yaml.Node)
	if !ok {
		node = nodeOf(value)
	}
	w.node.Content = append(w.node.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, node)
}

// nodeOf is a value's node. To encode one writes a document and reads it again, so what is the same without is made here.
func nodeOf(value any) *yaml.Node {
	switch v := value.(type) {
	case string:
		if plainWord(v) {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v}
		}
	case int, int64, uint, uint8, uint16, uint32, uint64:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(v)}
	}
	node := new(yaml.Node)
	if err := node.Encode(value); err != nil {
		panic(err) // such values always can be encoded
	}
	return node
}

// plainWord tells whether a text is certainly nothing but a text in YAML, without quotes: an IPv4 address, with whatever
// is around it, which has more dots than a number; or only lower-case letters and _, more than every word has that has a meaning of its own.
func plainWord(s string) bool {
	const longest, dots = len("false"), 3
	if strings.Trim(s, "0123456789.:/") == "" {
		return strings.Count(s, ".") == dots
	}
	return len(s) > longest && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// writeOption writes a key whose value is not the one that its absence stands for.
func writeOption[V comparable](w writer, name string, value, absent V) {
	if value == absent {
		return
	}
	if text, ok := any(value).(fmt.Stringer); ok {
		w.set(name, text.String())
	} else {
		w.set(name, value)
	}
}

// Format writes services, which use no checks that a file names, as the key services of a file has
// them; what Parse reads of it are the same services.
func Format(services []director.Service) []byte { return Default().Format(services) }

// Format writes services as Format does, with the checks that the configuration names.
func (c *Config) Format(services []director.Service) []byte {
	top := newWriter()
	if c.checks != nil {
		top.set("checks", c.checks)
	}
	top.set("services", servicesNode(services))
	return encode(top.node)
}

func servicesNode(services []director.Service) *yaml.Node {
	all := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range services {
		all.Content = append(all.Content, serviceNode(&services[i]))
	}
	return all
}

func encode(node *yaml.Node) []byte {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(node); err != nil {
		panic(err) // a tree of ours, into memory
	}
	return b.Bytes()
}

// serviceNode is a service as the file has it.
func serviceNode(s *director.Service) *yaml.Node {
	w := serviceWriter(s)
	method := commonMethod(s.Reals)
	writeOption(w, "method", method, director.DirectRouting)
	writeReals(w, "reals", s, s.Reals, method)
	writeReals(w, "sorry_servers", s, s.Sorry, method)
	return w.node
}

// writeReals writes a list of real servers, if there are some; method is the service's.
func writeReals(w writer, name string, s *director.Service, list []director.RealServer, method director.Method) {
	if len(list) == 0 {
		return
	}
	reals := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range list {
		reals.Content = append(reals.Content, realNode(s, &list[i], method))
	}
	w.set(name, reals)
}

// serviceWriter has written all of a service but its real servers.
func serviceWriter(s *director.Service) writer {
	w := newWriter()
	writeOption(w, "name", s.Name, "")
	writeKey(w, s)
	w.set("scheduler", s.Scheduler)
	if s.Flags != 0 {
		w.set("scheduler_flags", flow(strings.Split(s.Flags.String(), ",")))
	}
	writeOption(w, "mh_table", s.MHTable, 0)
	writeOption(w, s.Scheduler+"_expiration", writtenDuration(s.Expiration), "0s")
	writeOption(w, "one_packet", s.OnePacket, false)
	writePersistence(w, s.Persistence)
	writeOption(w, "answer", s.Answer, director.AnswerUnreachable)
	writePolicy(w, s.Key.Protocol, s.Conns)
	if len(s.Sources) > 0 {
		sources := newWriter()
		sources.set("sources", flow(s.Sources))
		w.set("fullnat", inline(sources.node))
	}
	writeWritten(w, s.Written)
	return w
}

func writeKey(w writer, s *director.Service) {
	k := s.Key
	if k.Mark != 0 {
		w.set("fwmark", k.Mark)
		if k.Addr.Is6() {
			w.set("family", "ipv6")
		}
		writeOption(w, "mark_source", s.MarkSource, director.MarkRules)
		if s.VIPs != nil {
			w.set("vips", flow(s.VIPs))
		}
		return
	}
	writeOption(w, "protocol", k.Protocol, director.TCP)
	if k.Port == 0 {
		w.set("address", k.Addr.String())
		w.set("port", "any")
		return
	}
	w.set("virtual", netip.AddrPortFrom(k.Addr, k.Port).String())
}

// writePersistence prefers the short form.
func writePersistence(w writer, p director.Persistence) {
	if p.Timeout == 0 {
		return
	}
	if p == (director.Persistence{Timeout: p.Timeout}) {
		w.set("persistence", writtenDuration(p.Timeout))
		return
	}
	long := newWriter()
	long.set("timeout", writtenDuration(p.Timeout))
	writeOption(long, "netmask", p.Prefix, 0)
	if p.AnyClient {
		long.set("netmask", 0)
	}
	writeOption(long, "engine", p.Engine, director.NoEngine)
	writeOption(long, "expire_quiescent", p.ExpireQuiescent, false)
	if p.KeepDown {
		long.set("on_down", director.FateKeep.String())
	}
	w.set("persistence", inline(long.node))
}

// writePolicy writes the semantics whose defaults are nearer, and what differs from them.
func writePolicy(w writer, protocol director.Protocol, p director.ConnPolicy) {
	near, ipvs := director.DefaultConnPolicy(protocol), director.IPVSConnPolicy(p.ExpireNodest)
	if p.OnRemove == director.FateDrop || p == ipvs {
		w.set("semantics", ipvsSemantics)
		near = ipvs
	}
	writeOption(w, "on_remove", p.OnRemove, near.OnRemove)
	writeOption(w, "on_down", p.OnDown, near.OnDown)
	if p.Reuse != near.Reuse {
		modes := map[director.Reuse]int{director.ReuseNever: 0, director.ReuseClosed: 1, director.ReuseClosing: 3}
		w.set("conn_reuse_mode", modes[p.Reuse])
	}
	writeOption(w, "expire_nodest_conn", p.ExpireNodest, false)
	if p.Sloppy {
		w.set("sloppy_"+sloppyOf(protocol), true)
	}
}

func sloppyOf(p director.Protocol) string {
	if p == director.SCTP {
		return p.String()
	}
	return director.TCP.String() // of a firewall mark's service, too
}

// commonMethod is that of all real servers; dr if they have several.
func commonMethod(reals []director.RealServer) director.Method {
	for i := range reals {
		if reals[i].Method != reals[0].Method {
			return director.DirectRouting
		}
	}
	if len(reals) == 0 {
		return director.DirectRouting
	}
	return reals[0].Method
}

// realNode is a real server as the file has it, on one line; method is the service's.
func realNode(s *director.Service, r *director.RealServer, method director.Method) *yaml.Node {
	w := newWriter()
	writeOption(w, "name", r.Name, "")
	w.set("address", r.Key.Addr.String())
	writeOption(w, "port", r.Key.Port, s.Key.Port)
	writeOption(w, "method", r.Method, method)
	writeOption(w, "weight", r.Weight, DefaultWeight)
	writeOption(w, "upper", r.Upper, 0)
	writeOption(w, "lower", r.Lower, 0)
	writeOption(w, "slow_start", writtenDuration(r.SlowStart), "0s")
	if r.Tunnel != (director.TunnelOptions{}) {
		t := newWriter()
		t.set("type", r.Tunnel.Type.String())
		writeOption(t, "port", r.Tunnel.Port, 0)
		writeOption(t, "checksum", r.Tunnel.Checksum, false)
		w.set("tunnel", inline(t.node))
	}
	writeWritten(w, r.Written)
	return inline(w.node)
}

// inline puts a node on one line.
func inline(n *yaml.Node) *yaml.Node {
	n.Style = yaml.FlowStyle
	return n
}

// flow is a list on one line.
func flow[V any](values []V) *yaml.Node {
	n := new(yaml.Node)
	if err := n.Encode(values); err != nil {
		panic(err) // texts, and what has some
	}
	return inline(n)
}

// writtenDuration is 15m rather than 15m0s.
func writtenDuration(d time.Duration) string { return cmp.Or(director.FormatTimeout(d), "0s") }
