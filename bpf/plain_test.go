// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"
	"time"
)

// TestWrittenRarely: a connection that is in use stays alive, but most of its
// packets leave its entry as it is.
func TestWrittenRarely(t *testing.T) {
	for _, f := range families {
		for name, c := range map[string]struct {
			send    send
			port    uint16
			proto   uint8
			timeout time.Duration
			state   string
		}{
			"TCP":           {tcp(ack), webPort, tcpProto, 900 * time.Second, "ESTABLISHED"},
			"UDP":           {udp(dataOf(64)), dnsPort, udpProto, 300 * time.Second, "UDP"},
			"short timeout": {udp(dataOf(64)), dnsPort, udpProto, time.Second, "UDP"},
		} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				r := smallRig(t, f)
				r.Settings.Timeout[stateNumber(c.state)] = r.clock.Jiffies(c.timeout)
				r.send(t, tcp(syn)(f))
				key := flow{f.client, f.vip, clientPort, c.port, c.proto}
				for range PacketsCounted + 1 {
					r.send(t, c.send(f))
				}
				written := r.find(key).conn
				if int(written.Packets) != PacketsCounted {
					t.Errorf("%d packets are counted", written.Packets)
				}
				stale := min(r.clock.Jiffies(c.timeout)/16, 256)
				r.age(key, stale/2)
				r.send(t, c.send(f))
				if got := r.find(key).conn; got.LastUse != written.LastUse-stale/2 {
					t.Errorf("%d jiffies later it is written, with %d more packets", stale/2, got.Packets-written.Packets)
				}
				r.age(key, stale)
				before := r.now()
				r.send(t, c.send(f))
				if got := r.find(key).conn; int32(got.LastUse-before) < 0 {
					t.Errorf("the time of last use is %d jiffies old", before-got.LastUse)
				}
				for range 40 { // alive for ever by a packet in every nine tenths of its time
					r.age(key, r.clock.Jiffies(c.timeout)*9/10)
					mustVerdict(t, "a packet in time", r.send(t, c.send(f)), "tx_forward")
				}
				r.check(t)
			})
		}
	}
}

// age lets a connection's last use be so many jiffies longer ago.
func (r *rig) age(key flow, jiffies uint32) {
	e := r.find(key)
	e.conn.LastUse -= jiffies
	e.store()
}
