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
	return d.list(ctx, false, yield)
}

// Templates calls yield for every template that persistence has made, as
// Connections does for connections.
func (d *Director) Templates(ctx context.Context, yield func(*Conn) error) error {
	return d.list(ctx, true, yield)
}

func (d *Director) list(ctx context.Context, templates bool, yield func(*Conn) error) error {
	l, err := d.newLister(ctx, templates)
	if err != nil {
		return err
	}
	return l.each(ctx, yield)
}

// DeleteTemplates lets persistence forget the clients whose templates match, and
// returns how many those were. Their connections go on.
func (d *Director) DeleteTemplates(ctx context.Context, match func(*Conn) bool) (deleted uint64, err error) {
	return d.delete(ctx, true, match)
}

// DeleteConnections ends the connections that match and returns how many those
// were: the next packet of one is that of an unknown connection. It stops at the
// first error. Match must not keep the *Conn. A connection that changes hands
// or ends by itself in the same moment is not counted.
func (d *Director) DeleteConnections(ctx context.Context, match func(*Conn) bool) (deleted uint64, err error) {
	return d.delete(ctx, false, match)
}

func (d *Director) delete(ctx context.Context, templates bool, match func(*Conn) bool) (deleted uint64, err error) {
	l, err := d.newLister(ctx, templates)
	if err != nil {
		return 0, err
	}
	var outside []bpf.ConnKey // not while the map is listed: it would be listed again
	err = l.each(ctx, func(c *Conn) error {
		switch {
		case !match(c):
		case l.key != nil:
			outside = append(outside, *l.key)
		case l.free():
			deleted++
		}
		return nil
	})
	for i := range outside {
		if err == nil {
			err = d.plane.FreeOverflow(&outside[i])
		}
		if err == nil {
			deleted++
		}
	}
	return deleted, err
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
	timeout Timeouts
	conn    Conn

	templates bool // it is those that are listed

	// Where the connection that is yielded lies.
	index int      // of its slot
	in6   bool     // which is in the table of IPv6
	seen  bpf.Conn // what was read there
	// callID is that of a SIP call's template.
	callID string
	key    *bpf.ConnKey // not nil: it lies outside the tables
}

// listed is what a listing tells of a real server.
type listed struct {
	generation     uint32
	key            RealKey
	service        string
	name           string
	toPort, ifPort uint16 // what a virtual port becomes, if it is this one; 0: it stays, whichever it is
	mark           uint32
}

func (d *Director) newLister(ctx context.Context, templates bool) (*lister, error) {
	now, err := d.clock.Now()
	if err != nil {
		return nil, err
	}
	var l *lister
	err = d.do(ctx, func() { l = d.lister(now) })
	if l != nil {
		l.templates = templates
	}
	return l, err
}

// lister is called by the owner.
func (d *Director) lister(now uint32) *lister {
	l := &lister{tables: d.tables, plane: d.plane, clock: d.clock, now: now,
		timeout: d.timeouts, reals: make(map[uint32]listed, d.realIDs.n)}
	for service, r := range d.everyReal() {
		mark := bits.ReverseBytes32(d.tables.Services[r.row.Service].Mark)
		l.reals[r.id] = listed{r.holding(), r.want.Key, service, r.want.Name, bits.ReverseBytes16(r.row.ToPort), bits.ReverseBytes16(r.row.IfPort), mark}
	}
	return l
}

// each calls yield for every connection until it fails or ctx ends.
func (l *lister) each(ctx context.Context, yield func(*Conn) error) error {
	if err := l.inTables(ctx, yield); err != nil {
		return err
	}
	return l.overflow()
}

func (l *lister) inTables(ctx context.Context, yield func(*Conn) error) error {
	l.yield = yield
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
	return nil
}

func (l *lister) slot4(i int) error {
	c, ok := bpf.ReadConn4(&l.tables.Conns4[i])
	if !ok {
		return nil
	}
	var src, dst [4]byte
	binary.NativeEndian.PutUint32(src[:], c.Saddr)
	binary.NativeEndian.PutUint32(dst[:], c.Daddr)
	l.index, l.in6, l.callID = i, false, ""
	return l.emit(&c.C, netip.AddrFrom4(src), netip.AddrFrom4(dst))
}

