// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import "slices"

// option is a class of options; ipvsadm looks at them in this order, so the first that is wrong is
// what it complains of.
type option int

const (
	optNumeric option = iota
	optConnection
	optService
	optScheduler
	optPersistent
	optNetmask
	optServer
	optForward
	optWeight
	optUpper
	optLower
	optMcastInterface
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSyncID
	optExact
	optOnePacket
	optEngine
	optFlags
	optMcastGroup
	optMcastPort
	optMcastTTL
	optSyncMaxLen
	optTunInfo
	optTunType
	optTunPort
	optTunNoCsum
	optTunCsum
	optTunRemCsum
	options // how many there are
)

var optionNames = [options]string{
	"numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server",
	"forwarding-method", "weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon",
	"stats", "rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "ops", "pe",
	"sched-flags", "mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen", "tun-info", "tun-type",
	"tun-port", "tun-nocsum", "tun-csum", "tun-remcsum",
}

// command is what is to be done.
type command int

const (
	cmdNone command = iota
	cmdAdd
	cmdEdit
	cmdDelete
	cmdFlush
	cmdRestore
	cmdSave
	cmdAddServer
	cmdEditServer
	cmdDeleteServer
	cmdList
	cmdZero
	cmdSet
	cmdStartDaemon
	cmdStopDaemon
	cmdHelp
	cmdVersion
)

// rule says which options a command takes.
type rule struct {
	name      string
	needs     []option
	takes     []option
	exclusive []option // one of them at most
}

var (
	serviceOptions = []option{optScheduler, optPersistent, optNetmask, optOnePacket, optEngine, optFlags}
	serverOptions  = []option{optForward, optWeight, optUpper, optLower, optTunType, optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum}
	syncOptions    = []option{optMcastInterface, optSyncID, optMcastGroup, optMcastPort, optMcastTTL, optSyncMaxLen}
	listOptions    = []option{optNumeric, optStats, optRate, optThresholds, optPersistentConn, optNoSort, optSyncID, optExact, optTunInfo}
)

var rules = map[command]rule{
	cmdAdd:          {name: "add-service", needs: []option{optService}, takes: serviceOptions},
	cmdEdit:         {name: "edit-service", needs: []option{optService}, takes: serviceOptions},
	cmdDelete:       {name: "delete-service", needs: []option{optService}},
	cmdFlush:        {name: "flush"},
	cmdRestore:      {name: "restore"},
	cmdSave:         {name: "save", takes: []option{optNumeric}},
	cmdAddServer:    {name: "add-server", needs: []option{optService, optServer}, takes: serverOptions},
	cmdEditServer:   {name: "edit-server", needs: []option{optService, optServer}, takes: serverOptions},
	cmdDeleteServer: {name: "delete-server", needs: []option{optService, optServer}},
	cmdList:         {name: "list", takes: listOptions, exclusive: []option{optConnection, optService, optTimeout, optDaemon}},
	cmdZero:         {name: "zero", takes: []option{optService}},
	cmdSet:          {name: "set"},
	cmdStartDaemon:  {name: "start-daemon", takes: syncOptions},
	cmdStopDaemon:   {name: "stop-daemon", takes: []option{optSyncID}},
}

// tunnelRules are the same for the types of tunnel.
var tunnelRules = map[string]rule{
	"ipip": {name: "ipip"},
	"gue":  {name: "gue", needs: []option{optTunPort}, exclusive: []option{optTunNoCsum, optTunCsum, optTunRemCsum}},
	"gre":  {name: "gre", exclusive: []option{optTunNoCsum, optTunCsum}},
}

// check finds what is wrong with the options of a command ("command") or of a type of tunnel.
func (r *rule) check(given map[option]bool, from option, what string) error {
	last := options
	for o := from; o < options; o++ {
		switch name := optionNames[o]; {
		case !given[o] && slices.Contains(r.needs, o):
			return failf("You need to supply the '%s' option for the '%s' %s", name, r.name, what)
		case !given[o]:
		case slices.Contains(r.exclusive, o):
			if last != options {
				return failf("The option '%s' conflicts with the '%s' option in the '%s' %s", name, optionNames[last], r.name, what)
			}
			last = o
		case !slices.Contains(r.needs, o) && !slices.Contains(r.takes, o):
			return failf("Illegal '%s' option with the '%s' %s", name, r.name, what)
		}
	}
	return nil
}

// argument tells whether a flag has one.
type argument int

const (
	without argument = iota
	with
	optional // if the next word does not begin with a hyphen
)

// flag is one way to write an option or a command.
type flag struct {
	short   byte
	long    string
	arg     argument
	command command
	set     func(*parser, string) error // of an option
}

