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
	reader sync.WaitGroup
}

func (t *tables) listen(l link, v6 bool, into *inbox) (_ port, err error) {
	w := &wire{link: l}
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
	w.reader.Go(func() { w.socket.Follow(func(frame []byte) { w.hear(frame, into) }) })
	return w, nil
}

// hear takes what others tell of their addresses.
func (w *wire) hear(frame []byte, into *inbox) {
	h, ok := arpnd.Read(frame)
	if !ok || h.Probe || h.MAC == w.link.mac {
		return
	}
	into.put(func(n *news) {
		n.addSighting(sighting{neighKey{w.link.index, h.Addr}, h.MAC, h.Solicited, h.Override})
	})
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