func (l *lister) slot6(i int) error {
	c, ok := bpf.ReadConn6(&l.tables.Conns6[i])
	if !ok {
		return nil
	}
	l.index, l.in6, l.callID = i, true, ""
	client, id, cut, call := bpf.TemplateCall(&c)
	if !call {
		return l.emit(&c.C, netip.AddrFrom16(c.Saddr), netip.AddrFrom16(c.Daddr))
	}
	l.callID = callText(id, cut)
	return l.emit(&c.C, netip.AddrFrom16(client).Unmap(), netip.AddrFrom16(c.Daddr).Unmap())
}

// callText is a Call-ID in UTF-8: beyond ASCII its bytes are taken for Latin 1's letters, as IPVS takes them.
func callText(id []byte, cut bool) string {
	text := make([]rune, len(id), len(id)+1)
	for i, b := range id {
		text[i] = rune(b)
	}
	if cut {
		text = append(text, '…')
	}
	return string(text)
}

func (l *lister) overflow() (err error) {
	e := l.plane.Overflow(func(key *bpf.ConnKey, c *bpf.Conn) bool {
		l.key = key
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
	if bpf.IsTemplate(c) != l.templates {
		return nil
	}
	r, ok := l.reals[c.Real]
	expires := l.lives(c) - l.clock.Duration(int32(l.now-c.LastUse))
	if expires < 0 || !ok || r.generation != c.Generation {
		return nil
	}
	client, virtual := bits.ReverseBytes16(uint16(c.Ports)), bits.ReverseBytes16(uint16(c.Ports>>16))
	l.conn = Conn{
		Protocol: Protocol(bpf.ConnProtocol(c)),
		Client:   netip.AddrPortFrom(src, client),
		Virtual:  netip.AddrPortFrom(dst, virtual),
		Real:     netip.AddrPortFrom(r.key.Addr, r.port(virtual)),
		State:    stateNames[bpf.ConnState(c)%uint8(stateNumbers)],
		Expires:  expires,
		Service:  r.service,
		Local:    l.local(c),
	}
	if l.templates {
		l.template(c, &r)
	}
	l.seen = *c
	return l.yield(&l.conn)
}

// lives is how long an entry lives after its last packet.
func (l *lister) lives(c *bpf.Conn) time.Duration {
	if l.templates {
		return time.Duration(bpf.TemplateSeconds(c)) * time.Second
	}
	return l.timeout[bpf.ConnState(c)%uint8(stateNumbers)]
}

// template puts in what a template has instead of a connection's own.
func (l *lister) template(c *bpf.Conn, r *listed) {
	t := &l.conn
	t.Protocol = Protocol(bpf.TemplateProtocol(c))
	t.Controls = bpf.TemplateControls(c)
	t.CallID = l.callID
	t.State = "NONE"
	if bpf.TemplateAssured(c) {
		t.State = "ASSURED"
	}
	if t.Virtual.Port() == 0 {
		t.Real = netip.AddrPortFrom(t.Real.Addr(), 0) // of every port
	}
	if t.Protocol == 0 {
		t.Mark = r.mark
	}
}

// port is the one that a connection to a virtual port has at the real server.
func (r *listed) port(virtual uint16) uint16 {
	if r.toPort == 0 || r.ifPort != 0 && r.ifPort != virtual {
		return virtual
	}
	return r.toPort
}

// local is the connection's local end, if it is by full-NAT.
func (l *lister) local(c *bpf.Conn) netip.AddrPort {
	if c.Source == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom16(l.tables.Sources[c.Source].Addr).Unmap(), bits.ReverseBytes16(c.Port))
}

// freeTries is how often a connection is taken out that changes its state meanwhile.
const freeTries = 8

// free takes out the connection that is yielded, which lies in a table; false if
// it has ended meanwhile.
func (l *lister) free() bool {
	for range freeTries {
		if l.freeSeen() {
			return true
		}
		if !l.readAgain() {
			return false
		}
	}
	return false
}

func (l *lister) freeSeen() bool {
	if l.in6 {
		return l.tables.Free6(l.index, &l.seen)
	}
	return l.tables.Free4(l.index, &l.seen)
}

// readAgain reports whether the slot holds the same connection still.
func (l *lister) readAgain() bool {
	var ok bool
	tag := l.seen.Tag
	if l.in6 {
		var c bpf.Conn6
		c, ok = bpf.ReadConn6(&l.tables.Conns6[l.index])
		l.seen = c.C
	} else {
		var c bpf.Conn4
		c, ok = bpf.ReadConn4(&l.tables.Conns4[l.index])
		l.seen = c.C
	}
	return ok && l.seen.Tag == tag
}
