// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplvs/internal/arpnd"
)

const (
	// dumpTimeout bounds one read of a table's answer.
	dumpTimeout = 10 * time.Second
	// dumpTries is how often a reading that a change interrupted is begun again. After that the
	// result is taken: what changed meanwhile is announced too, and the resync comes.
	dumpTries = 3
)

// tables is the kernel that runs this process, in one network namespace.
type tables struct {
	ns     namespace
	handle *netlink.Handle // for dumps
	lookup *lookup
	buffer int // bytes, for notifications
}

// openKernel opens the tables of the calling thread's network namespace.
func openKernel(buffer int) (*tables, error) {
	ns, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	t := &tables{ns: ns, buffer: buffer}
	if err := ns.do(t.open); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// open opens the sockets that are always there.
func (t *tables) open() (err error) {
	if t.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	if err := t.handle.SetSocketTimeout(dumpTimeout); err != nil {
		return fmt.Errorf("set netlink timeout: %w", err)
	}
	t.lookup, err = newLookup()
	return err
}

func (t *tables) close() {
	if t.handle != nil {
		t.handle.Close()
	}
	if t.lookup != nil {
		t.lookup.close()
	}
	t.ns.close()
}

func (t *tables) routes(queries []query, answers []route) error {
	return t.lookup.routes(queries, answers)
}

// dump reads a table, and again if it changed meanwhile.
func dump[T any](read func() ([]T, error)) (rows []T, err error) {
	for range dumpTries {
		if rows, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return rows, err
		}
	}
	return rows, nil
}

func (t *tables) links() (linkTable, error) {
	rows, err := dump(t.handle.LinkList)
	if err != nil {
		return nil, err
	}
	links := make(linkTable, len(rows))
	for _, row := range rows {
		l := linkFrom(row)
		links[l.index] = l
	}
	return links, nil
}

// linkFrom reads a device. "Operational" is IFF_RUNNING, which the kernel derives from carrier and
// operational state (Documentation/networking/operstates.rst).
func linkFrom(row netlink.Link) link {
	a := row.Attrs()
	l := link{
		index: a.Index, parent: a.ParentIndex, master: a.MasterIndex, name: a.Name, mtu: a.MTU,
		up: a.RawFlags&unix.IFF_UP != 0, carrier: a.RawFlags&unix.IFF_RUNNING != 0, noARP: a.RawFlags&unix.IFF_NOARP != 0,
		foreign: a.NetNsID >= 0, kind: row.Type(),
	}
	if a.EncapType == "ether" {
		l.mac, l.ether = arpnd.MACFrom(a.HardwareAddr)
	}
	if v, ok := row.(*netlink.Vlan); ok {
		l.vlan, l.tag = true, tag{id: uint16(v.VlanId), tpid: TPIDCustomer}
		if v.VlanProtocol == netlink.VLAN_PROTOCOL_8021AD {
			l.tag.tpid = TPIDService
		}
	}
	if b, ok := row.(*netlink.Bond); ok {
		l.mode, l.active = bondModeFrom(b.Mode), b.ActiveSlave
	}
	return l
}

func bondModeFrom(m netlink.BondMode) bondMode {
	switch m {
	case netlink.BOND_MODE_BALANCE_TLB, netlink.BOND_MODE_BALANCE_ALB:
		return bondAdaptive
	case netlink.BOND_MODE_BROADCAST:
		return bondBroadcast
	}
	return bondAny
}

func (t *tables) addresses() (addressTable, error) {
	rows, err := dump(func() ([]netlink.Addr, error) { return t.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	addrs := make(addressTable)
	for _, row := range rows {
		if a, ok := addressFrom(row); ok {
			addrs[row.LinkIndex] = append(addrs[row.LinkIndex], a)
		}
	}
	return addrs, nil
}

// addressFrom reads an address. With a peer (point-to-point) the subnet is the peer's.
func addressFrom(row netlink.Addr) (address, bool) {
	if row.IPNet == nil {
		return address{}, false
	}
	ip, ok := netip.AddrFromSlice(row.IP)
	bits, _ := row.Mask.Size()
	const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	optimistic := row.Flags&unix.IFA_F_OPTIMISTIC != 0
	return address{
		prefix: netip.PrefixFrom(ip.Unmap(), bits),
		usable: row.Flags&unusable == 0 || optimistic,
	}, ok
}

func (t *tables) neighbors() (map[neighKey]entry, error) {
	entries := make(map[neighKey]entry)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rows, err := dump(func() ([]netlink.Neigh, error) { return t.handle.NeighList(0, family) })
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if k, e, ok := entryFrom(&row); ok {
				entries[k] = e
			}
		}
	}
	return entries, nil
}

// entryFrom reads a row of the neighbour table. ok is false for rows that name no neighbour: other
// families (bridge forwarding entries) and addresses that this host answers for (proxy).
func entryFrom(row *netlink.Neigh) (k neighKey, e entry, ok bool) {
	ip, ok := netip.AddrFromSlice(row.IP)
	if !ok || row.Flags&netlink.NTF_PROXY != 0 || row.Family != unix.AF_INET && row.Family != unix.AF_INET6 {
		return k, e, false
	}
	const valid = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	e.failed = row.State&netlink.NUD_FAILED != 0
	if m, ok := arpnd.MACFrom(row.HardwareAddr); ok && m.Unicast() {
		managed := row.State&netlink.NUD_NOARP != 0 && row.Flags&netlink.NTF_EXT_LEARNED != 0
		e.static = row.State&netlink.NUD_PERMANENT != 0 || managed
		e.valid = row.State&valid != 0 || managed
		e.reachable = row.State&netlink.NUD_REACHABLE != 0
		e.mac = m
	}
	return neighKey{row.LinkIndex, ip}, e, true
}
