// SPDX-License-Identifier: Apache-2.0

package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

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

// TunnelType is how packets travel to a real server by tun. Numbers are those of the data plane.
type TunnelType uint8

// The types of tunnel, as ipvsadm's --tun-type has them.
const (
	IPIP TunnelType = iota
	GUE
	GRE
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
	tunnelNames   = names[TunnelType]{{IPIP, "ipip"}, {GUE, "gue"}, {GRE, "gre"}}
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
// 0, of a template that is for every protocol, is ip.
func (p Protocol) String() string {
	if p == 0 {
		return "ip"
	}
	return protocolNames.format(p)
}

// MarshalText implements encoding.TextMarshaler.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known protocols.
func (p *Protocol) UnmarshalText(text []byte) (err error) {
	if string(text) == "ip" {
		*p = 0
		return nil
	}
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

// String returns the name that configuration uses: ipip, gue, gre.
func (t TunnelType) String() string { return tunnelNames.format(t) }

// MarshalText implements encoding.TextMarshaler.
func (t TunnelType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error names the known types.
func (t *TunnelType) UnmarshalText(text []byte) (err error) {
	*t, err = tunnelNames.parse("tunnel type", text)
	return err
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

// ServiceKey is what a virtual service is known by: protocol, address and port, or
// a firewall mark. It is comparable.
type ServiceKey struct {
	Protocol Protocol   `json:"protocol"`
	Addr     netip.Addr `json:"address"`        // never IPv4-mapped; with a mark the unspecified one, which tells the family
	Port     uint16     `json:"port"`           // 0: every port that no other service of the address has
	Mark     uint32     `json:"mark,omitempty"` // not 0: the packets that have it, of every protocol (the key's is TCP, as in IPVS)
	Sorry    bool       `json:"-"`              // it is not the service, but its sorry servers: OfSorry
}

// MarkKey is the key of the service of a firewall mark, for IPv4 or IPv6.
func MarkKey(mark uint32, v6 bool) ServiceKey {
	k := ServiceKey{Protocol: TCP, Addr: netip.IPv4Unspecified(), Mark: mark}
	if v6 {
		k.Addr = netip.IPv6Unspecified()
	}
	return k
}

// String is tcp 192.0.2.1:80 or tcp [2001:db8::1]:80; fwmark 7, or fwmark 7 ipv6.
func (k ServiceKey) String() string {
	switch {
	case k.Sorry:
		return "sorry servers of " + k.served().String()
	case k.Mark != 0 && k.Addr.Is4():
		return fmt.Sprintf("fwmark %d", k.Mark)
	case k.Mark != 0:
		return fmt.Sprintf("fwmark %d ipv6", k.Mark)
	}
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
	MHTable   int             // slots of mh's table, one of MHTables; 0: 4093, as in IPVS
	// Expiration is the sysctl lblc_expiration or lblcr_expiration; 0: 24 hours.
	Expiration  time.Duration
	Persistence Persistence
	Answer      Answer
	Conns       ConnPolicy
	Guard       Guard
	Sources     []netip.Addr // of its connections by fullnat; those of a family that it has none of are the Desired's
	MarkSource  MarkSource   // of a firewall mark
	VIPs        []netip.Addr // with MarkFirewall: whose packets the firewall marks
	Reals       []RealServer // in the order in which they were added; IPVS lists the last first
	// Sorry servers get the new connections when no real server can. Where there are
	// several wlc shares those out; with persistence mh does, by the client's address.
	Sorry []RealServer
	// Written is what the configuration says of it that is not here, as how the health of its real servers
	// is checked, in its words. The domain only keeps it.
	Written string `json:",omitempty"`
}

// Servers are the real servers and the sorry servers.
func (s *Service) Servers() []RealServer { return slices.Concat(s.Reals, s.Sorry) }

// RealServer is a real server as it should be.
type RealServer struct {
	Name   string
	Key    RealKey
	Method Method
	Tunnel TunnelOptions // of method tun
	Weight uint32        // 0: quiesced, known connections go on; at most MaxWeight
	Upper  uint32        // threshold: connections from which on it gets no new ones; 0: none; at most MaxThreshold
	Lower  uint32        // below so many it gets new ones again; 0: three quarters of Upper, as in IPVS
	// SlowStart is how long its weight grows once it can get connections (again); 0: not at all.
	SlowStart time.Duration
	// Written is as of Service.
	Written string `json:",omitempty"`
	// Checked says that SetHealth tells whether it can get connections.
	Checked bool
	// InhibitOnFailure quiesces it when it is down, instead of taking it out of the plans: as
	// keepalived's inhibit_on_failure.
	InhibitOnFailure bool
}

// TunnelOptions are how packets travel by tun; all zero is ipip.
type TunnelOptions struct {
	Type     TunnelType `json:"type"`
	Port     uint16     `json:"port,omitempty"`     // destination port of GUE; not 0
	Checksum bool       `json:"checksum,omitempty"` // of GUE's UDP, and GRE's
}

// MaxWeight is the largest weight that can be configured, as in IPVS's tools.
const MaxWeight = 65535

// MHTables are the lengths that mh's table can have: IPVS's, and 65537, as the
// authors of Maglev have it.
func MHTables() []int {
	return []int{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 65537, 131071}
}

// The bounds of a service's Expiration and of a SlowStart.
const (
	MinExpiration = time.Second
	MaxExpiration = 24 * 24 * time.Hour // of jiffies in 32 bits
	MaxSlowStart  = 24 * time.Hour
)

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
	MarkEntries  uint32 `json:"mark_entries"` // of marking rules, 256 bytes each; a range of ports needs several
	Prefixes     uint32 `json:"prefixes"`     // entries of prefix lists, 64 bytes each; a prefix may need several
	Destinations uint32 `json:"destinations"` // that lblc and lblcr remember, over all services
}

// DefaultLimits fit a machine with 512 MiB of memory: the tables take about 85 MiB.
var DefaultLimits = Limits{
	Connections4: 1 << 18,
	Connections6: 1 << 16,
	Services:     1 << 14,
	RealServers:  1 << 16,
	PlanSlots:    1 << 21,
	MarkEntries:  1 << 14,
	Prefixes:     1 << 18,
	Destinations: scheduler.DefaultDestinations,
}

// Desired is the whole state that somebody asked for.
type Desired struct {
	Interfaces []Interface
	Services   []Service
	Marks      []MarkRule
	Timeouts   Timeouts
	Locals     LocalEnds // of connections by full-NAT
	Door       string    // one of Interfaces, by which packets with the firewall's marks come in; empty: there is none
	Probes     string    // likewise, by which health checks as a client's come in
	Defense    Defense
	Closed     map[netip.Addr]ClosedPorts // of virtual addresses; those of others are the stack's
}

// Validate tells what cannot be, for callers that do not come from a
// configuration file. It returns all errors joined.
func (s *Service) Validate() error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("service %s: "+format, append([]any{s.Key}, args...)...))
	}
	if fault := s.Key.fault(); fault != "" {
		fail("%s", fault)
	}
	if err := s.Persistence.validate(s.Key); err != nil {
		fail("%w", err)
	}
	if _, err := newScheduler(*s); err != nil {
		fail("%w", err)
	}
	for _, err := range s.validateOptions() {
		fail("%w", err)
	}
	if s.OnePacket && s.Key.Protocol != UDP && s.Key.Mark == 0 {
		fail("one-packet scheduling is for udp only")
	}
	if s.Conns.OnDown == FateDrop {
		fail("on_down: connections are dropped of removed real servers only")
	}
	if s.Conns.Sloppy && s.Key.Protocol == UDP {
		fail("sloppy is for tcp and sctp only")
	}
	if err := s.Guard.validate(); err != nil {
		fail("%w", err)
	}
	if err := s.CookieFault(); err != nil {
		fail("syn_cookies: %w", err)
	}
	for _, err := range append(validateSources(s.Sources), s.validateSource()...) {
		fail("%w", err)
	}
	errs = append(errs, s.validateReals("real server", s.Reals)...)
	return errors.Join(append(errs, s.validateSorry()...)...)
}

