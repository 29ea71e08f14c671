// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"xdplvs/scheduler"
)

// Protocol is an IP protocol number that services exist for.
type Protocol uint8

// The protocols of services.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// Method is how packets reach a real server. Numbers are those of the data plane.
type Method uint8

// The forwarding methods; ipvsadm's names are Masq, Local, Tunnel and Route.
const (
	NAT Method = iota
	Local
	Tunnel
	DirectRouting
	FullNAT
)

// Answer is what a packet gets that finds no usable real server.
type Answer uint8

// The answers. Unreachable is an ICMP port unreachable, as IPVS sends.
const (
	AnswerUnreachable Answer = iota
	AnswerReset
	AnswerDrop
	AnswerPass
)

// AttachMode is how the XDP program is attached to an interface.
type AttachMode uint8

// AttachAuto takes native where the driver has it, generic otherwise.
const (
	AttachAuto AttachMode = iota
	AttachNative
	AttachGeneric
)

// names gives the text forms of an enumeration; unknown text is an error that lists them.
type names[T ~uint8] []struct {
	value T
	text  string
}

var (
	protocolNames = names[Protocol]{{TCP, "tcp"}, {UDP, "udp"}, {SCTP, "sctp"}}
	methodNames   = names[Method]{{DirectRouting, "dr"}, {NAT, "nat"}, {Tunnel, "tun"}, {Local, "local"}, {FullNAT, "fullnat"}}
	answerNames   = names[Answer]{{AnswerUnreachable, "unreachable"}, {AnswerReset, "reset"}, {AnswerDrop, "drop"}, {AnswerPass, "pass"}}
	attachNames   = names[AttachMode]{{AttachAuto, "auto"}, {AttachNative, "native"}, {AttachGeneric, "generic"}}
)

func (n names[T]) format(v T) string {
	for _, e := range n {
		if e.value == v {
			return e.text
		}
	}
	return fmt.Sprintf("unknown(%d)", v)
}

func (n names[T]) parse(what string, text []byte) (T, error) {
	known := make([]string, len(n))
	for i, e := range n {
		if e.text == string(text) {
			return e.value, nil
		}
		known[i] = e.text
	}
	return 0, fmt.Errorf("unknown %s %q (known: %s)", what, text, strings.Join(known, ", "))
}

// String returns the name that configuration and listings use.
func (p Protocol) String() string { return protocolNames.format(p) }

// MarshalText implements encoding.TextMarshaler.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known protocols.
func (p *Protocol) UnmarshalText(text []byte) (err error) {
	*p, err = protocolNames.parse("protocol", text)
	return err
}

// String returns the name that configuration uses: dr, nat, tun, local, fullnat.
func (m Method) String() string { return methodNames.format(m) }

// MarshalText implements encoding.TextMarshaler.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known methods.
func (m *Method) UnmarshalText(text []byte) (err error) {
	*m, err = methodNames.parse("forwarding method", text)
	return err
}

// IPVSName is the name in ipvsadm's listings: Masq, Local, Tunnel, Route; FullNAT is ours.
func (m Method) IPVSName() string {
	switch m {
	case NAT:
		return "Masq"
	case Local:
		return "Local"
	case Tunnel:
		return "Tunnel"
	case DirectRouting:
		return "Route"
	default:
		return "FullNat"
	}
}

// String returns the name that configuration uses.
func (a Answer) String() string { return answerNames.format(a) }

// MarshalText implements encoding.TextMarshaler.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known answers.
func (a *Answer) UnmarshalText(text []byte) (err error) {
	*a, err = answerNames.parse("answer", text)
	return err
}

// String returns the name that configuration uses.
func (m AttachMode) String() string { return attachNames.format(m) }

