// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"

	"gopkg.in/yaml.v3"
)

// What a file says about health and defense is kept as text beside the services, as their other values are kept:
// run-time changes are made to it, and it can be written again.

// text is what a service or a real server says about its checks; "" if nothing.
func (c *checked) text() string {
	w := newWriter()
	c.write(w)
	return w.text()
}

// text is what a service says about health and defense.
func (s *service) text() string {
	w := newWriter()
	s.checked.write(w)
	writeAsWritten(w, "quorum", s.quorum.at)
	writeAsWritten(w, "hysteresis", s.hysteresis.at)
	writeAsWritten(w, "min_up", s.minUp.at)
	writeAsWritten(w, "defense", s.guard.at)
	return w.text()
}

func (c *checked) write(w writer) {
	writeAsWritten(w, "check", c.one.at)
	writeAsWritten(w, "checks", c.several.at)
	writeAsWritten(w, "inhibit_on_failure", c.inhibit.at)
}

func writeAsWritten(w writer, name string, at cursor) {
	if at.at != nil {
		w.set(name, unstyled(at.at))
	}
}

// unstyled is a copy of a node without anchors, aliases, comments and styles, for one line.
func unstyled(n *yaml.Node) *yaml.Node {
	n = target(n)
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value}
	if n.Kind != yaml.ScalarNode {
		c.Style = yaml.FlowStyle
	} else if isQuoted(n) {
		c.Style = yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		c.Content = append(c.Content, unstyled(child))
	}
	plainMerges(c)
	return c
}

// text is the mapping on one line; "" if it is empty.
func (w writer) text() string {
	if len(w.node.Content) == 0 {
		return ""
	}
	return strings.TrimSuffix(string(encode(inline(w.node))), "\n")
}

// writeWritten writes the keys of a text that a writer gave.
func writeWritten(w writer, text string) {
	if text == "" {
		return
	}
	var top yaml.Node
	if err := yaml.Unmarshal([]byte(text), &top); err != nil || len(top.Content) != 1 {
		panic("configs: no mapping: " + text) // of ours
	}
	w.node.Content = append(w.node.Content, top.Content[0].Content...)
}
