// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"reflect"

	"gopkg.in/yaml.v3"

	"xdplvs/director"
)

// Rewrite is the text of a file with other services in it. All else stays, comments too, and so do
// services that are as they were; the others are written anew. File is what Parse reads of the text.
func Rewrite(text []byte, file *Config, services []director.Service) ([]byte, error) {
	if reflect.DeepEqual(file.Desired.Services, services) {
		return text, nil
	}
	doc := &document{}
	top, ok := doc.parse(text)
	if !ok {
		return nil, doc.report()
	}
	written := top.node()
	if !replace(written, "services", rewritten(written, file.Desired.Services, services)) {
		writer{written}.set("services", servicesNode(services))
	}
	plainMerges(written)
	out := encode(written)
	again, err := Parse("the configuration in force", out)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	if !reflect.DeepEqual(again.Desired.Services, services) { // an anchor was in what is written anew
		return nil, fmt.Errorf("write configuration: its services refer to each other")
	}
	return out, nil
}

// rewritten are the services' nodes: those of the file where they say what is wanted.
func rewritten(top *yaml.Node, file, services []director.Service) *yaml.Node {
	nodes := map[director.ServiceKey]int{}
	for i := range file {
		nodes[file[i].Key] = i
	}
	had := valueOf(top, "services")
	all := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range services {
		at, known := nodes[services[i].Key]
		if known && reflect.DeepEqual(file[at], services[i]) {
			all.Content = append(all.Content, had.Content[at])
		} else {
			all.Content = append(all.Content, serviceNode(&services[i]))
		}
	}
	return all
}

func valueOf(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return target(m.Content[i+1])
		}
	}
	return nil
}

// replace gives a key that a mapping has another value.
func replace(m *yaml.Node, key string, value *yaml.Node) bool {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content[i+1] = value
			return true
		}
	}
	return false
}

// plainMerges keeps yaml.v3 from writing <<: as !!merge <<:, which other parsers do not know.
func plainMerges(n *yaml.Node) {
	if n.Tag == "!!merge" {
		n.Tag = ""
	}
	for _, child := range n.Content {
		plainMerges(child)
	}
}
