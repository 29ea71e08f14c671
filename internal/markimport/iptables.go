// SPDX-License-Identifier: Apache-2.0

package markimport

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"xdplvs/director"
)

// IPTables reads the output of iptables-save, or of ip6tables-save.
func IPTables(text []byte, v6 bool) (Result, error) {
	t := &translator{chains: map[string][]rule{}}
	table := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
			continue
		}
		words, err := splitWords(line)
		if err != nil {
			return Result{}, fmt.Errorf("read rules of iptables: line %d: %w", n, err)
		}
		if i := slices.Index(words, "-A"); table == "mangle" && i >= 0 && i < 2 && len(words) > i+1 { // before it stand counters
			chain := words[i+1]
			t.chains[chain] = append(t.chains[chain], iptablesRule(line, words[i+2:], v6))
		} else if line != "" && !strings.ContainsAny(line[:1], "#:-[C") {
			return Result{}, fmt.Errorf("read rules of iptables: line %d is none of iptables-save: %q", n, clip(line))
		}
	}
	if err := lines.Err(); err != nil {
		return Result{}, fmt.Errorf("read rules of iptables: %w", err)
	}
	for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		for _, r := range t.chains[chain] {
			if r.marks {
				t.skip(r.text, "only packets in PREROUTING are on their way to a service")
			}
		}
	}
	return t.finish(t.read(t.chains["PREROUTING"], 0)), nil
}

func clip(text string) string {
	if len(text) > 60 {
		return text[:60] + "…"
	}
	return text
}

