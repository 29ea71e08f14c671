// SPDX-License-Identifier: Apache-2.0

package markimport

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"xdplvs/director"
)

// The parts of nft's JSON that matter here (libnftables-json(5)).
type (
	nftRuleset struct {
		Objects []nftObject `json:"nftables"`
	}
	nftObject struct {
		Chain *nftChain `json:"chain"`
		Rule  *nftRule  `json:"rule"`
		Set   *nftSet   `json:"set"`
	}
	nftChain struct {
		Family string `json:"family"`
		Table  string `json:"table"`
		Name   string `json:"name"`
		Hook   string `json:"hook"`
		Prio   int    `json:"prio"`
	}
	nftRule struct {
		Family string                       `json:"family"`
		Table  string                       `json:"table"`
		Chain  string                       `json:"chain"`
		Expr   []map[string]json.RawMessage `json:"expr"`
	}
	nftSet struct {
		Family string            `json:"family"`
		Table  string            `json:"table"`
		Name   string            `json:"name"`
		Flags  []string          `json:"flags"`
		Elem   []json.RawMessage `json:"elem"`
	}
)

// nftTable is one of nftables, with its chains and sets.
type nftTable struct {
	family, name string
	bases        []*nftChain // in prerouting
	chains       map[string][]rule
	sets         map[string]*nftSet
}

// NFT reads the output of nft -j list ruleset.
func NFT(text []byte) (Result, error) {
	var ruleset nftRuleset
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&ruleset); err != nil {
		return Result{}, fmt.Errorf("read rules of nft: %w", err)
	}
	if ruleset.Objects == nil {
		return Result{}, fmt.Errorf("read rules of nft: no key nftables")
	}
	tables, order := nftTables(&ruleset)
	type base struct {
		table *nftTable
		chain *nftChain
	}
	var bases []base
	var rest Result
	for _, name := range order {
		t := tables[name]
		rest.Skipped = append(rest.Skipped, t.elsewhere()...)
		for _, c := range t.bases {
			bases = append(bases, base{t, c})
		}
	}
	slices.SortStableFunc(bases, func(a, b base) int { return cmp.Compare(a.chain.Prio, b.chain.Prio) })
	results := []Result{rest}
	for _, b := range bases {
		t := &translator{chains: b.table.chains}
		results = append(results, t.finish(t.read(b.table.chains[b.chain.Name], 0)))
	}
	return Join(results...), nil
}

func nftTables(r *nftRuleset) (tables map[string]*nftTable, order []string) {
	tables = map[string]*nftTable{}
	table := func(family, name string) *nftTable {
		key := family + " " + name
		if tables[key] == nil {
			tables[key] = &nftTable{family: family, name: name, chains: map[string][]rule{}, sets: map[string]*nftSet{}}
			order = append(order, key)
		}
		return tables[key]
	}
	for _, o := range r.Objects { // before the rules, which name them
		if o.Set != nil {
			table(o.Set.Family, o.Set.Table).sets[o.Set.Name] = o.Set
		}
	}
	for _, o := range r.Objects {
		switch {
		case o.Chain != nil:
			t := table(o.Chain.Family, o.Chain.Table)
			if t.chains[o.Chain.Name] = nil; o.Chain.Hook == "prerouting" && t.isIP() {
				t.bases = append(t.bases, o.Chain)
			}
		case o.Rule != nil:
			t := table(o.Rule.Family, o.Rule.Table)
			n := len(t.chains[o.Rule.Chain]) + 1
			t.chains[o.Rule.Chain] = append(t.chains[o.Rule.Chain], t.rule(o.Rule, n))
		}
	}
	return tables, order
}

func (t *nftTable) isIP() bool { return t.family == "ip" || t.family == "ip6" || t.family == "inet" }

// elsewhere are rules that mark packets, in chains that packets on their way to a service do not come by.
func (t *nftTable) elsewhere() []Skipped {
	all := &translator{}
	reached := map[string]bool{}
	var reach func(string)
	reach = func(chain string) {
		if reached[chain] {
			return
		}
		reached[chain] = true
		for _, r := range t.chains[chain] {
			if r.jump != "" {
				reach(r.jump)
			}
		}
	}
	for _, b := range t.bases {
		reach(b.Name)
	}
	for name, chain := range t.chains {
		for _, r := range chain {
			if r.marks && !reached[name] {
				all.skip(r.text, "only packets in prerouting are on their way to a service")
			}
		}
	}
	slices.SortFunc(all.skipped, func(a, b Skipped) int { return cmp.Compare(a.Origin, b.Origin) })
	return all.skipped
}

