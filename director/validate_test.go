// SPDX-License-Identifier: Apache-2.0

package director

import (
	"encoding/json"
	"net/netip"
	"sync"
	"testing"
	"time"

	"xdplvs/scheduler"
)

// TestValidate: every rule once, with its message, and all of them together.
func TestValidate(t *testing.T) {
	good := func() Service {
		return Service{Key: ServiceKey{Protocol: UDP, Addr: addr("192.0.2.1"), Port: 80}, Scheduler: "rr",
			Reals: []RealServer{{Key: RealKey{addr("10.0.0.1"), 80}, Method: DirectRouting, Weight: MaxWeight}}}
	}
	if s := good(); s.Validate() != nil {
		t.Errorf("a good one: %v", s.Validate())
	}
	for name, c := range map[string]struct {
		spoil func(*Service)
		text  string
	}{
		"no address":           {func(s *Service) { s.Key.Addr = netip.Addr{} }, "no valid address"},
		"mapped address":       {func(s *Service) { s.Key.Addr = addr("::ffff:192.0.2.1") }, "IPv4-mapped address: write it as IPv4"},
		"zone":                 {func(s *Service) { s.Key.Addr = addr("fe80::1%eth0") }, "address with a zone"},
		"unspecified":          {func(s *Service) { s.Key.Addr = addr("0.0.0.0") }, "unspecified address"},
		"multicast":            {func(s *Service) { s.Key.Addr = addr("ff02::1") }, "multicast address"},
		"mark and port":        {func(s *Service) { s.Key.Mark = 1 }, "a firewall mark stands for protocol, address and port"},
		"persistence":          {func(s *Service) { s.Persistence.Timeout = 1500 * time.Millisecond }, "timeout 1.5s is not 1s to"},
		"persistence too long": {func(s *Service) { s.Persistence.Timeout = MaxPersistence + time.Second }, "is not 1s to 576h"},
		"engine of tcp": {func(s *Service) {
			s.Key.Protocol, s.Persistence = TCP, Persistence{Timeout: time.Second, Engine: SIPEngine}
		}, "engine sip is for udp, the service is tcp"},
		"nobody's persistence":  {func(s *Service) { s.Persistence = Persistence{Timeout: time.Second, AnyClient: true} }, "some bits of the client's address must count"},
		"sorry and real":        {func(s *Service) { s.Sorry = s.Reals }, "is a real server and a sorry server"},
		"persistence's netmask": {func(s *Service) { s.Persistence = Persistence{Timeout: time.Second, Prefix: 33} }, "prefix length 33 is above 32"},
		"netmask alone":         {func(s *Service) { s.Persistence.Prefix = 24 }, "timeout 0s is not 1s to"},
		"one packet, not UDP":   {func(s *Service) { s.Key.Protocol, s.OnePacket = TCP, true }, "one-packet scheduling is for udp only"},
		"dropped when down":     {func(s *Service) { s.Conns.OnDown = FateDrop }, "on_down: connections are dropped of removed real servers only"},
		"sloppy, UDP":           {func(s *Service) { s.Conns.Sloppy = true }, "sloppy is for tcp and sctp only"},
		"one packet, fullnat":   {func(s *Service) { s.OnePacket, s.Reals[0].Method = true, FullNAT }, "fullnat needs connections, and one-packet scheduling has none"},
		"source mapped":         {func(s *Service) { s.Sources = []netip.Addr{addr("::ffff:10.0.0.1")} }, "source ::ffff:10.0.0.1: IPv4-mapped address"},
		"source twice":          {func(s *Service) { s.Sources = []netip.Addr{addr("10.0.0.1"), addr("10.0.0.1")} }, "source 10.0.0.1 twice"},
		"lower threshold":       {func(s *Service) { s.Reals[0].Upper, s.Reals[0].Lower = 3, 4 }, "lower threshold 4 is above the upper one, 3"},
		"no upper threshold":    {func(s *Service) { s.Reals[0].Lower = 1 }, "lower threshold 1 is above the upper one, 0"},
		"upper threshold":       {func(s *Service) { s.Reals[0].Upper = MaxThreshold + 1 }, "upper threshold 2147483648 is above 2147483647"},
		"real server twice":     {func(s *Service) { s.Reals = append(s.Reals, s.Reals[0]) }, "real server 10.0.0.1:80 twice"},
		"real server's address": {func(s *Service) { s.Reals[0].Key.Addr = netip.Addr{} }, "no valid address"},
		"real server mapped":    {func(s *Service) { s.Reals[0].Key.Addr = addr("::ffff:10.0.0.1") }, "IPv4-mapped address"},
		"real server's family":  {func(s *Service) { s.Reals[0].Key.Addr = addr("fd00::1") }, "is of another address family than 192.0.2.1"},
		"weight":                {func(s *Service) { s.Reals[0].Weight = MaxWeight + 1 }, "weight 65536 is above 65535"},
		"port of dr":            {func(s *Service) { s.Reals[0].Key.Port = 81 }, "method dr cannot change the port (80 to 81)"},
		"port of tun":           {func(s *Service) { s.Reals[0].Method, s.Reals[0].Key.Port = Tunnel, 81 }, "method tun cannot change the port (80 to 81)"},
		"port of local":         {func(s *Service) { s.Reals[0].Method, s.Reals[0].Key.Port = Local, 81 }, "method local cannot change the port (80 to 81)"},
		"tunnel of dr":          {func(s *Service) { s.Reals[0].Tunnel.Type = GRE }, "tunnel gre is for method tun, the method is dr"},
		"gue without port":      {tunneled(TunnelOptions{Type: GUE}), "a gue tunnel needs a port"},
		"gre with port":         {tunneled(TunnelOptions{Type: GRE, Port: 1}), "a tunnel of type gre has no port"},
		"ipip with checksum":    {tunneled(TunnelOptions{Checksum: true}), "a tunnel of type ipip has no checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			c.spoil(&s)
			expectError(t, s.Validate(), nil, c.text)
		})
	}
	tunnel := good()
	tunnel.Reals[0].Key.Addr, tunnel.Reals[0].Method = addr("fd00::1"), Tunnel
	if err := tunnel.Validate(); err != nil {
		t.Errorf("a tunnel may be of the other family: %v", err)
	}
}

