// SPDX-License-Identifier: Apache-2.0

package connfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"xdplvs/director"
)

// Packets selects packets that are traced, in the same words: src, dst, real, sport, dport, rport and service are
// those of the packet's connection, whoever has sent it. Further terms:
//
//	term = "protocol" WORDS | "proto" WORDS     of IP, by name or number
//	     | "verdict" WORDS                      or all of a kind: pass, tx, drop
//	     | "interface" WORDS                    that the packet came in by
//
// It is safe for use from several goroutines.
type Packets struct {
	terms []func(*director.Traced) bool
	Needs
}

// Needs is what every packet that is let through has, as far as it is easily said. Zero values stand for anything.
type Needs struct {
	Client, Virtual, Real netip.Prefix
	// The first port and the last.
	ClientPorts, VirtualPorts [2]uint16
	Protocol                  string   // if it is only one
	Services                  []string // one of them
	Verdicts                  []string // likewise
}

// Match tells whether all terms hold for the packet.
func (f *Packets) Match(p *director.Traced) bool {
	for _, term := range f.terms {
		if !term(p) {
			return false
		}
	}
	return true
}

// ParsePackets reads a filter of packets. The error is an *Error.
func ParsePackets(text string) (*Packets, error) {
	f := &Packets{}
	err := eachTerm(text, func(p *parser) error {
		key := p.take()
		for _, k := range packetKeywords {
			if slices.Contains(k.words, key.text) {
				term, err := k.parse(p, key, &f.Needs)
				f.terms = append(f.terms, term)
				return err
			}
		}
		return p.mistake(key, "unknown word %q (known: %s, and)", key.text, packetWords())
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// packetTerm parses the rest of a term, and notes what it needs.
type packetTerm func(*parser, token, *Needs) (func(*director.Traced) bool, error)

var packetKeywords = []struct {
	words []string
	parse packetTerm
}{
	{[]string{"src"}, packetPrefix(client, func(n *Needs) *netip.Prefix { return &n.Client })},
	{[]string{"dst"}, packetPrefix(virtual, func(n *Needs) *netip.Prefix { return &n.Virtual })},
	{[]string{"real"}, packetPrefix(real, func(n *Needs) *netip.Prefix { return &n.Real })},
	{[]string{"sport"}, packetPort(client, func(n *Needs) *[2]uint16 { return &n.ClientPorts })},
	{[]string{"dport"}, packetPort(virtual, func(n *Needs) *[2]uint16 { return &n.VirtualPorts })},
	{[]string{"rport"}, packetPort(real, func(*Needs) *[2]uint16 { return &[2]uint16{} })},
	{[]string{"protocol", "proto"}, packetProtocol},
	{[]string{"service"}, packetService},
	{[]string{"verdict"}, packetVerdict},
	{[]string{"interface"}, packetInterface},
}

func client(p *director.Traced) netip.AddrPort  { return p.Client }
func virtual(p *director.Traced) netip.AddrPort { return p.Virtual }
func real(p *director.Traced) netip.AddrPort    { return p.Real }

func packetWords() string {
	var words []string
	for _, k := range packetKeywords {
		words = append(words, k.words...)
	}
	return strings.Join(words, ", ")
}

func packetPrefix(of func(*director.Traced) netip.AddrPort, need func(*Needs) *netip.Prefix) packetTerm {
	return func(p *parser, key token, n *Needs) (func(*director.Traced) bool, error) {
		prefix, err := p.prefix(key)
		*need(n) = prefix
		return func(t *director.Traced) bool { return prefix.Contains(of(t).Addr()) }, err
	}
}

// packetPort needs the ports between the first and the last that will do, which is all that is easily said.
func packetPort(of func(*director.Traced) netip.AddrPort, need func(*Needs) *[2]uint16) packetTerm {
	return func(p *parser, key token, n *Needs) (func(*director.Traced) bool, error) {
		holds, err := p.port(key)
		if err != nil {
			return nil, err
		}
		*need(n) = span(holds)
		return func(t *director.Traced) bool { return holds(of(t).Port()) }, nil
	}
}

// span are the first and the last port of those; of none, the first of all.
func span(holds func(uint16) bool) (ports [2]uint16) {
	found := false
	for port := range 1 << 16 {
		if !holds(uint16(port)) {
			continue
		}
		if !found {
			ports[0], found = uint16(port), true
		}
		ports[1] = uint16(port)
	}
	return ports
}

func packetProtocol(p *parser, key token, n *Needs) (func(*director.Traced) bool, error) {
	known := director.ProtocolNames()
	words, err := p.words(key, "a protocol", func(w string) (string, error) {
		if number, err := strconv.ParseUint(w, 10, 8); err == nil {
			return director.ProtocolName(uint8(number)), nil
		}
		if name := strings.ToLower(w); slices.Contains(known, name) {
			return name, nil
		}
		return "", fmt.Errorf("unknown protocol %q (known: %s, and numbers)", w, strings.Join(known, ", "))
	})
	if len(words) == 1 {
		n.Protocol = words[0]
	}
	return func(t *director.Traced) bool { return slices.Contains(words, t.Protocol) }, err
}

func packetService(p *parser, key token, n *Needs) (func(*director.Traced) bool, error) {
	words, err := p.words(key, "a service's name", func(w string) (string, error) { return w, nil })
	n.Services = words
	return func(t *director.Traced) bool { return slices.Contains(words, t.Service) }, err
}

func packetInterface(p *parser, key token, _ *Needs) (func(*director.Traced) bool, error) {
	words, err := p.words(key, "an interface", func(w string) (string, error) { return w, nil })
	return func(t *director.Traced) bool { return slices.Contains(words, t.Ingress) }, err
}

func packetVerdict(p *parser, key token, n *Needs) (func(*director.Traced) bool, error) {
	known := director.VerdictNames()
	var verdicts []string
	_, err := p.words(key, "a verdict", func(w string) (string, error) {
		before := len(verdicts)
		for _, name := range known {
			if kind, _, _ := strings.Cut(name, "_"); w == name || w == kind {
				verdicts = append(verdicts, name)
			}
		}
		if len(verdicts) == before {
			return "", fmt.Errorf("unknown verdict %q (known: pass, tx, drop, %s)", w, strings.Join(known, ", "))
		}
		return w, nil
	})
	n.Verdicts = verdicts
	return func(t *director.Traced) bool { return slices.Contains(verdicts, t.Verdict) }, err
}
