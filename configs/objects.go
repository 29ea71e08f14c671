// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"xdplvs/director"
)

// root is a whole file.
type root struct {
	version    setting[int]
	interfaces setting[list[iface]]
	socket     setting[string]
	stateDir   setting[string]
	limits     setting[limits]
	timeouts   setting[timeouts]
	marks      setting[list[markRule]]
	fullnat    setting[fullnat]
	services   setting[list[service]]
	addresses  setting[list[ownership]]
	announce   setting[announcing]
	metrics    setting[metrics]
	api        setting[apiOptions]
	checks     setting[list[check]]
	notify     setting[list[notification]]
	defense    setting[defense]
}

// bpffs bounds no path, so the kernel's PATH_MAX does; a socket's is unix(7)'s sun_path.
const (
	longestPath       = 4095
	longestSocketPath = 107
)

var rootObject = object[root]{
	what:       "a mapping with interfaces and services",
	extensible: true,
	fields: []field[root]{
		key("version", version(), func(r *root) *setting[int] { return &r.version },
			"Version of this format, 1."),
		key("interfaces", listOf("interfaces", ifaceKind), func(r *root) *setting[list[iface]] { return &r.interfaces },
			"Interfaces that the XDP program is attached to, at least one.").must(),
		key("socket", absolutePath(longestSocketPath), func(r *root) *setting[string] { return &r.socket },
			"Unix socket of the daemon, /run/director/director.sock if absent."),
		key("state_dir", absolutePath(longestPath), func(r *root) *setting[string] { return &r.stateDir },
			"Directory in a bpffs for what must survive a restart, /sys/fs/bpf/director if absent."),
		key("limits", limitsObject.kind(), func(r *root) *setting[limits] { return &r.limits },
			"Sizes of the tables, fixed when the data plane is loaded."),
		key("timeouts", timeoutsObject.kind(), func(r *root) *setting[timeouts] { return &r.timeouts },
			"How long a connection lives after its last packet."),
		key("marks", listOf("marking rules", markObject.kind()), func(r *root) *setting[list[markRule]] { return &r.marks },
			"Rules that give packets firewall marks, for services that have one in the place of an address."),
		key("fullnat", fullnatObject.kind(), func(r *root) *setting[fullnat] { return &r.fullnat },
			"Where connections by full-NAT come from."),
		key("checks", listOf("checks", checkObject.kind()), func(r *root) *setting[list[check]] { return &r.checks },
			"Health checks that services and real servers use by their names."),
		key("notify", listOf("targets", notificationObject.kind()), func(r *root) *setting[list[notification]] { return &r.notify },
			"Who is told that a real server is up, drains or is down, or that a service has lost its quorum or has it again."),
		key("services", listOf("services", serviceObject.kind()), func(r *root) *setting[list[service]] { return &r.services },
			"Virtual services."),
		key("addresses", listOf("addresses", ownershipObject.kind()), func(r *root) *setting[list[ownership]] { return &r.addresses },
			"Who has the services' addresses; what is not listed is somebody else's."),
		key("announce", announcingObject.kind(), func(r *root) *setting[announcing] { return &r.announce },
			"How others are told where the addresses are: gratuitous ARP, unsolicited neighbour advertisements."),
		key("metrics", metricsObject.kind(), func(r *root) *setting[metrics] { return &r.metrics },
			"Metrics for Prometheus."),
		key("api", apiObject.kind(), func(r *root) *setting[apiOptions] { return &r.api },
			"Who may ask the daemon, over the socket and over TCP."),
		key("defense", defenseObject.kind(), func(r *root) *setting[defense] { return &r.defense },
			"Defenses against denial of service."),
	},
}

// version is refused rather than guessed if it is a later one.
func version() kind[int] {
	const what = "1, the only version of this format so far"
	return unquoted(what, parsed(what, schema{"const": 1}, func(text string) (int, string, bool) {
		return 1, "", text == "1"
	}))
}

// iface is an interface; the short form has only a name.
type iface struct {
	name setting[string]
	mode setting[director.AttachMode]
}

var ifaceObject = object[iface]{
	what: "a mapping with name and mode",
	fields: []field[iface]{
		key("name", interfaceName(), func(i *iface) *setting[string] { return &i.name },
			"Name of the interface.").must(),
		key("mode", enumeration[director.AttachMode]("attach mode"), func(i *iface) *setting[director.AttachMode] { return &i.mode },
			"native (in the driver), generic (slow, any driver) or auto: native where the driver can; auto if absent."),
	},
}

