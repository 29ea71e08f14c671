// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"testing"

	"gopkg.in/yaml.v3"
)

// TestNodesAreYAMLs: what is made without the encoder is written as the encoder writes it.
func TestNodesAreYAMLs(t *testing.T) {
	for _, value := range []any{
		"10.0.0.1", "10.0.0.1:80", "10.0.0.0/24", "1.2.3.4:5:6", "190:20:30", "1.5", "1e3", "2001:db8::1", "[2001:db8::1]:80", "::1",
		"unreachable", "on_remove", "false", "no", "null", "_", "______", "tcp", "", "a b", "10.0.0.1 # no", "...",
		0, 7, -7, uint16(80), uint32(1) << 31, uint64(1) << 63, 1.5, true,
	} {
		slow := new(yaml.Node)
		if err := slow.Encode(value); err != nil {
			t.Fatal(err)
		}
		want, got := string(encode(slow)), string(encode(nodeOf(value)))
		if got != want {
			t.Errorf("%v (%T) is written as %q, want %q", value, value, got, want)
		}
	}
}
