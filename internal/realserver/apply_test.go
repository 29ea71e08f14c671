// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// fakeHost is a host in memory that refuses its n-th change.
type fakeHost struct {
	state   fakeState
	changes int
	refuse  int // 0: none
}

type fakeState struct {
	sysctls map[string]string
	addrs   []Address
	tunnels map[string]Tunnel
	ports   []Port
	routes  []route
}

func newFakeHost() *fakeHost {
	h := &fakeHost{state: fakeState{sysctls: map[string]string{}, tunnels: map[string]Tunnel{}}}
	for _, who := range []string{"all", "eth0", "eth0.100"} {
		for name, value := range map[string]string{
			"ipv4/conf/%s/arp_ignore": "0", "ipv4/conf/%s/arp_announce": "0",
			"ipv4/conf/%s/accept_redirects": "1", "ipv6/conf/%s/accept_redirects": "1",
		} {
			h.state.sysctls["net/"+fmt.Sprintf(name, who)] = value
		}
	}
	h.state.addrs = []Address{{"lo", addrs("127.0.0.1")[0]}, {"eth0", addrs("10.0.0.11")[0]}, {"eth0", addrs("fd00::11")[0]}}
	h.state.routes = []route{
		{via: addrs("10.0.0.254")[0], device: "eth0"}, {via: addrs("10.0.0.253")[0], device: "eth0", metric: 100},
		{v6: true, via: addrs("fd00::fe")[0], device: "eth0", metric: 1024},
	}
	return h
}

// String is the whole state, the same text for the same state.
func (s fakeState) String() string {
	byText := func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s.sysctls)) {
		fmt.Fprintf(&b, "%s=%s\n", k, s.sysctls[k])
	}
	for _, a := range slices.SortedFunc(slices.Values(s.addrs), func(a, b Address) int { return byText(a, b) }) {
		fmt.Fprintln(&b, a)
	}
	for _, k := range slices.Sorted(maps.Keys(s.tunnels)) {
		fmt.Fprintln(&b, k, s.tunnels[k].Kind, s.tunnels[k].Local)
	}
	for _, r := range slices.SortedFunc(slices.Values(s.routes), func(a, b route) int { return byText(a, b) }) {
		fmt.Fprintln(&b, r.v6, r.via, r.device, r.metric, r.advMSS)
	}
	ports := slices.SortedFunc(slices.Values(s.ports), func(a, b Port) int { return byText(a, b) })
	return b.String() + fmt.Sprintln(ports)
}

var errRefused = errors.New("refused")

func (h *fakeHost) change(do func()) error {
	if h.changes++; h.changes == h.refuse {
		return errRefused
	}
	do()
	return nil
}

func (h *fakeHost) sysctl(path string) (string, error) {
	if v, ok := h.state.sysctls[path]; ok {
		return v, nil
	}
	return "", fmt.Errorf("%s: %w", path, os.ErrNotExist)
}

func (h *fakeHost) setSysctl(path, value string) error {
	return h.change(func() { h.state.sysctls[path] = value })
}

func (h *fakeHost) addresses() ([]Address, error) { return slices.Clone(h.state.addrs), nil }

func (h *fakeHost) addAddress(a Address) error {
	return h.change(func() { h.state.addrs = append(h.state.addrs, a) })
}

func (h *fakeHost) delAddress(a Address) error {
	return h.change(func() { h.state.addrs = slices.DeleteFunc(h.state.addrs, func(o Address) bool { return o == a }) })
}

func (h *fakeHost) tunnel(name string) (Tunnel, bool, error) {
	t, ok := h.state.tunnels[name]
	return t, ok, nil
}

func (h *fakeHost) addTunnel(t Tunnel) error {
	return h.change(func() {
		h.state.tunnels[t.Name], h.state.sysctls[t.filter().Path] = t, "0"
		if t.Kind == "sit" {
			compatible := netip.AddrFrom16([16]byte(append(make([]byte, 12), t.Local.AsSlice()...)))
			h.state.addrs = append(h.state.addrs, Address{t.Name, compatible})
		}
	})
}

func (h *fakeHost) delTunnel(t Tunnel) error {
	return h.change(func() {
		delete(h.state.tunnels, t.Name)
		delete(h.state.sysctls, t.filter().Path)
		h.state.addrs = slices.DeleteFunc(h.state.addrs, func(a Address) bool { return a.Device == t.Name })
	})
}

func (h *fakeHost) hasPort(p Port) (bool, error) { return slices.Contains(h.state.ports, p), nil }

func (h *fakeHost) addPort(p Port) error {
	return h.change(func() { h.state.ports = append(h.state.ports, p) })
}

func (h *fakeHost) delPort(p Port) error {
	return h.change(func() { h.state.ports = slices.DeleteFunc(h.state.ports, func(o Port) bool { return o == p }) })
}

func (h *fakeHost) defaults(v6 bool) (list []route, err error) {
	for _, r := range h.state.routes {
		if r.v6 == v6 {
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b route) int { return cmp.Compare(a.metric, b.metric) })
	return list, nil
}

func (h *fakeHost) putRoute(r route) error {
	return h.change(func() {
		h.removeRoute(func(o route) bool { return o.v6 == r.v6 && o.metric == r.metric })
		h.state.routes = append(h.state.routes, r)
	})
}

