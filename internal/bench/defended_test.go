// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"os"
	"regexp"
	"testing"
	"time"

	"xdplvs/bpf"
)

// What a SYN cookie costs is measured by SYNs that get one, each of them.
func TestCookieFigure(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	opts := Options{Rounds: 1, Loads: 1, Slice: time.Millisecond, Only: regexp.MustCompile("^syncookie_over_raw_ns$"), Log: t.Logf}
	s := opts.chosen()[0]
	p, err := s.plane()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	const packets = 1000
	if _, err := p.fresh(s.baseline, s.base(), packets); err != nil {
		t.Error(err)
	}
	if _, err := p.fresh(bpf.TargetDirector, s, packets); err != nil {
		t.Error(err)
	}
	if v, err := p.data.Verdicts(); err != nil || v["tx_cookie"] < packets || p.placed() > 0 {
		t.Errorf("verdicts %v, %v, %d entries stored", v, err, p.placed())
	}
}

// A list that denies the client, and whatever else is asked, does not concern its connection.
func TestDefendedFigure(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p, err := newPlane(1<<10, 1<<10, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	s := byDefense("dr4_established_defended_over_dr4_ns", scenario{dst: vip4, flags: tcpACK, flows: bpf.Flows{Count: 1}, fill: true})
	if err := s.begin(p); err != nil {
		t.Fatal(err)
	}
	if _, err := p.fresh(s.baseline, s, 10); err != nil {
		t.Error(err)
	}
	s.flags = tcpSYN
	s.flows.Count, s.flows.Counting = 1<<8, true
	if _, _, err := p.targets[s.baseline].Run(s.frame(p), s.flows, 10); err != nil {
		t.Error(err)
	}
	if v, err := p.data.Verdicts(); err != nil || v["drop_denied"] == 0 || v["tx_forward"] < 10 {
		t.Errorf("verdicts %v, %v", v, err)
	}
	if err := p.defend(false); err != nil || p.data.Tables.Settings.Defending != 0 {
		t.Errorf("%v, defending %d", err, p.data.Tables.Settings.Defending)
	}
}
