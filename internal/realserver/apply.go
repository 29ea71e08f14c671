// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// A host is the kernel that Apply changes; tests have one of their own.
type host interface {
	sysctl(path string) (string, error)
	setSysctl(path, value string) error

	// addresses are all, by device.
	addresses() ([]Address, error)
	addAddress(Address) error
	delAddress(Address) error

	// tunnel is the device of that name; ok is false when there is none.
	tunnel(name string) (t Tunnel, ok bool, err error)
	addTunnel(Tunnel) error // and takes it up
	delTunnel(Tunnel) error

	hasPort(Port) (bool, error)
	addPort(Port) error
	delPort(Port) error

	// defaults are the default routes of a family, the preferred one first.
	defaults(v6 bool) ([]route, error)
	putRoute(route) error // in the place of one with the same metric
	dropRoute(route) error
}

// A Step is told to the caller of Apply when it is done.
type Step struct {
	What    string
	Changed bool // false: it was so before
}

// Apply makes the running kernel what the plan says, or, to remove, no longer, and tells each step.
// What is as it should be stays. When a step fails, those before it are undone.
func Apply(p Plan, remove bool, tell func(Step)) error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	if err := k.check(p, remove); err != nil {
		return err
	}
	return apply(k, p, remove, tell)
}

// apply is Apply on any host.
func apply(h host, p Plan, remove bool, tell func(Step)) error {
	c := &changes{host: h}
	steps := c.make(p)
	if remove {
		steps = c.unmake(p)
	}
	for _, s := range steps {
		before := len(c.undo)
		if err := s.do(); err != nil {
			return c.back(fmt.Errorf("%s: %w", s.what, err))
		}
		tell(Step{s.what, len(c.undo) > before})
	}
	return nil
}

// A step changes something and notes how to change it back, or finds nothing to change.
type step struct {
	what string
	do   func() error
}

// changes are those made so far.
type changes struct {
	host host
	undo []func() error
}

// back undoes everything, the last first, and tells it beside the cause.
func (c *changes) back(cause error) error {
	var errs []error
	for _, undo := range slices.Backward(c.undo) {
		errs = append(errs, undo())
	}
	switch err := errors.Join(errs...); {
	case err != nil:
		return fmt.Errorf("%w, and what was done before could not all be undone: %w", cause, err)
	case len(errs) > 0:
		return fmt.Errorf("%w (what was done before is undone)", cause)
	default:
		return cause
	}
}

// change does something that can be undone.
func (c *changes) change(do, undo func() error) error {
	err := do()
	if err == nil {
		c.undo = append(c.undo, undo)
	}
	return err
}

func (c *changes) make(p Plan) (steps []step) {
	add := func(do func() error, what string, args ...any) {
		steps = append(steps, step{fmt.Sprintf(what, args...), do})
	}
	for _, s := range p.Sysctls {
		add(func() error { return c.set(s.Path, s.Value) }, "set %s=%s", s.Name(), s.Value)
	}
	for _, port := range p.Ports {
		add(func() error { return c.port(port, true) }, "open %s", port)
	}
	for _, t := range p.Tunnels {
		add(func() error { return c.addTunnel(t) }, "add device %s (%s)", t.Name, t)
		if f := t.filter(); t.Inner4 {
			add(func() error { return c.set(f.Path, f.Value) }, "set %s=%s", f.Name(), f.Value)
		}
	}
	for _, a := range p.Addresses {
		add(func() error { return c.address(a, true) }, "add %s to %s", a.Prefix(), a.Device)
	}
	for _, r := range p.Routes {
		if r.AdvMSS > 0 {
			add(func() error { return c.segments(r, r.AdvMSS) }, "set advmss %d on the %s", r.AdvMSS, r)
		} else {
			add(func() error { return c.takeRoute(r) }, "make the %s", r)
		}
	}
	return steps
}

// unmake goes the opposite way.
func (c *changes) unmake(p Plan) (steps []step) {
	add := func(do func() error, what string, args ...any) {
		steps = append(steps, step{fmt.Sprintf(what, args...), do})
	}
	for _, r := range p.Routes {
		if r.AdvMSS > 0 {
			add(func() error { return c.segments(r, 0) }, "take advmss off the %s", r)
		} else {
			add(func() error { return c.leaveRoute(r) }, "remove the %s", r)
		}
	}
	for _, a := range p.Addresses {
		add(func() error { return c.address(a, false) }, "remove %s from %s", a.Prefix(), a.Device)
	}
	for _, t := range p.Tunnels {
		add(func() error { return c.delTunnel(t, p) }, "remove device %s", t.Name)
	}
	for _, port := range p.Ports {
		add(func() error { return c.port(port, false) }, "close %s", port)
	}
	for _, s := range p.Sysctls {
		add(func() error { return c.release(p, s) }, "set %s=%s", s.Name(), s.Fresh)
	}
	return steps
}

// String is UDP port 6080 for GUE.
func (p Port) String() string {
	family := "IPv4"
	if p.V6 {
		family = "IPv6"
	}
	return fmt.Sprintf("UDP port %d for GUE (%s)", p.Number, family)
}