func (h *fakeHost) dropRoute(r route) error {
	return h.change(func() { h.removeRoute(func(o route) bool { return o == r }) })
}

func (h *fakeHost) removeRoute(which func(route) bool) {
	h.state.routes = slices.DeleteFunc(h.state.routes, which)
}

func ignore(Step) {}

// TestApply: done once it is done, done twice changes nothing, and taken back it is as before.
func TestApply(t *testing.T) {
	for name, spec := range specs {
		t.Run(name, func(t *testing.T) {
			h, p := newFakeHost(), Build(spec)
			fresh := h.state.String()
			if err := apply(h, p, false, ignore); err != nil {
				t.Fatal(err)
			}
			done, changes := h.state.String(), h.changes
			mustHave(t, h, p)
			again := func(s Step) {
				if s.Changed {
					t.Errorf("the second time changed: %s", s.What)
				}
			}
			if err := apply(h, p, false, again); err != nil || h.changes != changes || h.state.String() != done {
				t.Errorf("the second time: %v, %d changes", err, h.changes-changes)
			}
			for range 2 {
				if err := apply(h, p, true, ignore); err != nil {
					t.Fatal(err)
				}
			}
			want := fresh
			if name == "nat" { // replaced by the route via the director, which is gone
				want = strings.Replace(want, "false 10.0.0.254 eth0 0 0\n", "", 1)
			}
			if got := h.state.String(); got != want {
				t.Errorf("taken back it is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// mustHave looks for what the plan is for, not for its steps.
func mustHave(t *testing.T, h *fakeHost, p Plan) {
	t.Helper()
	for _, a := range p.Addresses {
		if !slices.Contains(h.state.addrs, a) {
			t.Errorf("no address %v", a)
		}
	}
	for _, r := range p.Routes {
		all, _ := h.defaults(r.V6)
		if first := all[0]; r.Via.IsValid() && first.via != r.Via || first.advMSS != r.AdvMSS {
			t.Errorf("the preferred default route is %+v, want %+v", first, r)
		}
	}
	if len(p.Ports) != len(h.state.ports) || len(p.Tunnels) != len(h.state.tunnels) {
		t.Errorf("ports %v, tunnels %v", h.state.ports, h.state.tunnels)
	}
}

// TestApplyUndoes: whichever change fails, everything is as it was.
func TestApplyUndoes(t *testing.T) {
	for name, spec := range specs {
		for _, remove := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " remove ", remove), func(t *testing.T) {
				for refuse := 1; ; refuse++ {
					h, p := newFakeHost(), Build(spec)
					if remove && apply(h, p, false, ignore) != nil {
						t.Fatal("cannot begin")
					}
					before := h.state.String()
					h.changes, h.refuse = 0, refuse
					err := apply(h, p, remove, ignore)
					if err == nil {
						if refuse == 1 {
							t.Fatal("no change was refused")
						}
						return
					}
					if !errors.Is(err, errRefused) {
						t.Fatalf("change %d: %v", refuse, err)
					}
					if got := h.state.String(); got != before {
						t.Fatalf("change %d (%v) left\n%s\nwant\n%s", refuse, err, got, before)
					}
				}
			})
		}
	}
}

// TestARPStaysQuiet: no virtual address is there before the parameters, nor stays behind them.
func TestARPStaysQuiet(t *testing.T) {
	h, p := newFakeHost(), Build(specs["dr"])
	quiet := func(step Step) {
		for _, a := range h.state.addrs {
			loud := h.state.sysctls["net/ipv4/conf/all/arp_ignore"] != "1" || h.state.sysctls["net/ipv4/conf/all/arp_announce"] != "2"
			if a.Device == "lo" && !a.Addr.IsLoopback() && loud {
				t.Errorf("after %q %s is there and ARP is answered", step.What, a.Addr)
			}
		}
	}
	for _, remove := range []bool{false, true} {
		if err := apply(h, p, remove, quiet); err != nil {
			t.Fatal(err)
		}
	}
	// One of two: the other one still needs the parameters.
	two := Build(specs["dr"])
	one := two
	one.Addresses = two.Addresses[:1]
	if err := errors.Join(apply(h, two, false, quiet), apply(h, one, true, quiet)); err != nil {
		t.Fatal(err)
	}
}

func TestApplyConflicts(t *testing.T) {
	h, p := newFakeHost(), Build(specs["tun-ipip"])
	h.state.tunnels["dir-ipip"] = Tunnel{Name: "dir-ipip", Kind: "ipip", Local: addrs("10.0.0.9")[0]}
	mustFail(t, apply(h, p, false, ignore), "add device dir-ipip (ipip, local 10.0.0.11): there is another device of this name (ipip, local 10.0.0.9): remove it first (what was done before is undone)")

	h = newFakeHost()
	if err := apply(h, p, false, ignore); err != nil {
		t.Fatal(err)
	}
	h.state.addrs = append(h.state.addrs, Address{"dir-ipip", addrs("192.0.2.99")[0]})
	mustFail(t, apply(h, p, true, ignore), "remove device dir-ipip: it has 192.0.2.99 too: name all its virtual addresses (what was done before is undone)")

	h = newFakeHost()
	h.state.routes = nil
	mustFail(t, apply(h, p, false, ignore), "set advmss 1440 on the IPv4 default route via 10.0.0.254: there is no such route (what was done before is undone)")
}

func mustFail(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
