// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is one network namespace, with lo up and no other interface until Connect or Link.
type Host struct {
	lab    *Lab
	name   string
	nsName string

	// Descriptors, guarded by lab.mu: the namespace (-1 once closed), and a socket opened inside it,
	// which acts there whichever thread uses it.
	ns int
	nl *netlink.Handle
}

// Host adds a namespace. The name consists of letters, digits, "-" and "_" and is unique in the lab,
// among hosts and switches.
func (l *Lab) Host(name string) (*Host, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("add host %q: name does not match %v", name, validName)
	}
	l.creating.Lock()
	defer l.creating.Unlock()
	h := &Host{lab: l, name: name, ns: -1}
	h.nsName = namespaceName(l.prefix, l.owner, l.random, name)
	// Entered first, so that Close of the lab removes also what a failure below leaves.
	if err := l.add(h); err != nil {
		return nil, fmt.Errorf("add host %q: %w", name, err)
	}
	if err := h.open(); err != nil {
		return nil, fmt.Errorf("add host %q: %w", name, err)
	}
	return h, nil
}

// open creates the namespace and everything inside that each host has. The caller holds
// lab.creating, and nobody else knows the host yet.
func (h *Host) open() error {
	fd, err := createNamespace(h.nsName)
	if err != nil {
		return err
	}
	h.ns = fd
	if h.nl, err = netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if err := h.Do(func() error { return applySysctls(hostSysctls) }); err != nil {
		return err
	}
	return h.setUp("lo", true)
}

// release closes what the host holds.
func (h *Host) release() error {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.nl != nil {
		h.nl.Close()
	}
	if h.ns < 0 {
		return nil
	}
	err := unix.Close(h.ns)
	h.ns = -1
	return err
}

// use runs fn, which uses the host's descriptors, unless they are closed, and keeps them open
// meanwhile. fn must not call use again: Close, waiting in between, would block both.
func (h *Host) use(fn func() error) error {
	h.lab.mu.RLock()
	defer h.lab.mu.RUnlock()
	if h.ns < 0 {
		return fmt.Errorf("host %s: %w", h.name, errClosed)
	}
	return fn()
}

// Name returns the short name that was given to Lab.Host or Lab.Switch.
func (h *Host) Name() string { return h.name }

// NSName returns the name for `ip netns exec`.
func (h *Host) NSName() string { return h.nsName }

// Netlink returns a route netlink handle that acts in the namespace from any goroutine. Close of the
// lab closes it. It must not be used afterwards: a closed handle acts in the caller's namespace.
func (h *Host) Netlink() (*netlink.Handle, error) {
	if err := h.use(func() error { return nil }); err != nil {
		return nil, err
	}
	return h.nl, nil
}

// Do runs fn on the calling goroutine, its thread locked and moved into the namespace, and moves the
// thread back. Goroutines that fn starts run outside. Errors are fn's, os.ErrClosed after Close, or
// the failure to move back: then the goroutine stays locked and the thread dies with it.
func (h *Host) Do(fn func() error) error {
	return within(func() error { return h.use(h.enter) }, fn)
}

// enter moves the calling thread into the namespace.
func (h *Host) enter() error {
	if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace of %s: %w", h.name, err)
	}
	return nil
}

// Sysctl sets a kernel parameter of the namespace, such as "net.ipv4.conf.all.arp_ignore". A dot in
// an interface name is written "/", as with sysctl(8).
func (h *Host) Sysctl(key, value string) error {
	err := h.Do(func() error { return writeSysctl(key, value) })
	if err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return nil
}

// swapDots translates a sysctl key to a path below /proc/sys.
var swapDots = strings.NewReplacer(".", "/", "/", ".")

// writeSysctl sets a parameter in the namespace of the calling thread.
func writeSysctl(key, value string) error {
	path := filepath.Join("/proc/sys", swapDots.Replace(key))
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

// sysctl is one kernel parameter; an optional one may be missing, in older kernels.
type sysctl struct {
	key, value string
	optional   bool
}

// hostSysctls make a namespace quick to come up and the same on every distribution.
var hostSysctls = []sysctl{
	// Addresses work at once: no duplicate address detection. The kernel wants it off in both.
	{key: "net.ipv6.conf.all.accept_dad", value: "0"},
	{key: "net.ipv6.conf.default.accept_dad", value: "0"},
	{key: "net.ipv6.conf.default.dad_transmits", value: "0"},
	// No router is ever waited for.
	{key: "net.ipv6.conf.default.router_solicitations", value: "0"},
	{key: "net.ipv6.conf.all.accept_ra", value: "0"},
	{key: "net.ipv6.conf.default.accept_ra", value: "0"},
	{key: "net.ipv6.conf.all.disable_ipv6", value: "0"},
	{key: "net.ipv6.conf.default.disable_ipv6", value: "0"},
	// Taking an interface down and up again is a test's way to break a wire, not an address.
	{key: "net.ipv6.conf.all.keep_addr_on_down", value: "1"},
	{key: "net.ipv6.conf.default.keep_addr_on_down", value: "1"},
	// Direct return is asymmetric.
	{key: "net.ipv4.conf.all.rp_filter", value: "0"},
	{key: "net.ipv4.conf.default.rp_filter", value: "0"},
	// A test must see the error of each packet, not of the first in a second.
	{key: "net.ipv4.icmp_ratelimit", value: "0"},
	{key: "net.ipv6.icmp.ratelimit", value: "0"},
	// One connection has less in flight (256 KiB) than the 256 frames a veth ring takes: XDP_TX drops
	// what does not fit. IPv6 uses the same parameter.
	{key: "net.ipv4.tcp_wmem", value: "4096 65536 262144"},
	// A parameter of the namespace since Linux 6.13 only.
	{key: "net.ipv4.icmp_msgs_per_sec", value: "100000", optional: true},
	{key: "net.ipv4.icmp_msgs_burst", value: "100000", optional: true},
}

// applySysctls sets parameters in the namespace of the calling thread.
func applySysctls(sysctls []sysctl) error {
	for _, s := range sysctls {
		err := writeSysctl(s.key, s.value)
		if s.optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