// splitWords splits at blanks, but for quoted ones, as iptables-save quotes.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	in, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted, in = !quoted, true
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case c == ' ' && !quoted:
			if in {
				words = append(words, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quotation does not end: %q", clip(line))
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

// iptablesReader reads the options of one rule.
type iptablesReader struct {
	rule
	words  []string
	target string
}

func iptablesRule(text string, words []string, v6 bool) rule {
	r := &iptablesReader{rule: rule{text: text, match: match{families: []bool{v6}}}, words: words}
	for len(r.words) > 0 {
		option := r.next()
		if option == "!" {
			r.fail("! (a list of marks has no exceptions)")
			option = r.next()
		}
		r.option(option)
	}
	return r.rule
}

func (r *iptablesReader) next() string {
	if len(r.words) == 0 {
		return ""
	}
	word := r.words[0]
	r.words = r.words[1:]
	return word
}

func (r *iptablesReader) fail(format string, args ...any) {
	if r.problem == "" {
		r.problem = "not translated: " + fmt.Sprintf(format, args...)
	}
}

// narrow notes one more thing that the rule wants.
func (r *iptablesReader) narrow(m match) { r.match = r.match.meet(m) }

func (r *iptablesReader) option(option string) {
	switch option {
	case "-m", "-c": // a module's options tell; counters, of which there are two
		if r.next(); option == "-c" {
			r.next()
		}
	case "-s", "-d", "-p", "-i":
		r.basic(option, r.next())
	case "--sport", "--dport", "--sports", "--dports":
		r.ports(option, r.next())
	case "--dscp", "--dscp-class":
		r.dscp(r.next())
	case "--src-range", "--dst-range":
		r.addressRange(option, r.next())
	case "--comment":
		r.next()
	case "-j", "-g":
		r.jumpTo(option, r.next())
	case "--tproxy-mark":
		r.marks = true
		r.fail("--tproxy-mark %s", r.next())
	case "--set-xmark", "--set-mark":
		r.setMark(r.next())
	default:
		r.fail("%s", strings.TrimSpace(option+" "+strings.Join(r.takeValues(), " ")))
	}
}

// takeValues are the words up to the next option.
func (r *iptablesReader) takeValues() (values []string) {
	for len(r.words) > 0 && !strings.HasPrefix(r.words[0], "-") && r.words[0] != "!" {
		values = append(values, r.next())
	}
	return values
}

func (r *iptablesReader) basic(option, value string) {
	switch option {
	case "-i":
		if !isInterface(value) || strings.HasSuffix(value, "+") {
			r.fail("-i %s (interfaces are named one by one)", value)
		}
		r.narrow(match{interfaces: []string{value}})
	case "-p":
		p, known := protocolOf(value)
		if value == "all" {
			return
		}
		if !known {
			r.fail("-p %s (services have tcp, udp and sctp)", value)
		}
		r.narrow(match{protocols: []director.Protocol{p}})
	default:
		p, err := prefixOf(value)
		if err != nil {
			r.fail("%s %s", option, value)
			return
		}
		if option == "-s" {
			r.narrow(match{source: []netip.Prefix{p}})
		} else {
			r.narrow(match{dest: []netip.Prefix{p}})
		}
	}
}

func protocolOf(text string) (p director.Protocol, known bool) {
	for _, p := range []director.Protocol{director.TCP, director.UDP, director.SCTP} {
		if text == p.String() || text == strconv.Itoa(int(p)) {
			return p, true
		}
	}
	return p, false
}

// prefixOf reads an address, with a length or a mask.
func prefixOf(text string) (p netip.Prefix, err error) {
	addr, length, has := strings.Cut(text, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return p, err
	}
	bits := a.BitLen()
	if mask, err := netip.ParseAddr(length); has && err == nil {
		ones, size := net.IPMask(mask.AsSlice()).Size()
		if size != bits {
			return p, fmt.Errorf("mask %s has holes", length)
		}
		bits = ones
	} else if has {
		if bits, err = strconv.Atoi(length); err != nil {
			return p, err
		}
	}
	p, err = a.WithZone("").Unmap().Prefix(bits)
	return p, err
}

func (r *iptablesReader) ports(option, value string) {
	var list []director.PortRange
	for text := range strings.SplitSeq(value, ",") {
		p, ok := portsOf(text, ":")
		if !ok {
			r.fail("%s %s", option, value)
			return
		}
		list = append(list, p)
	}
	if strings.HasPrefix(option, "--s") {
		r.narrow(match{sports: list})
	} else {
		r.narrow(match{dports: list})
	}
}

func portsOf(text, separator string) (r director.PortRange, ok bool) {
	first, last, isRange := strings.Cut(text, separator)
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	return director.PortRange{First: uint16(a), Last: uint16(b)}, errA == nil && errB == nil && a <= b
}

func (r *iptablesReader) dscp(value string) {
	d, ok := dscpOf(value)
	if !ok {
		r.fail("--dscp %s", value)
	}
	r.narrow(match{dscps: []uint8{d}})
}

// dscpOf reads a number or the name of a class (RFC 2474, 2597, 3246).
func dscpOf(text string) (uint8, bool) {
	text = strings.ToLower(text)
	if n, err := strconv.ParseUint(text, 0, 8); err == nil {
		return uint8(n), n < 64
	}
	var class, drop uint8
	switch {
	case text == "ef":
		return 46, true
	case text == "be":
		return 0, true
	case len(text) == 3 && text[:2] == "cs" && text[2] >= '0' && text[2] <= '7':
		return (text[2] - '0') << 3, true
	case len(text) == 4 && text[:2] == "af" && text[2] >= '1' && text[2] <= '4' && text[3] >= '1' && text[3] <= '3':
		class, drop = text[2]-'0', text[3]-'0'
		return class<<3 | drop<<1, true
	}
	return 0, false
}

func (r *iptablesReader) addressRange(option, value string) {
	first, last, _ := strings.Cut(value, "-")
	a, errA := netip.ParseAddr(first)
	b, errB := netip.ParseAddr(last)
	list, ok := prefixes(a, b)
	if errA != nil || errB != nil || !ok {
		r.fail("%s %s", option, value)
		return
	}
	if option == "--src-range" {
		r.narrow(match{source: list})
	} else {
		r.narrow(match{dest: list})
	}
}

func (r *iptablesReader) jumpTo(option, target string) {
	switch r.target = target; target {
	case "MARK":
		r.marks = true
	case "CONNMARK":
		r.marks = true
		r.fail("-j CONNMARK (marks of connections are the firewall's)")
	case "ACCEPT", "DROP":
		r.then = endsHook
	case "RETURN":
		r.then = endsChain
	case "LOG", "NFLOG", "TRACE":
		r.takeAll()
	default:
		if r.jump = target; option == "-g" {
			r.then = endsChain
		}
	}
}

// takeAll: nothing that follows changes which packets are marked.
func (r *iptablesReader) takeAll() { r.words = nil }

func (r *iptablesReader) setMark(value string) {
	if r.target != "MARK" {
		return
	}
	text, mask, has := strings.Cut(value, "/")
	mark, err := strconv.ParseUint(text, 0, 32)
	bits, maskErr := strconv.ParseUint(mask, 0, 32)
	switch {
	case err != nil || has && maskErr != nil:
		r.fail("--set-mark %s", value)
	case has && bits != 1<<32-1:
		r.fail("--set-xmark %s (it changes some bits of the mark only)", value)
	}
	r.mark = uint32(mark)
}
