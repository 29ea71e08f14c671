// SPDX-License-Identifier: Apache-2.0

package director

import (
	"context"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"

	"xdplvs/bpf"
)

// Connections calls yield for every connection, one after the other, and stops
// at its first error. Like IPVS's, the list is no snapshot: what begins or ends
// meanwhile may be missed. The *Conn is reused for the next one.
func (d *Director) Connections(ctx context.Context, yield func(*Conn) error) error {
	l, err := d.newLister(ctx, yield)
	if err != nil {
		return err
	}
	for i := range d.tables.Conns4 {
		if err := l.slot4(i); err != nil {
			return err
		}
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for i := range d.tables.Conns6 {
		if err := l.slot6(i); err != nil {
			return err
		}
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return l.overflow()
}

// lister turns slots into connections. It has what it needs of the owner's
// state, and reads the tables beside the packets.
type lister struct {
	d       *Director
	yield   func(*Conn) error
	now     uint32
	names   map[uint32]string // of services, by id
	timeout map[uint8]time.Duration
	conn    Conn
}

func (d *Director) newLister(ctx context.Context, yield func(*Conn) error) (*lister, error) {
	now, err := d.clock.Now()
	if err != nil {
		return nil, err
	}
	l := &lister{d: d, yield: yield, now: now, names: map[uint32]string{}}
	return l, d.do(ctx, func() {
		l.timeout = d.timeouts.byState()
		for _, s := range d.services {
			l.names[s.id] = s.want.Name
		}
	})
}

func (l *lister) slot4(i int) error {
	c, ok := bpf.ReadConn4(&l.d.tables.Conns4[i])
	if !ok {
		return nil
	}
	var src, dst [4]byte
	binary.NativeEndian.PutUint32(src[:], c.Saddr)
	binary.NativeEndian.PutUint32(dst[:], c.Daddr)
	return l.emit(&c.C, netip.AddrFrom4(src), netip.AddrFrom4(dst))
}

func (l *lister) slot6(i int) error {
	c, ok := bpf.ReadConn6(&l.d.tables.Conns6[i])
	if !ok {
		return nil
	}
	return l.emit(&c.C, netip.AddrFrom16(c.Saddr), netip.AddrFrom16(c.Daddr))
}

func (l *lister) overflow() (err error) {
	e := l.d.plane.Overflow(func(key *bpf.ConnKey, c *bpf.Conn) bool {
		err = l.emit(c, netip.AddrFrom16(key.Saddr).Unmap(), netip.AddrFrom16(key.Daddr).Unmap())
		return err == nil
	})
	if err != nil {
		return err
	}
	return e
}

// emit gives out a connection whose time is not over.
func (l *lister) emit(c *bpf.Conn, src, dst netip.Addr) error {
	state := bpf.ConnState(c)
	expires := l.timeout[state] - l.d.clock.Duration(int32(l.now-c.LastUse))
	if expires < 0 || int(c.Real) >= len(l.d.tables.Reals) {
		return nil
	}
	row := &l.d.tables.Reals[c.Real]
	client, virtual := bits.ReverseBytes16(uint16(c.Ports)), bits.ReverseBytes16(uint16(c.Ports>>16))
	port := bits.ReverseBytes16(row.Port)
	if port == 0 {
		port = virtual
	}
	l.conn = Conn{
		Protocol: Protocol(bpf.ConnProtocol(c)),
		Client:   netip.AddrPortFrom(src, client),
		Virtual:  netip.AddrPortFrom(dst, virtual),
		Real:     netip.AddrPortFrom(netip.AddrFrom16(row.Addr).Unmap(), port),
		State:    stateNames[state],
		Expires:  expires,
		Packets:  c.Packets,
		Service:  l.names[row.Service],
	}
	return l.yield(&l.conn)
}