// MarshalText implements encoding.TextMarshaler.
func (m AttachMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known modes.
func (m *AttachMode) UnmarshalText(text []byte) (err error) {
	*m, err = attachNames.parse("attach mode", text)
	return err
}

// ServiceKey is what a virtual service is known by. It is comparable.
type ServiceKey struct {
	Protocol Protocol   `json:"protocol"`
	Addr     netip.Addr `json:"address"` // never IPv4-mapped
	Port     uint16     `json:"port"`
}

// String is tcp 192.0.2.1:80 or tcp [2001:db8::1]:80.
func (k ServiceKey) String() string {
	return k.Protocol.String() + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

// RealKey is what a real server is known by inside its service. It is comparable.
type RealKey struct {
	Addr netip.Addr `json:"address"`
	Port uint16     `json:"port"`
}

// String is 10.0.0.1:80 or [fd00::1]:80.
func (k RealKey) String() string { return netip.AddrPortFrom(k.Addr, k.Port).String() }

// Service is a virtual service as it should be.
type Service struct {
	Name      string // for people; may be empty
	Key       ServiceKey
	Scheduler string          // as in ipvsadm
	Flags     scheduler.Flags // of the scheduler: sh-port, mh-fallback, ...
	OnePacket bool            // every datagram is scheduled anew (UDP)
	Answer    Answer
	Conns     ConnPolicy
	Sources   []netip.Addr // of its connections by fullnat; those of a family that it has none of are the Desired's
	Reals     []RealServer // in the order in which they were added; IPVS lists the last first
}

// RealServer is a real server as it should be.
type RealServer struct {
	Name   string
	Key    RealKey
	Method Method
	Weight uint32 // 0: quiesced, known connections go on; at most MaxWeight
	Upper  uint32 // threshold: connections from which on it gets no new ones; 0: none; at most MaxThreshold
	Lower  uint32 // below so many it gets new ones again; 0: three quarters of Upper, as in IPVS
}

// MaxWeight is the largest weight that can be configured, as in IPVS's tools.
const MaxWeight = 65535

// MaxThreshold is the highest threshold, as in IPVS.
const MaxThreshold = 1<<31 - 1

// Interface is a network interface that the data plane is attached to.
type Interface struct {
	Name string
	Mode AttachMode
}

// Limits size the tables. They are fixed when the data plane is loaded.
type Limits struct {
	Connections4 uint32 `json:"connections4"` // places for IPv4 connections, 64 bytes each; a power of two
	Connections6 uint32 `json:"connections6"` // places for IPv6 connections, 128 bytes each; a power of two
	Services     uint32 `json:"services"`
	RealServers  uint32 `json:"real_servers"` // over all services
	PlanSlots    uint32 `json:"plan_slots"`   // over all services, 4 bytes each
}

// DefaultLimits fit a machine with 512 MiB of memory: the tables take about 60 MiB.
var DefaultLimits = Limits{
	Connections4: 1 << 18,
	Connections6: 1 << 16,
	Services:     1 << 14,
	RealServers:  1 << 16,
	PlanSlots:    1 << 21,
}

// Desired is the whole state that somebody asked for.
type Desired struct {
	Interfaces []Interface
	Services   []Service
	Timeouts   Timeouts
	Locals     LocalEnds // of connections by full-NAT
}

// Validate tells what cannot be, for callers that do not come from a
// configuration file. It returns all errors joined.
func (s *Service) Validate() error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("service %s: "+format, append([]any{s.Key}, args...)...))
	}
	if fault := addressFault(s.Key.Addr); fault != "" {
		fail("%s", fault)
	}
	if s.Key.Port == 0 {
		fail("port 0")
	}
	if _, err := newScheduler(*s); err != nil {
		fail("%w", err)
	}
	if s.OnePacket && s.Key.Protocol != UDP {
		fail("one-packet scheduling is for udp only")
	}
	if s.Conns.OnDown == FateDrop {
		fail("on_down: connections are dropped of removed real servers only")
	}
	if s.Conns.Sloppy && s.Key.Protocol == UDP {
		fail("sloppy is for tcp and sctp only")
	}
	for _, err := range validateSources(s.Sources) {
		fail("%w", err)
	}
	seen := make(map[RealKey]bool, len(s.Reals))
	for _, r := range s.Reals {
		if seen[r.Key] {
			fail("real server %s twice", r.Key)
		}
		seen[r.Key] = true
		for _, err := range r.validate(s) {
			fail("real server %s: %w", r.Key, err)
		}
	}
	return errors.Join(errs...)
}

// addressFault says why an address cannot be a service's or a real server's.
func addressFault(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no valid address"
	case a.Is4In6():
		return "IPv4-mapped address: write it as IPv4"
	case a.Zone() != "":
		return "address with a zone"
	case a.IsUnspecified():
		return "unspecified address"
	case a.IsMulticast():
		return "multicast address"
	default:
		return ""
	}
}

func (r *RealServer) validate(s *Service) (errs []error) {
	if fault := addressFault(r.Key.Addr); fault != "" {
		errs = append(errs, errors.New(fault))
	} else if r.Key.Addr.Is4() != s.Key.Addr.Is4() && r.Method != Tunnel {
		errs = append(errs, fmt.Errorf("is of another address family than %s", s.Key.Addr))
	}
	if r.Weight > MaxWeight {
		errs = append(errs, fmt.Errorf("weight %d is above %d", r.Weight, MaxWeight))
	}
	if r.Upper > MaxThreshold {
		errs = append(errs, fmt.Errorf("upper threshold %d is above %d", r.Upper, MaxThreshold))
	}
	if r.Lower > r.Upper {
		errs = append(errs, fmt.Errorf("lower threshold %d is above the upper one, %d", r.Lower, r.Upper))
	}
	if r.Method == DirectRouting && r.Key.Port != s.Key.Port {
		errs = append(errs, fmt.Errorf("direct routing cannot change the port (%d to %d)", s.Key.Port, r.Key.Port))
	}
	if r.Method == FullNAT && s.OnePacket {
		errs = append(errs, errors.New("fullnat needs connections, and one-packet scheduling has none"))
	}
	return errs
}
