// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"xdplvs/internal/arpnd"
)

const (
	// attrProto is IFA_PROTO, which tells who added an address (since Linux 5.18; linux/if_addr.h).
	attrProto = 11
	// mark is our number there. The kernel has 1 to 3, and hands out no others.
	mark = 86
	// dumpTries is how often a reading that a change interrupted is begun again. After that the result
	// is taken: what changed meanwhile is announced too, and the resync comes.
	dumpTries = 3
)

// tables is the kernel that runs this process, in the network namespace of the calling thread.
type tables struct{}

func (tables) links() (map[int]link, error) {
	rows, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("read interfaces: %w", err)
	}
	links := make(map[int]link, len(rows))
	for _, row := range rows {
		l := linkFrom(row)
		links[l.index] = l
	}
	return links, nil
}

// dump reads a table, and again if it changed meanwhile.
func dump[T any](read func() (T, error)) (rows T, err error) {
	for range dumpTries {
		if rows, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return rows, err
		}
	}
	return rows, nil
}

func linkFrom(row netlink.Link) link {
	a := row.Attrs()
	l := link{
		index: a.Index, name: a.Name,
		up:  a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
		arp: a.RawFlags&(unix.IFF_NOARP|unix.IFF_LOOPBACK) == 0,
	}
	if a.EncapType == "ether" {
		l.mac, _ = arpnd.MACFrom(a.HardwareAddr)
	}
	if v, ok := row.(*netlink.Vlan); ok && a.NetNsID < 0 { // else the parent is in another namespace
		l.parent, l.vlan = a.ParentIndex, uint16(v.VlanId)
	}
	return l
}

func (tables) addresses() ([]address, error) {
	rows, err := dump(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	var all []address
	for _, row := range rows {
		if a, ok := addressFrom(row); ok {
			all = append(all, a)
		}
	}
	return all, nil
}

// addressFrom reads a struct ifaddrmsg and its attributes. IFA_LOCAL is the address where there is a
// peer, which IFA_ADDRESS is then.
func addressFrom(row []byte) (a address, ok bool) {
	if len(row) < unix.SizeofIfAddrmsg {
		return a, false
	}
	msg := nl.DeserializeIfAddrmsg(row)
	attrs, err := nl.ParseRouteAttr(row[unix.SizeofIfAddrmsg:])
	if err != nil {
		return a, false
	}
	var addr, local netip.Addr
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attr.Value)
		case attrProto:
			a.marked = len(attr.Value) == 1 && attr.Value[0] == mark
		}
	}
	if local.IsValid() {
		addr = local
	}
	a.link, a.prefix = int(msg.Index), netip.PrefixFrom(addr, int(msg.Prefixlen))
	return a, a.prefix.IsValid()
}

// groups reads /proc/net/igmp6: index, name, group in hexadecimal, and more.
func (tables) groups() (map[spot]bool, error) {
	f, err := os.Open("/proc/thread-self/net/igmp6")
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read multicast groups: %w", err)
	}
	defer f.Close()
	groups := make(map[spot]bool)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 {
			continue
		}
		index, err := strconv.Atoi(fields[0])
		b, hexErr := hex.DecodeString(fields[2])
		if addr, ok := netip.AddrFromSlice(b); err == nil && hexErr == nil && ok {
			groups[spot{index, addr}] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read multicast groups: %w", err)
	}
	return groups, nil
}

func (tables) add(link int, p netip.Prefix) error {
	flags, forever := uint32(0), uint32(0xffffffff)
	preferred := forever
	switch {
	case p.Addr().IsMulticast():
		// The kernel's own means of being member of a group for longer than a process lives.
		flags = unix.IFA_F_MCAUTOJOIN | unix.IFA_F_NODAD
	case p.Addr().Is6():
		// We have asked already. Deprecated: never the source of what this host begins itself (RFC 6724, 5, rule 3).
		flags, preferred = unix.IFA_F_NODAD, 0
	}
	req := changeRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, link, p)
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	req.AddData(nl.NewRtAttr(attrProto, []byte{mark}))
	lives := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: forever, Prefered: preferred}}
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, lives.Serialize()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	// A group stays joined when its address goes with the link, and cannot be joined twice.
	if errors.Is(err, unix.EEXIST) || p.Addr().IsMulticast() && errors.Is(err, unix.EADDRINUSE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", p, err)
	}
	return nil
}

