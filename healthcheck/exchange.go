// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"net"
	"time"
)

// resend is after what time a packet that may be lost is sent again: as TCP does it with a SYN.
const resend = time.Second

// accept judges a packet that came back: whether it is the answer that is waited for, and what is wrong
// with it.
type accept func(packet []byte) (done bool, err error)

// exchange sends a packet, again every second, until its answer comes. What accept does not know is
// left aside, as it may be meant for somebody else. A missing answer is one of layer at.
func (p *probe) exchange(conn net.Conn, at layer, what string, request []byte, accept accept) error {
	heard := 0
	for {
		p.enter(layer4, "send "+what+" to "+p.target.Address.String())
		if _, err := conn.Write(request); err != nil {
			return err
		}
		p.enter(at, "answer to "+what)
		done, err := p.listen(conn, &heard, accept)
		if done || err != nil {
			return err
		}
	}
}

// listen waits for an answer, until it is time to send again: then done is false.
func (p *probe) listen(conn net.Conn, heard *int, accept accept) (done bool, err error) {
	again := time.Now().Add(resend)
	if deadline, ok := p.ctx.Deadline(); !ok || again.Before(deadline) {
		conn.SetReadDeadline(again)
	} else {
		conn.SetReadDeadline(deadline)
		again = time.Time{}
	}
	b := make([]byte, maxPacket)
	for *heard < MaxRead {
		n, err := receive(conn, b)
		switch {
		case err != nil && isTimeout(err) && !again.IsZero() && p.ctx.Err() == nil:
			return false, nil
		case err != nil:
			if !isTimeout(err) { // an ICMP error
				_, doing := p.progress()
				p.enter(layer4, doing)
			}
			return false, err
		}
		*heard += n
		if done, err := accept(b[:n]); done || err != nil {
			return true, err
		}
	}
	return false, errTooMuch
}

// maxPacket is the longest packet that is read whole, in bytes.
const maxPacket = 4096

// receive reads a packet without its IPv4 header, which Read would leave there.
func receive(conn net.Conn, b []byte) (int, error) {
	if packets, ok := conn.(net.PacketConn); ok {
		n, _, err := packets.ReadFrom(b)
		return n, err
	}
	return conn.Read(b)
}
