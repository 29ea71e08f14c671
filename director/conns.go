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
	for i := range l.tables.Conns4 {
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := l.slot4(i); err != nil {
			return err
		}
	}
	for i := range l.tables.Conns6 {
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := l.slot6(i); err != nil {
			return err
		}
	}
	return l.overflow()
}

// lister turns slots into connections. It has what it needs of the owner's
// state, and reads the tables of connections beside the packets.
type lister struct {
	tables  *bpf.Tables
	plane   Plane
	clock   Clock
	yield   func(*Conn) error
	now     uint32
	reals   map[uint32]listed // by id
	timeout map[uint8]time.Duration
	conn    Conn
}

// listed is what a listing tells of a real server.
type listed struct {
	generation uint32
	key        RealKey
	service    string
}

func (d *Director) newLister(ctx context.Context, yield func(*Conn) error) (*lister, error) {
	now, err := d.clock.Now()
	if err != nil {
		return nil, err
	}
	var l *lister
	err = d.do(ctx, func() { l = d.lister(yield, now) })
	return l, err
}

// lister is called by the owner.
func (d *Director) lister(yield func(*Conn) error, now uint32) *lister {
	l := &lister{tables: d.tables, plane: d.plane, clock: d.clock, yield: yield, now: now,
		timeout: d.timeouts.byState(), reals: make(map[uint32]listed, d.realIDs.n)}
	for service, r := range d.everyReal() {
		l.reals[r.id] = listed{r.row.Generation, r.want.Key, service}
	}
	return l
}

func (l *lister) slot4(i int) error {
	c, ok := bpf.ReadConn4(&l.tables.Conns4[i])
	if !ok {
		return nil
	}
	var src, dst [4]byte
	binary.NativeEndian.PutUint32(src[:], c.Saddr)
	binary.NativeEndian.PutUint32(dst[:], c.Daddr)
	return l.emit(&c.C, netip.AddrFrom4(src), netip.AddrFrom4(dst))
}

func (l *lister) slot6(i int) error {
	c, ok := bpf.ReadConn6(&l.tables.Conns6[i])
	if !ok {
		return nil
	}
	return l.emit(&c.C, netip.AddrFrom16(c.Saddr), netip.AddrFrom16(c.Daddr))
}

func (l *lister) overflow() (err error) {
	e := l.plane.Overflow(func(key *bpf.ConnKey, c *bpf.Conn) bool {
		err = l.emit(c, netip.AddrFrom16(key.Saddr).Unmap(), netip.AddrFrom16(key.Daddr).Unmap())
		return err == nil
	})
	if err != nil {
		return err
	}
	return e
}

// emit gives out a connection whose time is not over, and whose real server is
// the one that it was made for.
func (l *lister) emit(c *bpf.Conn, src, dst netip.Addr) error {
	state := bpf.ConnState(c)
	expires := l.timeout[state] - l.clock.Duration(int32(l.now-c.LastUse))
	r, ok := l.reals[c.Real]
	if expires < 0 || !ok || r.generation != c.Generation {
		return nil
	}
	client, virtual := bits.ReverseBytes16(uint16(c.Ports)), bits.ReverseBytes16(uint16(c.Ports>>16))
	port := r.key.Port
	if port == 0 {
		port = virtual
	}
	l.conn = Conn{
		Protocol: Protocol(bpf.ConnProtocol(c)),
		Client:   netip.AddrPortFrom(src, client),
		Virtual:  netip.AddrPortFrom(dst, virtual),
		Real:     netip.AddrPortFrom(r.key.Addr, port),
		State:    stateNames[state],
		Expires:  expires,
		Packets:  c.Packets,
		Service:  r.service,
	}
	return l.yield(&l.conn)
}