// nftReader reads the expressions of one rule.
type nftReader struct {
	rule
	table *nftTable
}

func (t *nftTable) rule(of *nftRule, number int) rule {
	r := &nftReader{rule{text: fmt.Sprintf("%s %s, chain %s, rule %d", t.family, t.name, of.Chain, number)}, t}
	switch t.family {
	case "ip":
		r.match.families = []bool{false}
	case "ip6":
		r.match.families = []bool{true}
	}
	for _, e := range of.Expr {
		for name, value := range e {
			r.statement(name, value)
		}
	}
	return r.rule
}

func (r *nftReader) fail(format string, args ...any) {
	if r.problem == "" {
		r.problem = "not translated: " + fmt.Sprintf(format, args...)
	}
}

func (r *nftReader) statement(name string, value json.RawMessage) {
	switch name {
	case "match":
		r.wants(value)
	case "mangle":
		r.mangle(value)
	case "counter", "log", "comment":
	case "accept", "return":
		r.then = endsChain // accept ends this hook's chain, and the next one's is asked
		if name == "accept" {
			r.then = endsHook
		}
	case "drop", "reject":
		r.then = endsHook
	case "jump", "goto":
		var to struct{ Target string }
		if json.Unmarshal(value, &to) != nil || to.Target == "" {
			r.fail("%s %s", name, short(value))
		}
		if r.jump = to.Target; name == "goto" {
			r.then = endsChain
		}
	case "xt":
		r.then = byIPTables
	case "vmap", "queue", "tproxy":
		r.then = endsHook
		r.fail("%s %s", name, short(value))
	default:
		r.fail("%s %s", name, short(value))
	}
}