// String is the route in a step.
func (r Route) String() string {
	family := "IPv4"
	if r.V6 {
		family = "IPv6"
	}
	if !r.Via.IsValid() {
		return family + " default route"
	}
	return fmt.Sprintf("%s default route via %s", family, r.Via)
}

func (c *changes) set(path, value string) error {
	old, err := c.host.sysctl(path)
	if err != nil || old == value {
		return err
	}
	return c.change(func() error { return c.host.setSysctl(path, value) }, func() error { return c.host.setSysctl(path, old) })
}

// release sets a parameter back, unless it is ARP's and other addresses on lo need it.
func (c *changes) release(p Plan, s Sysctl) error {
	all, err := c.host.addresses()
	if err != nil {
		return err
	}
	needed := slices.ContainsFunc(all, func(a Address) bool {
		return a.Device == loopback && a.Addr.Is4() && !a.Addr.IsLoopback()
	})
	if needed && len(p.Addresses) > 0 {
		return nil
	}
	return c.set(s.Path, s.Fresh)
}

func (c *changes) port(p Port, open bool) error {
	is, err := c.host.hasPort(p)
	if err != nil || is == open {
		return err
	}
	add, del := func() error { return c.host.addPort(p) }, func() error { return c.host.delPort(p) }
	if !open {
		add, del = del, add
	}
	return c.change(add, del)
}

func (c *changes) addTunnel(t Tunnel) error {
	is, ok, err := c.host.tunnel(t.Name)
	switch {
	case err != nil:
		return err
	case ok && (is.Kind != t.Kind || is.Local != t.Local || is.Checksum != t.Checksum):
		return fmt.Errorf("there is another device of this name (%s): remove it first", is)
	case ok:
		return nil
	}
	return c.change(func() error { return c.host.addTunnel(t) }, func() error { return c.host.delTunnel(t) })
}

// delTunnel removes a device that has no other addresses than the plan's, which are gone by now.
func (c *changes) delTunnel(t Tunnel, p Plan) error {
	is, ok, err := c.host.tunnel(t.Name)
	if err != nil || !ok {
		return err
	}
	all, err := c.host.addresses()
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Device == t.Name && !ofKernel(a.Addr) && !slices.Contains(p.Addresses, a) {
			return fmt.Errorf("it has %s too: name all its virtual addresses", a.Addr)
		}
	}
	filter, err := c.host.sysctl(t.filter().Path)
	if err != nil {
		return err
	}
	return c.change(func() error { return c.host.delTunnel(is) }, func() error {
		return errors.Join(c.host.addTunnel(is), c.host.setSysctl(t.filter().Path, filter))
	})
}

// ofKernel tells addresses that the kernel itself gives a device: link-local ones, and to sit devices
// the IPv4-compatible one of the tunnel's end (RFC 4291, 2.5.5.1).
func ofKernel(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || a.Is6() && netip.PrefixFrom(netip.IPv6Unspecified(), 96).Contains(a)
}

func (c *changes) address(a Address, there bool) error {
	all, err := c.host.addresses()
	if err != nil || slices.Contains(all, a) == there {
		return err
	}
	add, del := func() error { return c.host.addAddress(a) }, func() error { return c.host.delAddress(a) }
	if !there {
		add, del = del, add
	}
	return c.change(add, del)
}

// A route is a default route of the kernel.
type route struct {
	v6     bool
	via    netip.Addr
	device string
	metric int // the lower, the more preferred
	advMSS int
	rest   any // what else the host knows of it
}

// takeRoute makes the preferred default route. One that is there stays, as the second choice, unless
// it has the first metric that can be.
func (c *changes) takeRoute(r Route) error {
	all, err := c.host.defaults(r.V6)
	if err != nil || len(all) > 0 && all[0].via == r.Via {
		return err
	}
	fresh := route{v6: r.V6, via: r.Via, device: r.Device}
	lowest := 0
	if r.V6 {
		fresh.metric, lowest = 1024, 1 // what the kernel gives it, and the least that it takes
	}
	var replaced []route
	if len(all) > 0 {
		fresh.metric = max(all[0].metric-1, lowest)
		if all[0].metric == fresh.metric {
			replaced = all[:1]
		}
	}
	return c.change(func() error { return c.host.putRoute(fresh) }, func() error {
		err := c.host.dropRoute(fresh)
		for _, old := range replaced {
			err = errors.Join(err, c.host.putRoute(old))
		}
		return err
	})
}

// leaveRoute removes the default routes via the director.
func (c *changes) leaveRoute(r Route) error {
	all, err := c.host.defaults(r.V6)
	for _, old := range all {
		if err == nil && old.via == r.Via {
			err = c.change(func() error { return c.host.dropRoute(old) }, func() error { return c.host.putRoute(old) })
		}
	}
	return err
}

// segments sets the segment size of the default routes, or of that via the router.
func (c *changes) segments(r Route, size int) error {
	all, err := c.host.defaults(r.V6)
	found := false
	for _, old := range all {
		if err != nil || r.Via.IsValid() && old.via != r.Via {
			continue
		}
		found = true
		if changed := old; old.advMSS != size {
			changed.advMSS = size
			err = c.change(func() error { return c.host.putRoute(changed) }, func() error { return c.host.putRoute(old) })
		}
	}
	if err == nil && !found && size > 0 {
		return errors.New("there is no such route")
	}
	return err
}
