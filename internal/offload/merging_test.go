// SPDX-License-Identifier: Apache-2.0

package offload_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"xdplvs/internal/offload"
)

// A device's frames are merged below it; on itself the kernel does not merge for a program in generic mode.
func TestMerging(t *testing.T) {
	h, eth0 := wired(t)
	for _, args := range []string{
		"link add br0 type bridge", "link set eth0 master br0", "link add mv0 link br0 type macvlan",
	} {
		if _, err := h.Run(context.Background(), "ip", strings.Fields(args)...); err != nil {
			t.Fatal(err)
		}
	}
	merging := func(name string) (names []string) {
		must(t, h.Do(func() error {
			device, err := net.InterfaceByName(name)
			if err == nil {
				names, err = offload.Merging(device.Index)
			}
			return err
		}))
		return names
	}
	for _, gro := range []bool{true, false} {
		must(t, h.Do(func() error { return offload.Change(eth0.Index, map[string]bool{"rx-gro": gro}) }))
		want := map[bool][]string{true: {"eth0"}}[gro]
		for name, want := range map[string][]string{"br0": want, "mv0": want, "eth0": nil, "lo": nil} {
			if got := merging(name); !slices.Equal(got, want) {
				t.Errorf("GRO %v: before %s, %v merge, want %v", gro, name, got, want)
			}
		}
	}
}