var ifaceKind = either("an interface name, or a mapping with name and mode",
	mapped(interfaceName(), func(c cursor, v string) (iface, bool) {
		return iface{name: setting[string]{v, c, true}}, true
	}), ifaceObject.kind())

// limits are director.Limits as written.
type limits struct {
	connections4, connections6, services, realServers, planSlots, markEntries, prefixes, destinations setting[uint32]
}

// fewestConnections keeps the table's buckets from being most of the table.
const fewestConnections = 1024

var limitsObject = object[limits]{
	what: "a mapping of table sizes",
	fields: []field[limits]{
		key("connections4", powerOfTwo(fewestConnections, 1<<31), func(l *limits) *setting[uint32] { return &l.connections4 },
			"Places for IPv4 connections, 64 bytes each, a power of two; 256k if absent."),
		key("connections6", powerOfTwo(fewestConnections, 1<<31), func(l *limits) *setting[uint32] { return &l.connections6 },
			"Places for IPv6 connections, 128 bytes each, a power of two; 64k if absent."),
		key("services", count(1, math.MaxUint32), func(l *limits) *setting[uint32] { return &l.services },
			"Virtual services; 16k if absent."),
		key("real_servers", count(1, math.MaxUint32), func(l *limits) *setting[uint32] { return &l.realServers },
			"Real servers over all services; 64k if absent."),
		key("plan_slots", count(1, math.MaxUint32), func(l *limits) *setting[uint32] { return &l.planSlots },
			"Slots of the schedulers' plans over all services, 4 bytes each; 2M if absent."),
		key("mark_entries", count(1, 1<<24), func(l *limits) *setting[uint32] { return &l.markEntries },
			"Entries of marking rules, 256 bytes each; a range of ports needs several; 16k if absent."),
		key("prefixes", count(1, 1<<26), func(l *limits) *setting[uint32] { return &l.prefixes },
			"Entries of prefix lists, 64 bytes each; a prefix may need several; 256k if absent."),
		key("destinations", count(1, 1<<24), func(l *limits) *setting[uint32] { return &l.destinations },
			"Destination addresses that lblc and lblcr remember over all services, some 250 bytes each; 24k, as many as IPVS of a service, if absent."),
	},
}

// fullnat are director.LocalEnds as written.
type fullnat struct {
	sources setting[list[netip.Addr]]
	ports   setting[director.PortRange]
}

var fullnatObject = object[fullnat]{
	what: "a mapping with sources and ports",
	fields: []field[fullnat]{
		key("sources", listOf("addresses", address()), func(f *fullnat) *setting[list[netip.Addr]] { return &f.sources },
			"Addresses of the director that real servers by fullnat see connections come from; the one that the route to the real server prefers if there is none of its family."),
		key("ports", localPorts(), func(f *fullnat) *setting[director.PortRange] { return &f.ports },
			"Local ports of connections by full-NAT, as FIRST-LAST; "+director.DefaultLocalPorts.String()+" if absent."),
	},
}

// serviceFullNAT is what a service has of its own.
var serviceFullNATObject = object[fullnat]{what: "a mapping with sources", fields: fullnatObject.fields[:1]}

// timeouts are those of director.Timeouts that are written; 0 where none is.
type timeouts director.Timeouts

var timeoutsObject = object[timeouts]{what: "a mapping of durations", fields: timeoutFields()}

// timeoutFields are keys with the names that package director has.
func timeoutFields() (fields []field[timeouts]) {
	k := duration(director.MinTimeout, director.MaxTimeout)
	for _, name := range director.TimeoutNames() {
		fields = append(fields, field[timeouts]{
			key: name, doc: timeoutDoc(name), schema: k.schema,
			decode: func(c cursor, into *timeouts) {
				if v, ok := k.decode(c); ok {
					_ = (*director.Timeouts)(into).Set(name, v) // the error is for unknown names
				}
			},
		})
	}
	return fields
}

func timeoutDoc(name string) string {
	what := map[string]string{"tcp": "Established TCP connections", "tcpfin": "TCP connections after the first FIN", "udp": "UDP flows"}[name]
	if what == "" {
		protocol, state, _ := strings.Cut(name, "_")
		what = strings.ToUpper(protocol) + " connections in the state " + strings.ToUpper(state)
	}
	return what + "; " + director.FormatTimeout(director.DefaultTimeouts.Get(name)) + " if absent."
}