func tunneled(o TunnelOptions) func(*Service) {
	return func(s *Service) { s.Reals[0].Method, s.Reals[0].Tunnel = Tunnel, o }
}

// TestNames: every name is read as it is written, and an unknown one says which there are.
func TestNames(t *testing.T) {
	roundTrip(t, "protocol", TCP, UDP, SCTP)
	roundTrip(t, "method", NAT, Local, Tunnel, DirectRouting, FullNAT)
	roundTrip(t, "tunnel type", IPIP, GUE, GRE)
	roundTrip(t, "answer", AnswerUnreachable, AnswerReset, AnswerDrop, AnswerPass)
	roundTrip(t, "fate", FateKeep, FateReschedule, FateReset, FateDrop)
	roundTrip(t, "attach mode", AttachAuto, AttachNative, AttachGeneric)
	var m Method
	expectError(t, m.UnmarshalText([]byte("route")), nil, `unknown forwarding method "route" (known: dr, nat, tun, local, fullnat)`)
	expect(t, "unknown value", Protocol(200).String(), "unknown(200)")
	for m, name := range map[Method]string{NAT: "Masq", Local: "Local", Tunnel: "Tunnel", DirectRouting: "Route", FullNAT: "FullNat"} {
		expect(t, "IPVS's name", m.IPVSName(), name)
	}
	expect(t, "IPv6 key", ServiceKey{Protocol: TCP, Addr: addr("2001:db8::1"), Port: 80}.String(), "tcp [2001:db8::1]:80")
	names := SchedulerNames()
	names[0] = "changed by the caller"
	expect(t, "first scheduler", SchedulerNames()[0], "dh")
}

func roundTrip[T interface {
	comparable
	String() string
}](t *testing.T, what string, values ...T) {
	t.Helper()
	for _, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var back T
		if err := json.Unmarshal(text, &back); err != nil || back != v {
			t.Errorf("%s %s: written as %s, read as %s (%v)", what, v, text, back, err)
		}
	}
}

// sameCost takes the first of the list each time.
func sameCost(s scheduler.Server) (scheduler.Cost, bool) {
	return scheduler.Cost{Num: 0, Den: 1}, s.Usable()
}

// hashing is a scheduler whose hash the data plane does not know.
type hashing struct{ scheduler.Scheduler }

func (hashing) Kind() scheduler.Kind { return scheduler.Hash }

var registerOwn = sync.OnceFunc(func() {
	own := scheduler.NewRanked("own-first", sameCost)
	must(scheduler.Register("own-first", func(scheduler.Options) (scheduler.Scheduler, error) { return own, nil }))
	must(scheduler.Register("own-hash", func(scheduler.Options) (scheduler.Scheduler, error) { return hashing{own}, nil }))
})

// TestOwnScheduler: a service can have one that somebody has registered, if the data
// plane can take its choices in order.
func TestOwnScheduler(t *testing.T) {
	registerOwn()
	w := newWorld(t, medium)
	w.mustWant(one("own-first", real4(1, 1), real4(2, 1)))
	w.resolve(real4(1, 1).Key.Addr, real4(2, 1).Key.Addr)
	for range 5 {
		expect(t, "choice", w.chosen(key4(1)), 2)
	}
	expectError(t, w.d.apply(one("own-hash", real4(1, 1))), nil, "scheduler own-hash: the data plane has no such plan")
}

// TestOptionsOfSchedulers: what one scheduler knows is an error with another.
func TestOptionsOfSchedulers(t *testing.T) {
	for want, s := range map[string]Service{
		"scheduler sh has no table size":                                  {Scheduler: "sh", MHTable: 251},
		"mh table of 65536 slots (known: [251 509":                        {Scheduler: "mh", MHTable: 65536},
		"scheduler wlc remembers nothing that could expire":               {Scheduler: "wlc", Expiration: time.Hour},
		"expiration of 1ms is not between 1s and 576h0m0s":                {Scheduler: "lblc", Expiration: time.Millisecond},
		"real server 10.0.0.1:80: slow start of -1s is not between 0 and": {Scheduler: "rr", Reals: slowly(-1, real4(1, 1))},
	} {
		s.Key = key4(1)
		expectError(t, s.Validate(), nil, want)
	}
	for _, size := range MHTables() {
		s := one("mh", real4(1, 1)).Services[0]
		s.MHTable = size
		must(s.Validate())
	}
}

// TestListOrder: ipvsadm's.
func TestListOrder(t *testing.T) {
	w := newWorld(t, medium)
	want, err := parseDesired([]string{
		"service a udp [2001:db8::1]:53 rr", "service b tcp [2001:db8::1]:80 rr", "service c udp 192.0.2.1:53 rr",
		"service d tcp 192.0.2.2:80 rr", "service e tcp 192.0.2.1:443 rr", "service f tcp 192.0.2.1:80 rr",
	})
	must(err)
	w.mustWant(want)
	s, err := w.d.snapshot()
	must(err)
	order := ""
	for _, v := range s.Services {
		order += v.Name
	}
	expect(t, "order", order, "fedcba")
}
