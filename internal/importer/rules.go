// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"strings"

	"xdplvs/internal/ipvsadm"
)

// rules are the lines of ipvsadm-save, or of a script that calls ipvsadm.
func (b *builder) rules() {
	names := newPortNames()
	for i, line := range b.lines {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if words[0] == "ipvsadm" || strings.HasSuffix(words[0], "/ipvsadm") {
			words = words[1:]
		}
		edit, err := ipvsadm.ParseRule(words, names)
		if err != nil {
			b.note(i+1, "%s", strings.TrimSpace(err.Error()))
			continue
		}
		b.add(i+1, edit)
	}
}
