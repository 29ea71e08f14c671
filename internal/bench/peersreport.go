// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Comparison is a run of all peers, on one machine.
type Comparison struct {
	Machine string       `json:"machine"`
	Counted bool         `json:"counted"` // the clock counts instructions: each is no time
	Figures []PeerFigure `json:"figures"`
}

// Compare measures all peers here.
func Compare(opts PeerOptions, counted bool) (*Comparison, error) {
	figures, err := Peers(opts)
	return &Comparison{machine(), counted, figures}, err
}

func (c *Comparison) figure(key string) PeerFigure {
	for _, f := range c.Figures {
		if f.Key == key {
			return f
		}
	}
	return PeerFigure{Key: key, Skipped: "not measured"}
}

// Bound is how many times the director's packets of a peer's it must reach.
type Bound struct {
	Ours  string  `json:"ours"`
	Peer  string  `json:"peer"`
	Ratio float64 `json:"ratio"`
	Bound float64 `json:"bound"`
}

// ipvsBounds are promised against Linux IPVS on the same machine.
var ipvsBounds = []Bound{
	{Ours: "director_dr", Peer: "ipvs_dr", Bound: 4.5},
	{Ours: "director_nat", Peer: "ipvs_nat", Bound: 4.5},
	{Ours: "director_dr_new", Peer: "ipvs_dr_new", Bound: 3.5},
	{Ours: "director_nat_new", Peer: "ipvs_nat_new", Bound: 3.5},
}

// Bounds are those whose figures were both measured.
func (c *Comparison) Bounds() (bounds []Bound) {
	for _, b := range ipvsBounds {
		ours, peer := c.figure(b.Ours), c.figure(b.Peer)
		if ours.Mpps > 0 && peer.Mpps > 0 {
			b.Ratio = ours.Mpps / peer.Mpps
			bounds = append(bounds, b)
		}
	}
	return bounds
}

func (c *Comparison) unit() string {
	if c.Counted {
		return "instructions"
	}
	return "ns"
}

// Markdown is a table of the figures, and one of the bounds.
func (c *Comparison) Markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n\n| way | %s a packet | more than the raw bounce | packets by those of the raw bounce |\n|---|---|---|---|\n", c.Machine, c.unit())
	raw := c.figure("raw")
	for _, f := range c.Figures {
		if f.Skipped != "" {
			fmt.Fprintf(&s, "| %s | skipped: %s | | |\n", f.What, strings.ReplaceAll(f.Skipped, "\n", " "))
			continue
		}
		fmt.Fprintf(&s, "| %s | %.0f | %.0f | %.2f |\n", f.What, f.Each, f.Each-raw.Each, f.Mpps/raw.Mpps)
	}
	if bounds := c.Bounds(); len(bounds) > 0 {
		s.WriteString("\n| director | by Linux IPVS | times its packets | bound |\n|---|---|---|---|\n")
		for _, b := range bounds {
			fmt.Fprintf(&s, "| %s | %s | %.2f | %s%g |\n", b.Ours, b.Peer, b.Ratio, verdict(b.Ratio >= b.Bound, b.Bound), b.Bound)
		}
	}
	return s.String()
}

// SVG draws the figures.
func (c *Comparison) SVG() string {
	var bars []Bar
	for _, f := range c.Figures {
		if f.Skipped == "" {
			bars = append(bars, Bar{f.What, f.Each, strings.HasPrefix(f.Key, "director")})
		}
	}
	return BarsSVG("A packet's cost, generator and wire included ("+c.unit()+")", "", bars)
}

// PeersReport is everything that make bench-peers measured.
type PeersReport struct {
	Date        string        `json:"date"`
	Comparisons []*Comparison `json:"comparisons"`
	Proxied     *Proxied      `json:"connections,omitempty"`
	Skipped     []string      `json:"skipped,omitempty"`
}

// NewPeersReport is one of today.
func NewPeersReport() *PeersReport {
	return &PeersReport{Date: time.Now().UTC().Format(time.DateOnly)}
}

// Markdown is the whole report.
func (r *PeersReport) Markdown() string {
	var parts []string
	for _, c := range r.Comparisons {
		parts = append(parts, c.Markdown())
	}
	if r.Proxied != nil {
		parts = append(parts, r.Proxied.Markdown())
	}
	for _, s := range r.Skipped {
		parts = append(parts, "Skipped: "+s+"\n")
	}
	return strings.Join(parts, "\n")
}

// WriteAll writes JSON, Markdown and plots into a folder.
func (r *PeersReport) WriteAll(dir string) error {
	files := map[string]string{"peers.md": r.Markdown()}
	for _, c := range r.Comparisons {
		files["peers-"+c.unit()+".svg"] = c.SVG()
	}
	if r.Proxied != nil {
		files["peers-connections.svg"] = r.Proxied.SVG()
	}
	return writeReport(dir, "peers.json", r, files)
}

// writeReport writes figures as JSON, and the files that are made of them.
func writeReport(dir, name string, figures any, files map[string]string) error {
	if err := WriteJSON(filepath.Join(dir, name), figures); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}