// service is a virtual service as written.
type service struct {
	name        setting[string]
	protocol    setting[director.Protocol]
	address     setting[netip.Addr]
	port        setting[uint16]
	virtual     setting[netip.AddrPort]
	scheduler   setting[string]
	flags       setting[list[string]]
	onePacket   setting[bool]
	fwmark      setting[uint32]
	family      setting[bool] // IPv6
	markSource  setting[director.MarkSource]
	vips        setting[list[netip.Addr]]
	persistence setting[persistence]
	answer      setting[director.Answer]
	conns       connPolicy
	method      setting[director.Method]
	weight      setting[uint32]
	reals       setting[list[realServer]]
	sorry       setting[list[realServer]]
	mhTable     setting[int]
	lblc        setting[time.Duration]
	lblcr       setting[time.Duration]
	slowStart   setting[time.Duration]
	tunnel      setting[tunnel]
	fullnat     setting[fullnat]
	checked     checked
	quorum      setting[uint32]
	hysteresis  setting[uint32]
	minUp       setting[int]
	guard       setting[guard]
}

var serviceObject = object[service]{
	what: "a mapping with address, port and reals",
	fields: slices.Concat([]field[service]{
		key("name", name(), func(s *service) *setting[string] { return &s.name },
			"What the service is called in listings and metrics, unique."),
		key("protocol", protocol(), func(s *service) *setting[director.Protocol] { return &s.protocol },
			"IP protocol; tcp if absent."),
		key("address", address(), func(s *service) *setting[netip.Addr] { return &s.address },
			"Virtual IP address, IPv4 or IPv6."),
		key("port", servicePort(), func(s *service) *setting[uint16] { return &s.port },
			"Port of the service; any is every port of the address that no other service has."),
		key("virtual", virtual(), func(s *service) *setting[netip.AddrPort] { return &s.virtual },
			"address:port, in the place of address and port."),
		key("fwmark", number(1, math.MaxUint32), func(s *service) *setting[uint32] { return &s.fwmark },
			"Firewall mark that the service stands for, in the place of protocol, address and port."),
		key("family", family(), func(s *service) *setting[bool] { return &s.family },
			"Address family of a service of a firewall mark, ipv4 or ipv6; ipv4 if absent."),
		key("mark_source", enumeration[director.MarkSource]("mark source"), func(s *service) *setting[director.MarkSource] { return &s.markSource },
			"Who gives packets the mark: rules, those under marks, or firewall, nftables or iptables in prerouting; rules if absent."),
		key("vips", listOf("addresses", address()), func(s *service) *setting[list[netip.Addr]] { return &s.vips },
			"With mark_source firewall: the virtual addresses whose packets the firewall marks; none of them may be this host's."),
		key("scheduler", scheduler(), func(s *service) *setting[string] { return &s.scheduler },
			"Scheduler, as ipvsadm names it; "+DefaultScheduler+" if absent."),
		key("scheduler_flags", listOf("scheduler flags", schedulerFlag()), func(s *service) *setting[list[string]] { return &s.flags },
			"Flags of the schedulers sh and mh: -port hashes the client's port too, -fallback spreads an unusable server's clients."),
		key("mh_table", mhTable(), func(s *service) *setting[int] { return &s.mhTable },
			"Slots of the scheduler mh's table, a prime: more of them give each real server its exact share and let fewer flows move; 4093 if absent."),
		key("lblc_expiration", expiration(), func(s *service) *setting[time.Duration] { return &s.lblc },
			"IPVS's: how long the scheduler lblc remembers a destination that nobody connects to; 24h if absent."),
		key("lblcr_expiration", expiration(), func(s *service) *setting[time.Duration] { return &s.lblcr },
			"IPVS's: the same for lblcr, and after how long without change a destination has a real server less; 24h if absent."),
		key("slow_start", slowStart(), func(s *service) *setting[time.Duration] { return &s.slowStart },
			"Slow start of real servers that have none of their own; 0, none, if absent."),
		key("one_packet", boolean(), func(s *service) *setting[bool] { return &s.onePacket },
			"Schedule each datagram anew (UDP only)."),
		key("persistence", persistenceKind, func(s *service) *setting[persistence] { return &s.persistence },
			"Sends all connections of a client to one real server: for how long after its last one, or a mapping; not if absent."),
		key("answer", enumeration[director.Answer]("answer"), func(s *service) *setting[director.Answer] { return &s.answer },
			"What a packet gets that finds no usable real server; unreachable if absent."),
		key("semantics", choice("semantics", func() []string { return []string{directorSemantics, ipvsSemantics} }), func(s *service) *setting[string] { return &s.conns.semantics },
			"Whose defaults the following keys have: director or ipvs; director if absent. With ipvs, packets of a removed real server's connections are dropped, and go on if it is added again."),
		key("on_remove", fate(), func(s *service) *setting[director.Fate] { return &s.conns.onRemove },
			"What becomes of the connections of a removed real server: keep, reschedule or reset; reschedule for udp, keep for others if absent."),
		key("on_down", fate(), func(s *service) *setting[director.Fate] { return &s.conns.onDown },
			"The same for a real server that cannot be reached any more; reschedule for udp, keep for others if absent."),
		key("conn_reuse_mode", number(0, 3), func(s *service) *setting[uint32] { return &s.conns.reuseMode },
			"IPVS's: 0 never schedules a SYN on a known connection anew, 1 does in TIME_WAIT and CLOSE, 2 and 3 in FIN_WAIT too; 3 if absent, 1 with semantics ipvs."),
		key("expire_nodest_conn", boolean(), func(s *service) *setting[bool] { return &s.conns.expireNodest },
			"IPVS's: a SYN on a connection of a quiesced real server is scheduled anew; with semantics ipvs, on_remove is reschedule then."),
		key("sloppy_tcp", boolean(), func(s *service) *setting[bool] { return &s.conns.sloppyTCP },
			"IPVS's: any segment but a reset begins a connection, not only a SYN (TCP only)."),
		key("sloppy_sctp", boolean(), func(s *service) *setting[bool] { return &s.conns.sloppySCTP },
			"IPVS's: any packet but an ABORT begins a connection, not only an INIT (SCTP only)."),
		key("method", method(), func(s *service) *setting[director.Method] { return &s.method },
			"Forwarding method of real servers that have none of their own; dr if absent."),
		key("tunnel", tunnelObject.kind(), func(s *service) *setting[tunnel] { return &s.tunnel },
			"Tunnel of real servers by tun that have none of their own; ipip if absent."),
		key("defense", guardObject.kind(), func(s *service) *setting[guard] { return &s.guard },
			"What this service's new connections have to get past, besides what defense at the top says."),
		key("fullnat", serviceFullNATObject.kind(), func(s *service) *setting[fullnat] { return &s.fullnat },
			"Where this service's connections by full-NAT come from, in the place of fullnat at the top."),
		key("weight", weight(), func(s *service) *setting[uint32] { return &s.weight },
			"Weight of real servers that have none of their own; 1 if absent."),
		key("reals", listOf("real servers", realKind), func(s *service) *setting[list[realServer]] { return &s.reals },
			"Real servers."),
		key("sorry_servers", listOf("sorry servers", realKind), func(s *service) *setting[list[realServer]] { return &s.sorry },
			"Servers that get the new connections when no real server can, as real servers are written; in limits.services they count as a service."),
	}, healthFields()),
}

