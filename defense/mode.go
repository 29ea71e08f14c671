// SPDX-License-Identifier: Apache-2.0

package defense

import (
	"fmt"
	"strings"
)

// Mode says when a strategy acts. Numbers are those of IPVS's sysctls.
type Mode uint8

// The modes. Automatic strategies go from Waiting to Acting under pressure, and back, by themselves.
const (
	Off Mode = iota
	Waiting
	Acting
	Always
)

// modeNames are how modes are written beside their numbers; auto is both automatic ones.
var modeNames = map[string]Mode{"off": Off, "auto": Waiting, "always": Always}

// Active reports whether a strategy in that mode acts.
func (m Mode) Active() bool { return m == Acting || m == Always }

func (m Mode) automatic() bool { return m == Waiting || m == Acting }

// follow lets an automatic mode act, or wait.
func (m *Mode) follow(act bool) {
	switch {
	case !m.automatic():
	case act:
		*m = Acting
	default:
		*m = Waiting
	}
}

// String is off, auto or always; and whether an automatic one acts.
func (m Mode) String() string {
	switch m {
	case Off:
		return "off"
	case Waiting:
		return "auto"
	case Acting:
		return "auto (active)"
	default:
		return "always"
	}
}

// ParseMode reads off, auto or always, or a sysctl's 0 to 3. What is neither is an error that
// lists them.
func ParseMode(text string) (Mode, error) {
	if len(text) == 1 && strings.Contains("0123", text) {
		return Mode(text[0] - '0'), nil
	}
	if m, ok := modeNames[text]; ok {
		return m, nil
	}
	return Off, fmt.Errorf("unknown mode %q (known: off, auto, always, or 0 to 3 as IPVS's sysctls have them)", text)
}
