// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"strings"
)

// Flags are scheduler flags (`ipvsadm -b`), as bits.
type Flags uint8

// The flags. IPVS gives sh and mh the same bits; here each has its own, so that a
// flag meant for the other scheduler is noticed.
const (
	SHFallback Flags = 1 << iota // sh-fallback: an unusable server's clients are spread over the others
	SHPort                       // sh-port: the source port is hashed too
	MHFallback                   // mh-fallback: as sh-fallback
	MHPort                       // mh-port: as sh-port
)

var flagNames = []string{"sh-fallback", "sh-port", "mh-fallback", "mh-port"}

// ParseFlags reads a comma-separated list of flag names as ipvsadm does ("" is
// none). Unknown text is an error that names the known flags.
func ParseFlags(text string) (Flags, error) {
	var flags Flags
	if text == "" {
		return flags, nil
	}
	for word := range strings.SplitSeq(text, ",") {
		flag, ok := flagOf(word)
		if !ok {
			return 0, fmt.Errorf("unknown scheduler flag %q (known: %s)", word, strings.Join(flagNames, ", "))
		}
		flags |= flag
	}
	return flags, nil
}

func flagOf(word string) (Flags, bool) {
	for i, name := range flagNames {
		if word == name {
			return 1 << i, true
		}
	}
	return 0, false
}

// String is the form that ParseFlags reads.
func (f Flags) String() string {
	var words []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	if rest := f >> len(flagNames); rest != 0 {
		words = append(words, fmt.Sprintf("%#x", uint8(rest<<len(flagNames))))
	}
	return strings.Join(words, ",")
}
