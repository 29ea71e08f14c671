// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xdplvs/director"
	"xdplvs/internal/door"
	"xdplvs/internal/testkit"
)

// noDoor notes what is asked of it.
type noDoor struct{ asked []string }

func (d *noDoor) note(what string, m door.Marks) error {
	if !m.None() {
		what += " with marks"
	}
	d.asked = append(d.asked, what)
	return nil
}

func (d *noDoor) Open(m door.Marks) error   { return d.note("open", m) }
func (d *noDoor) Set(m door.Marks) error    { return d.note("set", m) }
func (d *noDoor) Withdraw() error           { return d.note("withdraw", door.Marks{}) }
func (d *noDoor) Remove() error             { return d.note("remove", door.Marks{}) }
func (d *noDoor) Run(context.Context) error { return nil }
func (d *noDoor) State() door.State         { return door.State{} }

// The interface is there before the program is to be attached to it, and packets come after that.
func TestEnforce(t *testing.T) {
	marked := director.Desired{Interfaces: []director.Interface{{Name: "eth0"}},
		Services: []director.Service{{Key: director.MarkKey(7, false), MarkSource: director.MarkFirewall}}}
	for name, c := range map[string]struct {
		want   director.Desired
		failed error
		asked  string
	}{
		"with marks":    {marked, nil, "open with marks, apply dir-door, set with marks"},
		"refused":       {marked, errors.New("no"), "open with marks, apply dir-door, withdraw"},
		"without marks": {director.Desired{}, nil, "open, apply , set"},
	} {
		keeper := &noDoor{}
		d := &daemon{door: keeper, probes: &noDoor{}, log: new(testkit.Log).Logger()}
		err := d.enforce(c.want, door.Marks{}, func(want director.Desired) error {
			keeper.asked = append(keeper.asked, "apply "+want.Door)
			if listed := slices.ContainsFunc(want.Interfaces, func(i director.Interface) bool { return i.Name == door.Far }); listed != (want.Door != "") {
				t.Errorf("%s: interfaces are %v", name, want.Interfaces)
			}
			return c.failed
		})
		if got := strings.Join(keeper.asked, ", "); !errors.Is(err, c.failed) || got != c.asked {
			t.Errorf("%s: error %v, asked %q, want %q", name, err, got, c.asked)
		}
	}
	if len(marked.Interfaces) != 1 {
		t.Errorf("the configuration's interfaces became %v", marked.Interfaces)
	}
}

// What keeps the kernel from routing is named as sysctl takes it.
func TestUnforwarded(t *testing.T) {
	dir := t.TempDir() + "/"
	for path, value := range map[string]string{
		"ipv4/conf/eth0/forwarding": "0\n", "ipv4/conf/eth1/forwarding": "1\n", "ipv4/conf/dir-door/forwarding": "0\n", "ipv6/conf/all/forwarding": "0\n",
	} {
		if err := os.MkdirAll(filepath.Dir(dir+path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := director.Desired{Door: "dir-door", Interfaces: []director.Interface{{Name: "dir-door"}, {Name: "eth0"}, {Name: "eth1"}, {Name: "eth9"}}}
	for _, c := range []struct {
		v6   bool
		want string
	}{{false, "net/ipv4/conf/eth0/forwarding"}, {true, "net/ipv6/conf/all/forwarding"}} {
		want.Services = []director.Service{{Key: director.MarkKey(7, c.v6), MarkSource: director.MarkFirewall}}
		if got := strings.Join(unforwarded(dir, &want), " "); got != c.want {
			t.Errorf("v6 %t: %q, want %q", c.v6, got, c.want)
		}
	}
}