// healthFields are the service's keys about the health of its real servers.
func healthFields() []field[service] {
	return append(checkedFields(func(s *service) *checked { return &s.checked }, "real servers without a check of their own are"),
		key("quorum", number(1, math.MaxUint32), func(s *service) *setting[uint32] { return &s.quorum },
			"keepalived's: the service has lost its quorum when the weights of the real servers that are up sum to less; 1 if absent."),
		key("hysteresis", number(0, math.MaxUint32), func(s *service) *setting[uint32] { return &s.hysteresis },
			"keepalived's: the quorum is lost only so far below, and regained so far above; 0 if absent."),
		key("min_up", plainNumber(1, math.MaxUint16), func(s *service) *setting[int] { return &s.minUp },
			"So many real servers stay in use even if all lag: the best of those in reserve are taken; 0, none, if absent."))
}

// connPolicy is director.ConnPolicy as written.
type connPolicy struct {
	semantics                           setting[string]
	onRemove, onDown                    setting[director.Fate]
	reuseMode                           setting[uint32]
	expireNodest, sloppyTCP, sloppySCTP setting[bool]
}

// The values of semantics.
const (
	directorSemantics = "director"
	ipvsSemantics     = "ipvs"
)

// fate is what on_remove and on_down can be. Dropping, which only IPVS's semantics
// have, is none of them.
func fate() kind[director.Fate] {
	fates := []director.Fate{director.FateKeep, director.FateReschedule, director.FateReset}
	known := make([]string, len(fates))
	for i, f := range fates {
		known[i] = f.String()
	}
	return mapped(choice("policy", func() []string { return known }), func(_ cursor, text string) (director.Fate, bool) {
		return fates[slices.Index(known, text)], true
	})
}

func scheduler() kind[string] {
	return choice("scheduler", func() []string { return knownSchedulers() })
}

