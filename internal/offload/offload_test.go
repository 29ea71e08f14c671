// SPDX-License-Identifier: Apache-2.0

package offload_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"xdplvs/internal/netlab"
	"xdplvs/internal/offload"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wired is a host with a veth device, which has the features of a card that takes tags off.
func wired(t *testing.T) (*netlab.Host, *netlab.Iface) {
	t.Helper()
	lab, err := netlab.New("offload")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs root to make network namespaces")
	}
	must(t, err)
	t.Cleanup(func() { must(t, lab.Close()) })
	a, err := lab.Host("a")
	must(t, err)
	b, err := lab.Host("b")
	must(t, err)
	eth0, _, err := netlab.Link(a, "eth0", nil, b, "eth0", nil)
	must(t, err)
	return a, eth0
}

// keep calls KeepTags on the host.
func keep(t *testing.T, h *netlab.Host, index int) (changed []string, err error) {
	t.Helper()
	failed := h.Do(func() error {
		changed, err = offload.KeepTags(index)
		return nil
	})
	must(t, failed)
	return changed, err
}

func TestKeepTags(t *testing.T) {
	h, eth0 := wired(t)
	changed, err := keep(t, h, eth0.Index)
	if err != nil || !slices.Equal(changed, []string{"eth0"}) {
		t.Errorf("changed %v, %v, want eth0", changed, err)
	}
	on := active(t, h, eth0.Index)
	if on["rx-vlan-hw-parse"] || on["rx-vlan-stag-hw-parse"] || !on["rx-gro"] {
		t.Errorf("features are %v", on)
	}
	changed, err = keep(t, h, eth0.Index)
	if err != nil || len(changed) != 0 {
		t.Errorf("the second time changed %v, %v, want nothing", changed, err)
	}
}

func active(t *testing.T, h *netlab.Host, index int) (on map[string]bool) {
	t.Helper()
	must(t, h.Do(func() (err error) {
		on, err = offload.Active(index)
		return err
	}))
	return on
}

// Features are turned off and on by their names, others stay; what cannot be changed stays, too.
func TestChange(t *testing.T) {
	h, eth0 := wired(t)
	change := func(want map[string]bool) error {
		return h.Do(func() error { return offload.Change(eth0.Index, want) })
	}
	before := active(t, h, eth0.Index)
	must(t, change(map[string]bool{"rx-gro": !before["rx-gro"], "loopback": true}))
	after := active(t, h, eth0.Index)
	want := maps.Clone(before)
	if want["rx-gro"] = true; before["rx-gro"] {
		delete(want, "rx-gro")
	}
	if !maps.Equal(after, want) {
		t.Errorf("features were\n%v, are\n%v", before, after)
	}
	must(t, change(map[string]bool{"rx-gro": before["rx-gro"]}))
	if now := active(t, h, eth0.Index); !maps.Equal(now, before) {
		t.Errorf("features were\n%v, are again\n%v", before, now)
	}
	if err := change(map[string]bool{"rx-nonsense": true}); err == nil || !strings.Contains(err.Error(), "change features of link") {
		t.Errorf("a feature that does not exist: %v", err)
	}
}

// A device that has no such features leaves frames as they are.
func TestNothingToKeep(t *testing.T) {
	h, _ := wired(t)
	if _, err := h.Run(context.Background(), "ip", "tuntap", "add", "tap0", "mode", "tap"); err != nil {
		t.Skipf("this kernel makes no tap device: %v", err)
	}
	for _, index := range []int{1, 3} { // lo and the tap device
		if changed, err := keep(t, h, index); err != nil || len(changed) != 0 {
			t.Errorf("link %d: changed %v, %v", index, changed, err)
		}
	}
}

func TestNoSuchLink(t *testing.T) {
	h, _ := wired(t)
	if _, err := keep(t, h, 99); err == nil || !strings.Contains(err.Error(), "read link 99: ") {
		t.Errorf("error is %v", err)
	}
}
