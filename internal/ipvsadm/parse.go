// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"xdplvs/director"
)

const (
	maxInt  = math.MaxInt32
	maxPort = math.MaxUint16
	// maxTimeout is 31 days, in seconds.
	maxTimeout = 31 * 24 * 60 * 60
	// defaultPersistence is what -p alone means, in seconds: ipvsadm 1.31's, not the 300 of its manual.
	defaultPersistence = 360
	defaultScheduler   = "wlc"
)

// call is a command line that was understood.
type call struct {
	command   command
	given     map[option]bool
	key       director.ServiceKey
	scheduler string
	engine    string
	flags     string
	persist   int    // seconds; 0: not persistent
	mask      string // as written; "": none
	real      director.RealKey
	method    string
	weight    int
	upper     int
	lower     int
	tunType   string
	tunPort   int
	timeouts  [3]int // tcp, tcpfin, udp
	role      string // of the sync daemon
	words     []string
}

// failure is an error that ends ipvsadm with a code. Those of the command line are 2, of what the
// command line asks for 255.
type failure struct {
	code int
	text string
}

// Error is what ipvsadm prints.
func (f *failure) Error() string { return f.text }

func failf(format string, args ...any) error { return &failure{2, fmt.Sprintf(format, args...)} }

// tryHelp is what a command line gets that has no command.
func tryHelp(program string) error {
	return &failure{255, fmt.Sprintf("Try `%s -h' or '%s --help' for more information.", program, program)}
}

// parser reads one command line.
type parser struct {
	names Names
	args  []string
	at    int    // next word
	group string // what is left of a word of several short flags
	word  string // the one that is read
	call
}

