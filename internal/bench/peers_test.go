// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/xml"
	"os"
	"strings"
	"testing"
	"time"
)

// Every way that this machine has brings packets back, and the others say what is missing.
func TestPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c, err := Compare(PeerOptions{Rounds: 1, Packets: 2000, Warm: 100}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Figures {
		if (f.Mpps > 0) == (f.Skipped != "") {
			t.Errorf("%s: %g million packets a second, skipped: %q", f.Key, f.Mpps, f.Skipped)
		}
		if ours := strings.HasPrefix(f.Key, "director"); ours && f.Skipped != "" {
			t.Errorf("%s is skipped: %s", f.Key, f.Skipped)
		}
	}
}

// Connections go through the director, and through whatever else there is.
func TestCompareConnections(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p, err := CompareConnections(ProxiedOptions{Rounds: 1, Each: 50 * time.Millisecond, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Ways {
		if (f.PerSec > 0 && f.Gbps > 0) == (f.Skipped != "") {
			t.Errorf("%+v", f)
		}
		if (f.Key == "forward" || f.Key == "director_nat") && f.Skipped != "" {
			t.Errorf("%s is skipped: %s", f.Key, f.Skipped)
		}
	}
}

// A report says what was skipped, and whether a bound is kept.
func TestComparisonReport(t *testing.T) {
	c := &Comparison{Machine: "m", Counted: true, Figures: []PeerFigure{
		{Key: "raw", What: "raw bounce", Mpps: 1, Each: 1000},
		{Key: "director_dr", What: "director <dr>", Mpps: 0.8, Each: 1250},
		{Key: "director_dr_new", What: "director new", Mpps: 0.5, Each: 2000},
		{Key: "ipvs_dr", What: "IPVS", Mpps: 0.1, Each: 10000},
		{Key: "ipvs_dr_new", What: "IPVS new", Mpps: 0.25, Each: 4000},
		{Key: "nft_jhash", What: "nftables", Skipped: "nft is not installed"},
	}}
	text := c.Markdown()
	for _, want := range []string{
		"| way | instructions a packet |",
		"| director <dr> | 1250 | 250 | 0.80 |",
		"| nftables | skipped: nft is not installed | | |",
		"| director_dr | ipvs_dr | 8.00 | ok    4.5 |",
		"| director_dr_new | ipvs_dr_new | 2.00 | OVER  3.5 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "director_nat |") {
		t.Errorf("a bound of figures that were not measured is in\n%s", text)
	}
	for name, svg := range map[string]string{
		"bars":   c.SVG(),
		"curves": CurvesSVG("a & b", "flows", "ns", []Curve{{"<dr>", [][2]float64{{1, 20}, {1 << 20, 200}}}}),
	} {
		var root struct{ XMLName xml.Name }
		if err := xml.Unmarshal([]byte(svg), &root); err != nil || root.XMLName.Local != "svg" {
			t.Errorf("%s are no SVG: %v\n%s", name, err, svg)
		}
	}
}
