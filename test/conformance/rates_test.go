// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"xdplvs/internal/packet"
)

// rates replays the estimator's recording: 500 connections of one datagram of
// 100 bytes and a reply of 200, then silence. The averages that show, one after
// the other, have to be the recorded ones. (Totals here are never late.)
func (l *life) rates(st step) error {
	var readings []struct {
		Shown []string `json:"rate_and_totals"`
	}
	if json.Unmarshal(st.Vals, &readings) != nil {
		return nil // after ipvsadm -Z, which is not replayed
	}
	var want []string
	for _, r := range readings {
		want = append(want, strings.TrimPrefix(r.Shown[0], "-> 10.2.0.11:80 "))
	}
	want = slices.Compact(want)
	for i := range 500 {
		if err := l.exchange(netip.AddrPortFrom(netip.MustParseAddr("172.24.0.1"), uint16(10000+i))); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	got := []string{"0 0 0 0 0"} // before the first tick
	for range 400 {
		time.Sleep(200 * time.Millisecond)
		r := l.snapshot().Services[0].Reals[0]
		got = append(got, fmt.Sprintf("%d %d %d %d %d", r.Rates.CPS, r.Rates.InPPS, r.Rates.OutPPS, r.Rates.InBPS, r.Rates.OutBPS))
		if c := r.Counters; c.Conns != 500 || c.InPkts != 500 || c.OutPkts != 500 || c.InBytes != 50000 || c.OutBytes != 100000 {
			return fmt.Errorf("totals %+v", c)
		}
	}
	if got = slices.Compact(got); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		return fmt.Errorf("rates %q, want %q", got, want)
	}
	return nil
}

// exchange is a datagram of 100 bytes and its answer of 200.
func (l *life) exchange(client netip.AddrPort) error {
	server := l.Dests[0].Addr
	for _, m := range []struct {
		from, to netip.AddrPort
		size     int
	}{{client, l.VIP, 100}, {server, client, 200}} {
		frame := packet.Build(packet.Ethernet{Dst: directorMAC, Src: clientMAC},
			packet.IPv4{Src: m.from.Addr(), Dst: m.to.Addr()},
			packet.UDP{SrcPort: m.from.Port(), DstPort: m.to.Port()}, packet.Data(make([]byte, m.size-28)))
		if r, err := l.plane.Run(frame, l.loopback); err != nil || r.Action != xdpTx {
			return fmt.Errorf("from %s: XDP action %d, %w", m.from, r.Action, err)
		}
	}
	return nil
}
