// SPDX-License-Identifier: Apache-2.0

package markimport

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// YAML writes the rules as a configuration has them, each after where it comes from, and in comments
// what was not translated.
func (res Result) YAML(w io.Writer) error {
	var b strings.Builder
	if len(res.Rules) == 0 {
		b.WriteString("marks: []\n")
	} else {
		b.WriteString("marks:\n")
	}
	origin := ""
	for _, r := range res.Rules {
		if r.Origin != origin {
			fmt.Fprintf(&b, "  # %s\n", oneLine(r.Origin))
			origin = r.Origin
		}
		fmt.Fprintf(&b, "  - %s\n", r.Rule)
	}
	if len(res.Skipped) > 0 {
		b.WriteString("# Not translated:\n")
	}
	for _, s := range res.Skipped {
		fmt.Fprintf(&b, "#   %s\n#     %s\n", oneLine(s.Origin), oneLine(s.Reason))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine keeps a comment one: there is nothing in it that YAML would take for an end of line, or refuse.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, text)
}

// Interfaces are those that rules name: the director must be on them.
func (res Result) Interfaces() (names []string) {
	for _, r := range res.Rules {
		if r.Rule.Interface != "" && !slices.Contains(names, r.Rule.Interface) {
			names = append(names, r.Rule.Interface)
		}
	}
	return names
}

// DropIPTables forgets what nft has shown of iptables' rules, where iptables-save was read, too.
func (res *Result) DropIPTables() {
	res.Skipped = slices.DeleteFunc(res.Skipped, func(s Skipped) bool { return s.ByIPTables })
}