// validateReals looks at a list of real servers; what: what they are called.
func (s *Service) validateReals(what string, list []RealServer) (errs []error) {
	seen := make(map[RealKey]bool, len(list))
	for _, r := range list {
		if seen[r.Key] {
			errs = append(errs, fmt.Errorf("service %s: %s %s twice", s.Key, what, r.Key))
		}
		seen[r.Key] = true
		for _, err := range r.validate(s) {
			errs = append(errs, fmt.Errorf("service %s: %s %s: %w", s.Key, what, r.Key, err))
		}
	}
	return errs
}

// fault says why there cannot be such a service.
func (k ServiceKey) fault() string {
	if k.Mark == 0 {
		return addressFault(k.Addr)
	}
	if k.Port != 0 || k.Protocol != TCP || !k.Addr.IsValid() || !k.Addr.IsUnspecified() {
		return "a firewall mark stands for protocol, address and port"
	}
	return ""
}

// validateOptions looks at what only some schedulers know.
func (s *Service) validateOptions() (errs []error) {
	if s.MHTable != 0 && s.Scheduler != "mh" {
		errs = append(errs, fmt.Errorf("scheduler %s has no table size", s.Scheduler))
	} else if s.MHTable != 0 && !slices.Contains(MHTables(), s.MHTable) {
		errs = append(errs, fmt.Errorf("mh table of %d slots (known: %v)", s.MHTable, MHTables()))
	}
	if s.Expiration != 0 && !s.remembers() {
		errs = append(errs, fmt.Errorf("scheduler %s remembers nothing that could expire", s.Scheduler))
	} else if s.Expiration != 0 && (s.Expiration < MinExpiration || s.Expiration > MaxExpiration) {
		errs = append(errs, fmt.Errorf("expiration of %s is not between %s and %s", s.Expiration, MinExpiration, MaxExpiration))
	}
	return errs
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
	if r.SlowStart < 0 || r.SlowStart > MaxSlowStart {
		errs = append(errs, fmt.Errorf("slow start of %s is not between 0 and %s", r.SlowStart, MaxSlowStart))
	}
	if !r.Method.Translates() && r.Key.Port != s.Key.Port && s.Key.Mark == 0 {
		errs = append(errs, fmt.Errorf("method %s cannot change the port (%d to %d)", r.Method, s.Key.Port, r.Key.Port))
	}
	if fault := r.Tunnel.Fault(); fault != "" {
		errs = append(errs, errors.New(fault))
	} else if r.Method != Tunnel && r.Tunnel != (TunnelOptions{}) {
		errs = append(errs, fmt.Errorf("tunnel %s is for method tun, the method is %s", r.Tunnel, r.Method))
	}
	if r.Method == FullNAT && s.OnePacket {
		errs = append(errs, errors.New("fullnat needs connections, and one-packet scheduling has none"))
	}
	return errs
}
