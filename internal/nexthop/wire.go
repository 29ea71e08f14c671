// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"sync"

	"xdplvs/internal/arpnd"
)

// A wire is the port on a real interface: a packet socket.
type wire struct {
	socket *arpnd.Socket
	link   link
	heard  func(sighting) // gets what is read, from the reader's goroutine
	reader sync.WaitGroup
}

func (t *tables) listen(l link, v6 bool, into *inbox) (port, error) {
	w, err := t.openWire(l, v6, func(s sighting) { into.put(func(n *news) { n.addSighting(s) }) })
	if err != nil { // not a nil wire in a port
		return nil, err
	}
	return w, nil
}

// openWire opens a socket whose reader tells heard what it reads, until close.
func (t *tables) openWire(l link, v6 bool, heard func(sighting)) (*wire, error) {
	w := &wire{link: l, heard: heard}
	traffic := arpnd.ARP
	if v6 {
		traffic = arpnd.Advertisements
	}
	if err := t.ns.do(func() (err error) {
		w.socket, err = arpnd.Open(l.index, traffic)
		return err
	}); err != nil {
		return nil, err
	}
	w.reader.Go(func() { w.socket.Follow(w.hear) })
	return w, nil
}

// hear takes what others tell of their addresses.
func (w *wire) hear(frame []byte) {
	h, ok := arpnd.Read(frame)
	if !ok || h.Probe || h.MAC == w.link.mac {
		return
	}
	w.heard(sighting{neighKey{w.link.index, h.Addr}, h.MAC, h.Solicited, h.Override})
}

// ask sends without waiting.
func (w *wire) ask(q question) error {
	frame, err := arpnd.Question{From: q.from, MAC: q.mac, Target: q.target, To: q.to}.Frame()
	if err != nil {
		return err
	}
	return w.socket.Send(frame)
}

func (w *wire) close() {
	w.socket.Close()
	w.reader.Wait()
}
