// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// verdictNames are the names of enum verdict (abi.h), by number. Read when first asked for: most commands never do,
// and reading the object takes half of the time that a command takes.
var verdictNames = sync.OnceValue(readVerdictNames)

// readVerdictNames takes the names from the object itself, so that no list has
// to be kept in step with another.
func readVerdictNames() []string {
	spec, err := loadDirector()
	if err != nil {
		panic("embedded data plane object: " + err.Error())
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("verdict", &enum); err != nil {
		panic("embedded data plane object: " + err.Error())
	}
	names := make([]string, directorVerdictVERDICTS)
	for _, v := range enum.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = strings.ToLower(v.Name)
		}
	}
	return names
}

// VerdictNames are the names of all verdicts, by number.
func VerdictNames() []string { return append([]string(nil), verdictNames()...) }
