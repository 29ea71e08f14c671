// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"cmp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"xdplvs/director"
)

// DifferService are the keys that the file has otherwise for another service, its real servers left out.
func DifferService(before, after *director.Service) []director.KeyChange {
	return differ(serviceWriter(before).node, serviceWriter(after).node)
}

// DifferReal is the same for a real server of a service.
func DifferReal(of *director.Service, before, after *director.RealServer) []director.KeyChange {
	changes := differ(realNode(of, before, director.DirectRouting), realNode(of, after, director.DirectRouting))
	for i := range changes {
		if c := &changes[i]; c.Key == "weight" { // its absence is not what people think of
			c.Old, c.New = cmp.Or(c.Old, strconv.Itoa(DefaultWeight)), cmp.Or(c.New, strconv.Itoa(DefaultWeight))
		}
	}
	return changes
}

// DescribeReal are the keys of a new real server, without those that say which one it is.
func DescribeReal(of *director.Service, r *director.RealServer) []director.KeyChange {
	named := newWriter()
	writeOption(named, "name", r.Name, "")
	named.set("address", r.Key.Addr.String())
	return differ(named.node, realNode(of, r, director.DirectRouting))
}

// differ compares two mappings by their keys. Secrets are not shown.
func differ(before, after *yaml.Node) (changes []director.KeyChange) {
	had, has := pairs(before), pairs(after)
	old, now := pairs(withoutSecrets(before)), pairs(withoutSecrets(after))
	for i := 0; i+1 < len(before.Content); i += 2 {
		key := before.Content[i].Value
		if had[key] != has[key] {
			changes = append(changes, director.KeyChange{Key: key, Old: old[key], New: now[key]})
		}
	}
	for i := 0; i+1 < len(after.Content); i += 2 {
		if key := after.Content[i].Value; had[key] == "" {
			changes = append(changes, director.KeyChange{Key: key, New: now[key]})
		}
	}
	return changes
}

// pairs are a mapping's keys and their values on one line.
func pairs(n *yaml.Node) map[string]string {
	all := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		all[n.Content[i].Value] = strings.TrimSpace(string(encode(inline(n.Content[i+1]))))
	}
	return all
}
