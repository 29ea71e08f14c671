// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"math/bits"
	"net/netip"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// MarkQuestion is a packet that begins a connection.
type MarkQuestion struct {
	Source, Dest netip.AddrPort
	Protocol     uint8
	Interface    uint32 // index; 0: none that a rule could name
	DSCP         uint8
	Mark         uint32 // of the firewall; 0: none
}

// MarkAnswer is what the data plane makes of it.
type MarkAnswer struct {
	Mark    uint32 // that it has then; 0: none
	Rule    int    // number of the rule, as in NewMarks, that gave it; -1: none
	Service int    // id of the service that takes it; -1: none
}

// ExplainMark asks the program that packets run through, with the tables as they are.
func (d *DataPlane) ExplainMark(q MarkQuestion) (a MarkAnswer, err error) {
	row := directorMarkQuestion{
		Key: ConnKey{
			Saddr: q.Source.Addr().As16(), Daddr: q.Dest.Addr().As16(), Protocol: uint32(q.Protocol),
			Ports: uint32(bits.ReverseBytes16(q.Source.Port())) | uint32(bits.ReverseBytes16(q.Dest.Port()))<<16,
		},
		Ingress: q.Interface, Dscp: uint32(q.DSCP), Mark: bits.ReverseBytes32(q.Mark),
	}
	if _, err := d.objects.Programs[directorProgExplainMark].Run(&ebpf.RunOptions{Context: &row, ContextOut: &row}); err != nil {
		return a, fmt.Errorf("explain mark: %w", err)
	}
	a = MarkAnswer{Mark: bits.ReverseBytes32(row.Mark), Rule: -1, Service: int(row.Service) - 1}
	if row.Rule != uint32(directorLimitNO_RULE) {
		a.Rule = int(d.Tables.MarkRules[row.Rule/uint32(markWays)].Rule[row.Rule%uint32(markWays)].Rule) - 1
	}
	return a, nil
}

// Marked counts the packets of no known connection that each rule has marked since the
// rules were put in force; n is how many rules those are.
func (t *Tables) Marked(n int) []uint64 {
	counts := make([]uint64, n)
	set := &t.Settings.MarkSets[atomic.LoadUint32(&t.Settings.MarkSet)%markSets]
	for b := range t.MarkRules[set.Base:][:len(t.MarkRules)/markSets] {
		for w := range t.MarkRules[int(set.Base)+b].Rule {
			r := &t.MarkRules[int(set.Base)+b].Rule[w]
			if r.Rule != 0 && int(r.Rule) <= n {
				counts[r.Rule-1] += atomic.LoadUint64(&r.Packets)
			}
		}
	}
	return counts
}
