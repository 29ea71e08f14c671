// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
)

// The parts of a template's link, see enum link in abi.h.
const (
	templateField    = uint64(directorLinkTEMPLATE_FIELD)
	templateControls = uint(directorLinkTEMPLATE_CONTROLS)
	templateVersion  = uint(directorLinkTEMPLATE_VERSION)
	templateHeld     = uint64(directorLinkTEMPLATE_HELD)
)

// MaxPersistence is the longest timeout of a template, in seconds.
const MaxPersistence = uint32(directorLinkTEMPLATE_FIELD)

// TemplateProtocol is the protocol that a template is for; 0: every one.
func TemplateProtocol(c *Conn) uint8 { return ConnProtocol(c) &^ (templateProtocol | templateCall) }

// templateProtocol and templateCall are TEMPLATE_PROTOCOL and TEMPLATE_CALL of persist.h.
const (
	templateProtocol = 0x40
	templateCall     = 0x20
)

// TemplateCall reports whether a template is that of a SIP call, and returns the
// client that it is for, IPv4 mapped, and its Call-ID; cut: as far as that is kept.
func TemplateCall(c *Conn6) (client [16]byte, id []byte, cut, ok bool) {
	if ok = IsTemplate(&c.C) && ConnProtocol(&c.C)&templateCall != 0; !ok {
		return client, nil, false, false
	}
	client = c.Saddr
	low := binary.NativeEndian.Uint64(client[8:])
	binary.NativeEndian.PutUint64(client[8:], low^c.More)
	last := len(c.Text) - 1
	id, _, _ = bytes.Cut(c.Text[:last], []byte{0})
	return client, id, c.Text[last] != 0, true
}

// TemplateSeconds is a template's timeout.
func TemplateSeconds(c *Conn) uint32 { return uint32(c.Link & templateField) }

// TemplateControls is how many connections a template controls.
func TemplateControls(c *Conn) uint32 { return uint32(c.Link >> templateControls & templateField) }

// TemplateAssured reports whether one of those was established.
func TemplateAssured(c *Conn) bool { return ConnState(c) == uint8(directorConnStateTEMPLATE_ASSURED) }

// templateIdle is for how many jiffies a template's time has been over; it may be negative.
func (t *Tables) templateIdle(c *Conn, now uint32) int64 {
	limit := int64(atomic.LoadUint64(&c.Link)&templateField) * int64(atomic.LoadUint32(&t.Settings.Hz))
	return int64(int32(now-atomic.LoadUint32(&c.LastUse))) - limit
}

// template finds the template that a connection's link leads to; nil if it is gone.
func (t *Tables) template(link uint64) *Conn {
	if link>>uint(directorLinkLINK_V6)&1 != 0 {
		return t.table6().linked(link)
	}
	return t.table4().linked(link)
}

// uncontrol tells a template that a connection of its own has ended: template_controls of conn.h.
func (t *Tables) uncontrol(link uint64) {
	c := t.template(link)
	if c == nil {
		return
	}
	for {
		old := atomic.LoadUint64(&c.Link)
		if old>>templateVersion != link>>uint(directorLinkLINK_VERSION)&0xffff || old>>templateControls&templateField == 0 {
			return
		}
		if atomic.CompareAndSwapUint64(&c.Link, old, old-1<<templateControls) {
			return
		}
	}
}

// FreeTemplateOf takes out the template of a connection that is gone, as far as it was read, unless it is assured or controls others.
func (t *Tables) FreeTemplateOf(c *Conn) bool {
	if c.Word&connControlled == 0 {
		return false
	}
	b := t.table4()
	if c.Link>>uint(directorLinkLINK_V6)&1 != 0 {
		b = t.table6()
	}
	template, tag := b.target(c.Link)
	if template == nil || tag&tagMask != tagUsed {
		return false
	}
	word := atomic.LoadUint32(&template.Word)
	return !TemplateAssured(&Conn{Word: word}) && controls(template) == 0 && b.free(int(uint32(c.Link))-1, tag, word)
}

// template looks at a template in slot i. One whose time is over goes, unless it
// controls connections.
func (s *Sweep) template(i int, tag uint64, word, now uint32) (freed bool) {
	c := s.table.slot(i)
	if s.table.t.templateIdle(c, now) > 0 {
		if controls(c) == 0 {
			return s.table.free(i, tag, word)
		}
		s.fired.add(c)
	}
	if real := int(c.Real); real < len(s.tally.templates) {
		s.tally.templates[real]++
	}
	return false
}

func controls(c *Conn) uint64 { return atomic.LoadUint64(&c.Link) >> templateControls & templateField }

// firedTemplates are those whose time is over while they control connections. When
// the pass is over, so that connections that are over too are gone, those that
// still control some live another minute, as with IPVS. In the next pass those
// connections are looked for: a process that was killed between ending one and
// telling its template leaves one counted for ever.
type firedTemplates struct {
	t        *Tables
	now      map[*Conn]uint32 // fired in this pass, and their last use then
	suspects map[*Conn]uint32 // held since the last pass, likewise; not yet found to control any
}

func (f *firedTemplates) add(c *Conn) {
	if f.now == nil {
		f.now = map[*Conn]uint32{}
	}
	f.now[c] = atomic.LoadUint32(&c.LastUse)
}

// found notes that there is a connection of a template.
func (f *firedTemplates) found(c *Conn) {
	if len(f.suspects) > 0 {
		delete(f.suspects, f.t.template(atomic.LoadUint64(&c.Link)))
	}
}

// pass ends a pass over all tables. A template that got a connection since is left alone.
func (f *firedTemplates) pass() {
	for c, when := range f.suspects {
		link := atomic.LoadUint64(&c.Link)
		if atomic.LoadUint32(&c.LastUse) == when {
			atomic.CompareAndSwapUint64(&c.Link, link, link&^(templateField<<templateControls))
		}
	}
	f.suspects = f.now
	f.now = nil
	for c, when := range f.suspects {
		if controls(c) == 0 || !f.hold(c, when) {
			delete(f.suspects, c)
		}
	}
}

// hold lets a template live for a minute more from when it fired.
func (f *firedTemplates) hold(c *Conn, used uint32) bool {
	link := atomic.LoadUint64(&c.Link)
	fired := used + uint32(link&templateField)*atomic.LoadUint32(&f.t.Settings.Hz)
	if atomic.LoadUint32(&c.LastUse) != used || !IsTemplate(c) ||
		!atomic.CompareAndSwapUint64(&c.Link, link, link&^templateField|templateHeld) {
		return false
	}
	atomic.CompareAndSwapUint32(&c.LastUse, used, fired)
	f.suspects[c] = fired
	return true
}