func schedulerFlag() kind[string] {
	return choice("scheduler flag", director.SchedulerFlagNames)
}

func protocol() kind[director.Protocol] {
	return available(enumeration[director.Protocol]("protocol"), func() []director.Protocol { return availableProtocols })
}

func method() kind[director.Method] {
	return available(enumeration[director.Method]("forwarding method"), func() []director.Method { return availableMethods })
}

// mhTable is one of the lengths that a table can have.
func mhTable() kind[int] {
	var known []string
	var consts []schema
	for _, n := range director.MHTables() {
		known = append(known, strconv.Itoa(n))
		consts = append(consts, schema{"const": n})
	}
	what := "one of " + strings.Join(known, ", ")
	return unquoted(what, parsed(what, schema{"anyOf": consts}, func(text string) (int, string, bool) {
		n, note, ok := decimal(text)
		return int(n), note, ok && slices.Contains(known, text)
	}))
}

func expiration() kind[time.Duration] {
	return duration(director.MinExpiration, director.MaxExpiration)
}

func slowStart() kind[time.Duration] { return duration(0, director.MaxSlowStart) }

func threshold() kind[uint32] { return number(0, director.MaxThreshold) }

func weight() kind[uint32] { return number(0, director.MaxWeight) }

// realServer is a real server as written; the short form has an address, or an
// address and a port.
type realServer struct {
	name    setting[string]
	address setting[netip.Addr]
	port    setting[uint16]
	weight  setting[uint32]
	upper   setting[uint32]
	lower   setting[uint32]
	slow    setting[time.Duration]
	method  setting[director.Method]
	tunnel  setting[tunnel]
	checked checked
}

var realObject = object[realServer]{
	what: "a mapping with address",
	fields: slices.Concat([]field[realServer]{
		key("name", name(), func(r *realServer) *setting[string] { return &r.name },
			"What the real server is called in listings and metrics, unique in its service."),
		key("address", address(), func(r *realServer) *setting[netip.Addr] { return &r.address },
			"IP address.").must(),
		key("port", port(), func(r *realServer) *setting[uint16] { return &r.port },
			"Port; the service's if absent."),
		key("weight", weight(), func(r *realServer) *setting[uint32] { return &r.weight },
			"Share of new connections, relative to the others'; 0 quiesces: known connections go on."),
		key("upper", threshold(), func(r *realServer) *setting[uint32] { return &r.upper },
			"Upper threshold: with so many connections it gets no new ones; 0, none, if absent."),
		key("lower", threshold(), func(r *realServer) *setting[uint32] { return &r.lower },
			"Lower threshold: below so many it gets new ones again; three quarters of upper, rounded up, if absent or 0."),
		key("slow_start", slowStart(), func(r *realServer) *setting[time.Duration] { return &r.slow },
			"How long its weight grows from nearly nothing once it can get connections, or can again."),
		key("method", method(), func(r *realServer) *setting[director.Method] { return &r.method },
			"Forwarding method."),
		key("tunnel", tunnelObject.kind(), func(r *realServer) *setting[tunnel] { return &r.tunnel },
			"How packets travel by method tun."),
	}, checkedFields(func(r *realServer) *checked { return &r.checked }, "this real server is")),
}

// tunnel is director.TunnelOptions as written.
type tunnel struct {
	kind     setting[director.TunnelType]
	port     setting[uint16]
	checksum setting[bool]
}

var tunnelObject = object[tunnel]{
	what: "a mapping with type",
	fields: []field[tunnel]{
		key("type", enumeration[director.TunnelType]("tunnel type"), func(t *tunnel) *setting[director.TunnelType] { return &t.kind },
			"ipip, gue or gre.").must(),
		key("port", port(), func(t *tunnel) *setting[uint16] { return &t.port },
			"UDP port that the real server takes gue at; ipvsadm's --tun-port."),
		key("checksum", boolean(), func(t *tunnel) *setting[bool] { return &t.checksum },
			"Checksum over all that is inside, for gue and gre; ipvsadm's --tun-csum; false if absent."),
	},
}

var realKind = either(`an address such as 10.0.0.1, 10.0.0.1:80 or "[2001:db8::1]:80", or a mapping with address`,
	mapped(maybeEndpoint(), func(c cursor, v netip.AddrPort) (realServer, bool) {
		r := realServer{address: setting[netip.Addr]{v.Addr(), c, true}}
		if v.Port() != 0 {
			r.port = setting[uint16]{v.Port(), c, true}
		}
		return r, true
	}), realObject.kind())
