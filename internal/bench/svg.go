// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Bar is a row of a bar chart.
type Bar struct {
	Label string
	Value float64
	Ours  bool // drawn in another colour
}

const (
	barHeight  = 22
	barLabels  = 300 // pixels for the labels
	barLength  = 420 // of the longest bar
	barNumbers = 90
	plotFont   = `font-family="sans-serif" font-size="12"`
	oursColour = "#1b7837"
	restColour = "#8c96a8"
)

// BarsSVG draws bars, longest possible the largest value.
func BarsSVG(title, unit string, bars []Bar) string {
	most := 0.0
	for _, b := range bars {
		most = max(most, b.Value)
	}
	var s strings.Builder
	svgBegin(&s, barLabels+barLength+barNumbers, barHeight*len(bars)+50, title)
	for i, b := range bars {
		y, length := 36+i*barHeight, barLength*b.Value/max(most, 1e-9)
		colour := restColour
		if b.Ours {
			colour = oursColour
		}
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end">%s</text>`, barLabels-8, y+14, html.EscapeString(b.Label))
		fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, barLabels, y+2, length, barHeight-6, colour)
		fmt.Fprintf(&s, `<text x="%.1f" y="%d">%s %s</text>`+"\n", barLabels+length+6, y+14, number(b.Value), html.EscapeString(unit))
	}
	return s.String() + "</svg>\n"
}

func svgBegin(s *strings.Builder, width, height int, title string) {
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" %s>`+"\n",
		width, height, width, height, plotFont)
	fmt.Fprintf(s, `<rect width="100%%" height="100%%" fill="white"/><text x="10" y="20" font-weight="bold">%s</text>`+"\n",
		html.EscapeString(title))
}

// Curve is a line of a plot.
type Curve struct {
	Name   string
	Points [][2]float64
}

const (
	plotWidth, plotHeight = 640, 360
	plotLeft, plotTop     = 60, 40
	plotRight, plotBottom = 150, 50
)

var curveColours = []string{"#1b7837", "#2166ac", "#b2182b", "#e08214", "#542788"}

// CurvesSVG draws curves over an axis of powers of two.
func CurvesSVG(title, across, up string, curves []Curve) string {
	least, most, top := math.Inf(1), math.Inf(-1), 0.0
	for _, c := range curves {
		for _, p := range c.Points {
			least, most, top = min(least, math.Log2(p[0])), max(most, math.Log2(p[0])), max(top, p[1])
		}
	}
	x := func(v float64) float64 {
		return plotLeft + (plotWidth-plotLeft-plotRight)*(math.Log2(v)-least)/max(most-least, 1e-9)
	}
	y := func(v float64) float64 {
		return plotHeight - plotBottom - (plotHeight-plotTop-plotBottom)*v/max(top, 1e-9)
	}
	var s strings.Builder
	svgBegin(&s, plotWidth, plotHeight, title)
	svgAxes(&s, across, up, least, most, top, x, y)
	for i, c := range curves {
		svgCurve(&s, c, i, x, y)
	}
	return s.String() + "</svg>\n"
}

func svgAxes(s *strings.Builder, across, up string, least, most, top float64, x, y func(float64) float64) {
	fmt.Fprintf(s, `<text x="%d" y="%d">%s</text><text x="%d" y="%d">%s</text>`+"\n",
		plotLeft, plotHeight-8, html.EscapeString(across), 10, plotTop-6, html.EscapeString(up))
	for i := range 5 {
		v := top * float64(i) / 4
		fmt.Fprintf(s, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			plotLeft, plotWidth-plotRight, y(v), y(v), plotLeft-6, y(v)+4, number(v))
	}
	step := max(1, math.Ceil((most-least)/6))
	for e := math.Ceil(least); e <= most; e += step {
		fmt.Fprintf(s, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(math.Exp2(e)), plotHeight-plotBottom+18, power(e))
	}
}

// power is 2^e as people write it.
func power(e float64) string {
	if e < 10 {
		return fmt.Sprintf("%.0f", math.Exp2(e))
	}
	return fmt.Sprintf("2^%.0f", e)
}

func svgCurve(s *strings.Builder, c Curve, i int, x, y func(float64) float64) {
	colour := curveColours[i%len(curveColours)]
	var points []string
	for _, p := range c.Points {
		points = append(points, fmt.Sprintf("%.1f,%.1f", x(p[0]), y(p[1])))
	}
	fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, strings.Join(points, " "), colour)
	fmt.Fprintf(s, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", plotWidth-plotRight+10, plotTop+16*(i+1), colour, html.EscapeString(c.Name))
}