// parse reads the words after the program's name.
func parse(program string, args []string, names Names) (*call, error) {
	p := &parser{names: names, args: args, call: call{given: map[option]bool{}, weight: 1, scheduler: defaultScheduler, method: "dr", tunType: "ipip"}}
	if len(args) == 0 {
		p.command = cmdList
		return &p.call, nil
	}
	if err := p.readCommand(); err != nil {
		return nil, tryHelp(program)
	}
	if p.command == cmdHelp || p.command == cmdVersion {
		return &p.call, nil
	}
	if err := p.readRole(); err != nil {
		return nil, err
	}
	for {
		f, value, err := p.next(optionFlags)
		if err == nil && f != nil {
			err = f.set(p, value)
		}
		if err != nil {
			return nil, err
		}
		if f == nil {
			break
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return &p.call, nil
}

// readCommand reads the first flag, which must be a command.
func (p *parser) readCommand() error {
	f, value, err := p.next(commandFlags)
	if err != nil {
		return err
	}
	if f == nil {
		return failf("no command")
	}
	p.command, p.role = f.command, value
	return nil
}

func (p *parser) readRole() error {
	known := p.role == "master" || p.role == "backup"
	switch {
	case p.command == cmdStartDaemon && !known:
		return failf("illegal start-daemon parameter specified")
	case p.command == cmdStopDaemon && !known:
		return failf("illegal start_daemon specified")
	}
	return nil
}

// next reads one flag as popt does: words that are no flags are kept for later, and nothing is a flag
// after --. It is nil when there are no more.
func (p *parser) next(known []flag) (*flag, string, error) {
	for p.group == "" {
		if p.at == len(p.args) {
			return nil, "", nil
		}
		p.word = p.args[p.at]
		p.at++
		switch {
		case p.word == "--":
			p.words = append(p.words, p.args[p.at:]...)
			p.at = len(p.args)
		case strings.HasPrefix(p.word, "--"):
			return p.long(known)
		case strings.HasPrefix(p.word, "-") && p.word != "-":
			p.group = p.word[1:]
		default:
			p.words = append(p.words, p.word)
		}
	}
	return p.short(known)
}

// stranger is the error for a flag that is not one of those: a command in the wrong place, or nothing.
func (p *parser) stranger(is func(flag) bool) error {
	if slices.ContainsFunc(commandFlags, is) {
		return failf("invalid option `%s'", p.word)
	}
	return &failure{255, p.word + ": unknown option"}
}

func (p *parser) long(known []flag) (*flag, string, error) {
	name, value, attached := strings.Cut(p.word[2:], "=")
	is := func(f flag) bool { return f.long == name }
	i := slices.IndexFunc(known, is)
	if i < 0 {
		return nil, "", p.stranger(is)
	}
	if attached && known[i].arg != without {
		return &known[i], value, nil
	}
	return p.argument(&known[i])
}

func (p *parser) short(known []flag) (*flag, string, error) {
	c := p.group[0]
	p.group = p.group[1:]
	is := func(f flag) bool { return f.short == c && c != 0 }
	i := slices.IndexFunc(known, is)
	if i < 0 {
		p.group = ""
		return nil, "", p.stranger(is)
	}
	if known[i].arg != without && p.group != "" {
		value := strings.TrimPrefix(p.group, "=")
		p.group = ""
		return &known[i], value, nil
	}
	return p.argument(&known[i])
}

// argument takes the next word for the flag's argument, if it has one.
func (p *parser) argument(f *flag) (*flag, string, error) {
	more := p.at < len(p.args)
	switch {
	case f.arg == with && !more:
		return nil, "", &failure{255, p.word + ": missing argument"}
	case f.arg == without, f.arg == optional && (!more || strings.HasPrefix(p.args[p.at], "-")):
		return f, "", nil
	}
	p.at++
	return f, p.args[p.at-1], nil
}

// finish looks at what is left, and at the whole.
func (p *parser) finish() error {
	if p.command == cmdSet {
		if err := p.readTimeouts(); err != nil {
			return err
		}
	}
	if len(p.words) > 0 {
		return failf("unexpected argument %s", p.words[0])
	}
	if err := p.readFlags(); err != nil {
		return err
	}
	r := rules[p.command]
	if err := r.check(p.given, 0, "command"); err != nil {
		return err
	}
	return p.checkMeaning()
}

func (p *parser) readTimeouts() error {
	if len(p.words) < len(p.timeouts) {
		return failf("--set option requires 3 timeout values")
	}
	for i := range p.timeouts {
		seconds, ok := integer(p.words[i], 0, maxTimeout)
		if !ok {
			return failf("invalid timeout value `%s' specified", p.words[i])
		}
		p.timeouts[i] = seconds
	}
	p.words = p.words[len(p.timeouts):]
	return nil
}

// schedulerFlags are, by their own names, the schedulers that have them, and the flag that stands for them there.
var schedulerFlags = map[string]struct{ scheduler, plain string }{
	"sh-fallback": {"sh", "flag-1"}, "sh-port": {"sh", "flag-2"}, "mh-fallback": {"mh", "flag-1"}, "mh-port": {"mh", "flag-2"},
}

// readFlags makes one list of the scheduler's flags, in the order that IPVS shows them in.
func (p *parser) readFlags() error {
	given := map[string]bool{}
	for word := range strings.SplitSeq(p.flags, ",") {
		known, own := schedulerFlags[word]
		switch {
		case word == "":
		case own && known.scheduler != p.scheduler:
			return failf("incompatible scheduler flag `%s'", word)
		case own:
			given[known.plain] = true
		case word == "flag-1" || word == "flag-2" || word == "flag-3":
			given[word] = true
		default:
			return failf("invalid scheduler flag `%s'", word)
		}
	}
	var words []string
	for name, f := range schedulerFlags {
		if f.scheduler == p.scheduler && given[f.plain] {
			words = append(words, name)
		}
	}
	slices.Sort(words)
	p.flags = strings.Join(words, ",")
	return nil
}

// checkMeaning finds what does not go together.
func (p *parser) checkMeaning() error {
	switch p.command {
	case cmdAdd, cmdEdit:
		if p.key.Mark == 0 && p.key.Port == 0 && p.persist == 0 {
			return failf("Zero port specified for non-persistent service")
		}
		if p.given[optOnePacket] && p.key.Mark == 0 && p.key.Protocol != director.UDP {
			return failf("One-Packet Scheduling is only for UDP virtual services")
		}
	case cmdAddServer, cmdEditServer:
		return p.checkServer()
	case cmdList:
		columns := p.given[optStats] || p.given[optRate] || p.given[optThresholds]
		other := p.given[optTimeout] || p.given[optDaemon]
		if (other || p.given[optConnection]) && columns || other && p.given[optPersistentConn] {
			return failf("options conflicts in the list command")
		}
	}
	return nil
}

func (p *parser) checkServer() error {
	if p.real.Addr.Is4() != p.key.Addr.Is4() && p.method != "tun" {
		return failf("Different address family is allowed only for tunneling servers")
	}
	if p.method != "tun" {
		for o := optTunType; o < options; o++ {
			if p.given[o] {
				return failf("Tunnel options conflict with forward method")
			}
		}
	} else {
		r := tunnelRules[p.tunType]
		if err := r.check(p.given, optTunPort, "tunnel type"); err != nil {
			return err
		}
	}
	if p.real.Port == 0 || p.method != "nat" && p.key.Mark == 0 {
		p.real.Port = p.key.Port
	}
	return nil
}

// give notes that an option is there; none may be there twice.
func (p *parser) give(o option) error {
	if p.given[o] {
		return failf("multiple '%s' options specified", optionNames[o])
	}
	p.given[o] = true
	return nil
}

func mark(o option) func(*parser, string) error {
	return func(p *parser, _ string) error { return p.give(o) }
}

func text(o option, in func(*call) *string) func(*parser, string) error {
	return func(p *parser, value string) error {
		*in(&p.call) = value
		return p.give(o)
	}
}

func number(o option, low, high int, fault string, in func(*call) *int) func(*parser, string) error {
	return func(p *parser, value string) error {
		if err := p.give(o); err != nil {
			return err
		}
		n, ok := integer(value, low, high)
		if !ok {
			return failf("%s", fault)
		}
		*in(&p.call) = n
		return nil
	}
}

// ignored and unused take what the sync daemon would want to know.
func ignored(*call) *string { return new(string) }
func unused(*call) *int     { return new(int) }

func forward(method string) func(*parser, string) error {
	return func(p *parser, _ string) error {
		p.method = method
		return p.give(optForward)
	}
}

// integer reads a whole decimal number.
func integer(text string, low, high int) (int, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return int(n), err == nil && n >= int64(low) && n <= int64(high)
}

func (p *parser) persistent(value string) error {
	if err := p.give(optPersistent); err != nil {
		return err
	}
	p.persist = defaultPersistence
	if value == "" {
		return nil
	}
	var ok bool
	if p.persist, ok = integer(value, 1, maxTimeout); !ok {
		return failf("invalid timeout value `%s' specified", value)
	}
	return nil
}

// netmask is a mask of IPv4, or a prefix length of IPv6, whichever the service is.
func (p *parser) netmask(value string) error {
	if err := p.give(optNetmask); err != nil {
		return err
	}
	p.mask = value
	if p.key.Addr.Is6() {
		if _, ok := integer(value, 1, 128); !ok {
			return failf("illegal ipv6 netmask specified")
		}
		return nil
	}
	if a, ok := ipv4(value); ok {
		p.mask = a.String()
		return nil
	}
	return failf("illegal virtual server persistent mask specified")
}

func (p *parser) tunnelType(value string) error {
	if err := p.give(optTunType); err != nil {
		return err
	}
	if _, known := tunnelRules[value]; !known {
		return failf("illegal tunnel type specified")
	}
	p.tunType = value
	return nil
}

func (p *parser) mcastGroup(value string) error {
	if err := p.give(optMcastGroup); err != nil {
		return err
	}
	a, err := netip.ParseAddr(value)
	if strings.Contains(value, ":") && (err != nil || !a.IsMulticast()) {
		return failf("invalid IPv6 mcast-group `%s'", value)
	}
	if err != nil || !a.IsMulticast() {
		return failf("invalid IPv4 mcast-group `%s'", value)
	}
	return nil
}
