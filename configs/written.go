// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"xdplvs/director"
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

// hidden stands for a secret where what is written is shown.
const hidden = "(hidden)"

// withoutSecrets is a copy of a node where secrets that stand in it are hidden.
func withoutSecrets(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		c.Content[i] = withoutSecrets(child)
		if i%2 == 0 || n.Kind != yaml.MappingNode {
			continue
		}
		switch key := n.Content[i-1].Value; {
		case child.Kind == yaml.ScalarNode && isSecret(key):
			c.Content[i] = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: hidden}
		case child.Kind == yaml.MappingNode && key == "headers":
			hideTexts(c.Content[i])
		}
	}
	return &c
}

// HideSecrets is a configuration's text with nothing in the place of secrets that stand in it; where none does, the very text.
// Parse refuses what it puts there, so that nobody puts it in force for a password.
func HideSecrets(text []byte) ([]byte, error) {
	doc := &document{}
	top, ok := doc.parse(text)
	if !ok {
		return nil, doc.report()
	}
	bare := encode(withoutSecrets(top.node()))
	if bytes.Equal(bare, encode(top.node())) {
		return text, nil
	}
	return bare, nil
}

// hideTexts hides all values of a mapping that stand in it, of whatever keys.
func hideTexts(n *yaml.Node) {
	for i := 1; i < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode {
			n.Content[i] = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: hidden}
		}
	}
}

func isSecret(key string) bool { return key == "password" || key == "secret" || key == "token" }

// Hide takes the secrets out of what is written of services and real servers, for those who may look only.
func Hide(changes director.Changes) director.Changes {
	hide := func(text *string) {
		w := newWriter()
		writeWritten(w, *text)
		*text = writer{withoutSecrets(w.node)}.text()
	}
	changes.Services = slices.Clone(changes.Services)
	for i := range changes.Services {
		s := &changes.Services[i]
		if s.Options != nil {
			s.Options = new(*s.Options)
			hide(&s.Options.Written)
		}
		s.Reals = slices.Clone(s.Reals)
		for n := range s.Reals {
			if r := &s.Reals[n]; r.Options != nil {
				r.Options = new(*r.Options)
				hide(&r.Options.Written)
			}
		}
	}
	return changes
}
