// SPDX-License-Identifier: Apache-2.0

// Package uses shows what a director is used for, with the real programs: each use is a story that is played in network
// namespaces, tells what is seen, and ends with an error where that is not what it should be. Its tests play every story
// with every forwarding method; make demo USE=NAME plays one for a person.
package uses

import (
	"context"
	"fmt"
	"strings"

	"xdplvs/director"
)

// A Use is something that a director is used for.
type Use struct {
	Name    string            // as in configs/NAME.yaml and docs/uses/NAME.md
	Summary string            // in a few words
	Methods []director.Method // those that it allows; the first is the configuration's
	Reals   int               // how many real servers there are, rs1 and so on
	// Tell plays the story, on a stage whose director does not run yet.
	Tell func(context.Context, *Stage) error
}

// All are the uses by their names.
func All() []Use {
	return []Use{
		failover,
		multihomed,
		dns,
		splitting,
		mail,
		syslog,
		sctp,
		streams,
		webFarm,
	}
}

// Find finds a use by its name.
func Find(name string) (Use, error) {
	var known []string
	for _, u := range All() {
		if u.Name == name {
			return u, nil
		}
		known = append(known, u.Name)
	}
	return Use{}, fmt.Errorf("unknown use %q (known: %s)", name, strings.Join(known, ", "))
}

// Method finds a forwarding method that the use allows; no name is its first one.
func (u Use) Method(name string) (director.Method, error) {
	var known []string
	for _, m := range u.Methods {
		if m.String() == name || name == "" {
			return m, nil
		}
		known = append(known, m.String())
	}
	return 0, fmt.Errorf("use %s: unknown or impossible method %q (possible: %s)", u.Name, name, strings.Join(known, ", "))
}