func (tables) remove(link int, p netip.Prefix) error {
	_, err := changeRequest(unix.RTM_DELADDR, unix.NLM_F_ACK, link, p).Execute(unix.NETLINK_ROUTE, 0)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return nil
}

func changeRequest(kind, flags, link int, p netip.Prefix) *nl.NetlinkRequest {
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(kind, flags)
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen = uint32(link), uint8(p.Bits())
	if p.Addr().IsLinkLocalMulticast() || p.Addr().IsLinkLocalUnicast() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	return req
}

// takesAlong tells of the IPv4 addresses behind p in its subnet, if p is the first there.
func (t tables) takesAlong(link int, p netip.Prefix) (others []netip.Prefix, err error) {
	if !p.Addr().Is4() || promotes(link) {
		return nil, nil
	}
	all, err := t.addresses()
	if err != nil {
		return nil, err
	}
	first := true
	for _, a := range all { // in the kernel's order: the first of a subnet is its primary
		switch {
		case a.link != link || a.prefix.Masked() != p.Masked():
		case a.prefix != p && first:
			return nil, nil
		case a.prefix == p:
			first = false
		case !a.marked: // ours are added again
			others = append(others, a.prefix)
		}
	}
	return others, nil
}

// promotes tells whether the kernel keeps an address when the primary one of its subnet goes.
func promotes(index int) bool {
	row, err := netlink.LinkByIndex(index)
	if err != nil {
		return false
	}
	for _, name := range []string{"all", row.Attrs().Name} {
		text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/promote_secondaries")
		if err == nil && strings.TrimSpace(string(text)) != "0" {
			return true
		}
	}
	return false
}

func (tables) watch(in *inbox) (stop func(), err error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	var reader sync.WaitGroup
	reader.Go(func() { follow(socket, in) })
	return func() { socket.Close(); reader.Wait() }, nil
}

// follow reads notifications until the socket fails: it was closed, or overran (ENOBUFS), after which
// nobody knows what was missed.
func follow(socket *nl.NetlinkSocket, in *inbox) {
	for {
		msgs, from, err := socket.Receive()
		if err != nil {
			in.put(func(n *news) { n.lost = true })
			return
		}
		if from.Pid == nl.PidKernel {
			in.put(func(n *news) { n.note(msgs) })
		}
	}
}

// note adds what notifications mean. A link that was down or gone for a moment looks unchanged when it
// is read.
func (n *news) note(msgs []syscall.NetlinkMessage) {
	n.changed = true
	for _, m := range msgs {
		about := m.Header.Type == unix.RTM_NEWLINK || m.Header.Type == unix.RTM_DELLINK
		if !about || len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
			continue
		}
		info := nl.DeserializeIfInfomsg(m.Data)
		if m.Header.Type == unix.RTM_DELLINK || info.Flags&unix.IFF_RUNNING == 0 {
			n.down(int(info.Index))
		}
	}
}

// A wire is the port on a real interface: a packet socket.
type wire struct {
	*arpnd.Socket
	reader sync.WaitGroup
}

func (tables) listen(l link, v6 bool, into *inbox) (port, error) {
	traffic := arpnd.ARP
	if v6 {
		traffic = arpnd.Discovery
	}
	socket, err := arpnd.Open(l.index, traffic)
	if err != nil {
		return nil, err
	}
	w := &wire{Socket: socket}
	w.reader.Go(func() {
		w.Follow(func(frame []byte) {
			if h, ok := arpnd.Read(frame); ok {
				into.hear(l.index, h)
			}
		})
	})
	return w, nil
}

func (w *wire) close() {
	w.Close()
	w.reader.Wait()
}