// commandFlags are those that come first.
var commandFlags = []flag{
	{'A', "add-service", without, cmdAdd, nil},
	{'E', "edit-service", without, cmdEdit, nil},
	{'D', "delete-service", without, cmdDelete, nil},
	{'a', "add-server", without, cmdAddServer, nil},
	{'e', "edit-server", without, cmdEditServer, nil},
	{'d', "delete-server", without, cmdDeleteServer, nil},
	{'L', "list", without, cmdList, nil},
	{'l', "list", without, cmdList, nil},
	{'Z', "zero", without, cmdZero, nil},
	{'C', "clear", without, cmdFlush, nil},
	{'R', "restore", without, cmdRestore, nil},
	{'S', "save", without, cmdSave, nil},
	{0, "start-daemon", with, cmdStartDaemon, nil},
	{0, "stop-daemon", with, cmdStopDaemon, nil},
	{0, "set", without, cmdSet, nil},
	{'h', "help", without, cmdHelp, nil},
	{'v', "version", without, cmdVersion, nil},
}

// optionFlags are those that come after the command.
var optionFlags = []flag{
	{'t', "tcp-service", with, 0, (*parser).tcpService},
	{'u', "udp-service", with, 0, (*parser).udpService},
	{0, "sctp-service", with, 0, (*parser).sctpService},
	{'f', "fwmark-service", with, 0, (*parser).markService},
	{'6', "ipv6", without, 0, (*parser).ipv6},
	{'s', "scheduler", with, 0, text(optScheduler, func(c *call) *string { return &c.scheduler })},
	{0, "pe", with, 0, text(optEngine, func(c *call) *string { return &c.engine })},
	{'p', "persistent", optional, 0, (*parser).persistent},
	{'M', "netmask", with, 0, (*parser).netmask},
	{'r', "real-server", with, 0, (*parser).realServer},
	{'g', "gatewaying", without, 0, forward("dr")},
	{'i', "ipip", without, 0, forward("tun")},
	{'m', "masquerading", without, 0, forward("nat")},
	{'w', "weight", with, 0, number(optWeight, 0, maxInt, "illegal weight specified", func(c *call) *int { return &c.weight })},
	{'x', "u-threshold", with, 0, number(optUpper, 0, maxInt, "illegal u_threshold specified", func(c *call) *int { return &c.upper })},
	{'y', "l-threshold", with, 0, number(optLower, 0, maxInt, "illegal l_threshold specified", func(c *call) *int { return &c.lower })},
	{0, "mcast-interface", with, 0, text(optMcastInterface, ignored)},
	{0, "mcast-group", with, 0, (*parser).mcastGroup},
	{0, "mcast-port", with, 0, number(optMcastPort, 1, maxPort, "illegal mcast-port specified", unused)},
	{0, "mcast-ttl", with, 0, number(optMcastTTL, 1, 255, "illegal mcast-ttl specified", unused)},
	{0, "sync-maxlen", with, 0, number(optSyncMaxLen, 1, maxPort, "illegal sync-maxlen specified", unused)},
	{0, "syncid", with, 0, number(optSyncID, 0, 255, "illegal syncid specified", unused)},
	{0, "timeout", without, 0, mark(optTimeout)},
	{0, "daemon", without, 0, mark(optDaemon)},
	{0, "stats", without, 0, mark(optStats)},
	{0, "rate", without, 0, mark(optRate)},
	{0, "thresholds", without, 0, mark(optThresholds)},
	{0, "persistent-conn", without, 0, mark(optPersistentConn)},
	{0, "nosort", without, 0, mark(optNoSort)},
	{0, "sort", without, 0, func(*parser, string) error { return nil }}, // as it is anyway
	{0, "exact", without, 0, mark(optExact)},
	{'o', "ops", without, 0, mark(optOnePacket)},
	{'n', "numeric", without, 0, mark(optNumeric)},
	{'c', "connection", without, 0, mark(optConnection)},
	{'b', "sched-flags", with, 0, text(optFlags, func(c *call) *string { return &c.flags })},
	{0, "tun-info", without, 0, mark(optTunInfo)},
	{0, "tun-type", with, 0, (*parser).tunnelType},
	{0, "tun-port", with, 0, number(optTunPort, 1, maxPort, "illegal tunnel port specified", func(c *call) *int { return &c.tunPort })},
	{0, "tun-nocsum", without, 0, mark(optTunNoCsum)},
	{0, "tun-csum", without, 0, mark(optTunCsum)},
	{0, "tun-remcsum", without, 0, mark(optTunRemCsum)},
}