// mangle is meta mark set, or sets something else of the packet.
func (r *nftReader) mangle(value json.RawMessage) {
	var m struct {
		Key struct {
			Meta struct{ Key string } `json:"meta"`
		} `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	if json.Unmarshal(value, &m) != nil {
		r.fail("mangle %s", short(value))
		return
	}
	if m.Key.Meta.Key != "mark" {
		return
	}
	r.marks = true
	if json.Unmarshal(m.Value, &r.mark) != nil {
		r.fail("meta mark set %s (only a number is one mark)", short(m.Value))
	}
}

// wants reads a match: what of the packet, and its values.
func (r *nftReader) wants(value json.RawMessage) {
	var m struct {
		Op   string
		Left struct {
			Meta    *struct{ Key string }
			Payload *struct{ Protocol, Field string }
		}
		Right json.RawMessage
	}
	if json.Unmarshal(value, &m) != nil || m.Op != "==" && m.Op != "in" || m.Left.Meta == nil && m.Left.Payload == nil {
		r.fail("match %s", short(value))
		return
	}
	what := ""
	if m.Left.Meta != nil {
		what = "meta " + m.Left.Meta.Key
	} else {
		what = m.Left.Payload.Protocol + " " + m.Left.Payload.Field
	}
	values, err := r.table.values(m.Right)
	var want match
	if err == nil {
		want, err = nftMatch(what, values)
	}
	if err != nil {
		r.fail("%s: %s", what, err)
		return
	}
	r.match = r.match.meet(want)
}

// values are the elements of a set, or the only value.
func (t *nftTable) values(right json.RawMessage) ([]json.RawMessage, error) {
	var name string
	if json.Unmarshal(right, &name) == nil && strings.HasPrefix(name, "@") {
		set := t.sets[name[1:]]
		if set == nil {
			return nil, fmt.Errorf("there is no set %s", name)
		}
		if slices.Contains(set.Flags, "dynamic") || slices.Contains(set.Flags, "timeout") {
			return nil, fmt.Errorf("set %s changes by itself", name)
		}
		return set.Elem, nil
	}
	var set struct{ Set []json.RawMessage }
	if json.Unmarshal(right, &set) == nil && set.Set != nil {
		return set.Set, nil
	}
	return []json.RawMessage{right}, nil
}

// short is JSON in one line, and not all of it.
func short(v json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return clip(string(v))
	}
	return clip(b.String())
}

// nftMatch is what a packet must have for one of the values.
func nftMatch(what string, values []json.RawMessage) (m match, err error) {
	protocol, _, _ := strings.Cut(what, " ")
	switch what {
	case "meta l4proto", "ip protocol", "ip6 nexthdr":
		m.protocols, err = list(values, nftProtocol)
	case "meta iifname", "meta iif":
		m.interfaces, err = list(values, nftInterface)
	case "meta nfproto":
		m.families, err = list(values, nftFamily("ipv4", "ipv6"))
	case "meta protocol":
		m.families, err = list(values, nftFamily("ip", "ip6"))
	case "ip saddr", "ip6 saddr":
		m.source, err = lists(values, nftAddresses)
	case "ip daddr", "ip6 daddr":
		m.dest, err = lists(values, nftAddresses)
	case "ip dscp", "ip6 dscp":
		m.dscps, err = list(values, nftDSCP)
	case "tcp sport", "udp sport", "sctp sport", "th sport":
		m.sports, err = list(values, nftPorts)
	case "tcp dport", "udp dport", "sctp dport", "th dport":
		m.dports, err = list(values, nftPorts)
	default:
		return m, fmt.Errorf("marks do not look at it")
	}
	if p, known := protocolOf(protocol); known {
		m.protocols = []director.Protocol{p}
	}
	if protocol == "ip" || protocol == "ip6" {
		m.families = []bool{protocol == "ip6"}
	}
	return m, err
}

func list[T any](values []json.RawMessage, read func(json.RawMessage) (T, bool)) ([]T, error) {
	return lists(values, func(v json.RawMessage) ([]T, bool) {
		x, ok := read(v)
		return []T{x}, ok
	})
}

func lists[T any](values []json.RawMessage, read func(json.RawMessage) ([]T, bool)) ([]T, error) {
	all := []T{}
	for _, v := range values {
		x, ok := read(v)
		if !ok {
			return nil, fmt.Errorf("value %s is not understood", short(v))
		}
		if all = append(all, x...); len(all) > mostRules {
			return nil, fmt.Errorf("it has more than %d values", mostRules)
		}
	}
	return all, nil
}

// text is a string, or a number as one.
func text(v json.RawMessage) (s string, ok bool) {
	if json.Unmarshal(v, &s) == nil {
		return s, true
	}
	var n json.Number
	return string(v), json.Unmarshal(v, &n) == nil
}

func nftProtocol(v json.RawMessage) (p director.Protocol, ok bool) {
	s, ok := text(v)
	if ok {
		p, ok = protocolOf(s)
	}
	return p, ok
}

func nftInterface(v json.RawMessage) (string, bool) {
	s, ok := text(v)
	return s, ok && isInterface(s) && !strings.HasSuffix(s, "*")
}

func nftFamily(v4, v6 string) func(json.RawMessage) (bool, bool) {
	return func(v json.RawMessage) (bool, bool) {
		s, ok := text(v)
		return s == v6, ok && (s == v4 || s == v6)
	}
}

func nftDSCP(v json.RawMessage) (uint8, bool) {
	s, ok := text(v)
	if !ok {
		return 0, false
	}
	return dscpOf(s)
}

// ends are the two of a range.
func ends(v json.RawMessage) (first, last string, ok bool) {
	var r struct{ Range []json.RawMessage }
	if json.Unmarshal(v, &r) != nil || len(r.Range) != 2 {
		return "", "", false
	}
	first, okFirst := text(r.Range[0])
	last, okLast := text(r.Range[1])
	return first, last, okFirst && okLast
}

func nftPorts(v json.RawMessage) (director.PortRange, bool) {
	if first, last, ok := ends(v); ok {
		return portsOf(first+":"+last, ":")
	}
	s, ok := text(v)
	if !ok {
		return director.PortRange{}, false
	}
	return portsOf(s, ":")
}

func nftAddresses(v json.RawMessage) ([]netip.Prefix, bool) {
	if first, last, ok := ends(v); ok {
		a, errA := netip.ParseAddr(first)
		b, errB := netip.ParseAddr(last)
		if errA != nil || errB != nil {
			return nil, false
		}
		return prefixes(a, b)
	}
	var p struct {
		Prefix struct {
			Addr string
			Len  int
		}
	}
	s, ok := text(v)
	if !ok && json.Unmarshal(v, &p) == nil {
		s = fmt.Sprintf("%s/%d", p.Prefix.Addr, p.Prefix.Len)
	}
	prefix, err := prefixOf(s)
	return []netip.Prefix{prefix}, err == nil
}
