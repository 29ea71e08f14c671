// SPDX-License-Identifier: Apache-2.0

// Package markimport turns rules of nftables and iptables that mark packets into the director's.
//
// In a firewall the last mark counts that a packet gets, and a rule may end a chain for its packets; of
// the director's rules the first that matches counts. So chains are read from their end.
package markimport

import (
	"fmt"
	"slices"

	"xdplvs/director"
)

// Translated is a rule, and where it comes from.
type Translated struct {
	Rule   director.MarkRule
	Origin string
}

// Skipped is a rule of the firewall that was not translated, and why.
type Skipped struct {
	Origin, Reason string
	ByIPTables     bool // nft shows it, but only iptables-save can tell what it means
}

// Result is what became of a firewall's rules.
type Result struct {
	Rules   []Translated // in their order: the first that matches counts
	Skipped []Skipped
}

// verdict is what else a rule does to its packets.
type verdict int

const (
	goesOn     verdict = iota
	endsChain          // and, in one that was jumped to, only that
	endsHook           // all that comes at this hook, chains that jumped here included
	byIPTables         // not known
)

// rule is a rule of a firewall.
type rule struct {
	text    string
	match   match
	problem string // what of it cannot be said in the director's words
	marks   bool   // it has to do with marks
	mark    uint32
	then    verdict
	jump    string
}

// entry is a rule whose match is known; the first that matches counts.
type entry struct {
	match match
	mark  uint32
	text  string
}

// translator reads the chains of a table.
type translator struct {
	chains  map[string][]rule
	skipped []Skipped
}

func (t *translator) skip(text, format string, args ...any) {
	s := Skipped{Origin: text, Reason: fmt.Sprintf(format, args...)}
	if !slices.Contains(t.skipped, s) {
		t.skipped = append(t.skipped, s)
	}
}

// deepest is how far chains may jump.
const deepest = 16

// read makes a list in which the first match counts.
func (t *translator) read(chain []rule, depth int) (list []entry) {
	for i := len(chain) - 1; i >= 0; i-- {
		r := chain[i]
		if r.ends() && !r.marks && i > 0 && chain[i-1].isMarkOf(&r) {
			i--
			r.marks, r.mark, r.text = true, chain[i].mark, chain[i].text
		}
		if r.marks && r.mark == 0 && r.problem == "" {
			r.problem = "not translated: mark 0 is that of packets without a mark"
		}
		switch own := (entry{r.match, r.mark, r.text}); {
		case r.then == byIPTables:
			t.skipped = append(t.skipped, Skipped{r.text, "iptables has made it: read the output of iptables-save", true})
		case r.jump != "":
			list = append(list, t.jump(&r, depth)...)
		case r.problem != "" && r.marks:
			t.skip(r.text, "%s", r.problem)
			list = t.cut(list, &r)
		case !r.marks || r.problem != "":
			list = t.cut(list, &r)
		case r.match.empty():
			t.skip(r.text, "it matches no packet")
		case r.ends():
			list = append([]entry{own}, list...)
		default:
			list = append(list, own)
		}
	}
	return list
}

func (r *rule) ends() bool { return r.then == endsChain || r.then == endsHook }

// isMarkOf reports whether the rule marks just those packets that the next one ends the chain for.
func (r *rule) isMarkOf(next *rule) bool {
	return r.marks && r.problem == "" && next.problem == "" && r.then == goesOn && r.jump == "" && next.jump == "" &&
		fmt.Sprint(r.match) == fmt.Sprint(next.match)
}

// cut takes out what comes after a rule that ends the chain for some of its packets.
func (t *translator) cut(list []entry, r *rule) []entry {
	if !r.ends() {
		return list
	}
	return slices.DeleteFunc(list, func(e entry) bool {
		hit := r.problem != "" || e.match.overlaps(r.match)
		if hit {
			t.skip(e.text, "a rule before it ends the chain for some of its packets, which marks cannot say: %s", r.text)
		}
		return hit
	})
}

// jump reads another chain, for the packets of the rule. What comes after the rule counts first.
func (t *translator) jump(r *rule, depth int) (list []entry) {
	chain, known := t.chains[r.jump]
	problem := r.problem
	switch {
	case !known:
		return nil
	case depth == deepest:
		problem = fmt.Sprintf("chains jump to each other more than %d times", deepest)
	case r.then == endsChain:
		problem = "it goes to chain " + r.jump + " and does not come back"
	case slices.ContainsFunc(chain, func(r rule) bool { return r.then == endsHook }):
		problem = "chain " + r.jump + " accepts packets for the chain that jumps to it, too"
	}
	if problem != "" {
		for _, of := range chain {
			if of.marks {
				t.skip(of.text, "the jump to its chain is not translated (%s): %s", r.text, problem)
			}
		}
		return nil
	}
	for _, e := range t.read(chain, depth+1) {
		if e.match = e.match.meet(r.match); e.match.empty() {
			t.skip(e.text, "no packet that it matches comes to its chain by %s", r.text)
			continue
		}
		list = append(list, e)
	}
	return list
}

// finish makes the director's rules.
func (t *translator) finish(list []entry) Result {
	slices.Reverse(t.skipped) // chains are read from their end
	var all []Translated
	for _, e := range list {
		rules, err := e.match.rules(e.mark)
		if err != nil {
			t.skip(e.text, "%s", err)
		}
		for _, r := range rules {
			all = append(all, Translated{r, e.text})
		}
	}
	return t.without(all)
}

// without leaves out rules that never count, as a configuration with them is refused.
func (t *translator) without(all []Translated) Result {
	rules := make([]director.MarkRule, len(all))
	for i := range all {
		rules[i] = all[i].Rule
	}
	shadowed, _ := director.MarkPairs(rules)
	var res Result
	for i, n := range all {
		if len(shadowed) == 0 || shadowed[0].Second != i {
			res.Rules = append(res.Rules, n)
			continue
		}
		if by := all[shadowed[0].First]; by.Origin != n.Origin {
			t.skip(n.Origin, "%s never counts beside %s", n.Rule, by.Origin)
		}
		shadowed = shadowed[1:]
	}
	res.Skipped = t.skipped
	return res
}

// Join puts results together: what comes later in the firewall counts first.
func Join(results ...Result) Result {
	t := &translator{}
	var all []Translated
	for _, r := range slices.Backward(results) {
		t.skipped = append(t.skipped, r.Skipped...)
		all = append(all, r.Rules...)
	}
	return t.without(all)
}
