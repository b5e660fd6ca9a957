package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// scored is one case with its truth.
type scored struct {
	score    float64
	positive bool
}

// point of a curve.
type point struct{ x, y float64 }

// judged is how well a method tells attacks from work.
type judged struct {
	auc, precision float64 // area under ROC, average precision
	roc, pr        []point
	// found is the share of attacks at or above a threshold, by how many cases of work.
	cases []scored
}

// judge makes the curves; equal scores are one step.
func judge(cases []scored) judged {
	slices.SortFunc(cases, func(a, b scored) int {
		switch {
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return 0
	})
	var all, none float64
	for _, c := range cases {
		if c.positive {
			all++
		} else {
			none++
		}
	}
	out := judged{roc: []point{{0, 0}}, cases: cases}
	var hits, alarms float64
	for i := 0; i < len(cases); {
		was, wasAlarms := hits, alarms
		for j := i; i < len(cases) && cases[i].score == cases[j].score; i++ {
			if cases[i].positive {
				hits++
			} else {
				alarms++
			}
		}
		out.auc += (alarms - wasAlarms) / max(none, 1) * (hits + was) / 2 / max(all, 1)
		out.precision += (hits - was) / max(all, 1) * hits / (hits + alarms)
		out.roc = append(out.roc, point{alarms / max(none, 1), hits / max(all, 1)})
		out.pr = append(out.pr, point{hits / max(all, 1), hits / (hits + alarms)})
	}
	return out
}

// recallAt is the share of attacks that a method finds when it may raise so many false alarms.
func (j judged) recallAt(alarms float64) float64 {
	var hits, all, false float64
	for _, c := range j.cases {
		if c.positive {
			all++
		}
	}
	for i := 0; i < len(j.cases); {
		stepHits, stepFalse := 0.0, 0.0
		for k := i; i < len(j.cases) && j.cases[i].score == j.cases[k].score; i++ {
			if j.cases[i].positive {
				stepHits++
			} else {
				stepFalse++
			}
		}
		if false+stepFalse > alarms {
			break
		}
		hits, false = hits+stepHits, false+stepFalse
	}
	return hits / max(all, 1)
}

// series is a curve with its name.
type series struct {
	name   string
	points []point
}

var colours = []string{"#c0392b", "#2471a3", "#239b56", "#b7950b"}

// apart is how far the next point of a line is at least: tens of thousands would be no picture.
const apart = 0.5

// draw writes a picture of curves over the unit square.
func draw(path, title, x, y string, all []series) error {
	const size, edge = 420.0, 56.0
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", size+2*edge, size+2*edge)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%g" y="24" font-size="15">%s</text>`+"\n", edge, title)
	at := func(p point) (float64, float64) { return edge + p.x*size, edge + (1-p.y)*size }
	for i := 0; i <= 10; i += 2 {
		v := float64(i) / 10
		px, _ := at(point{v, 0})
		_, py := at(point{0, v})
		fmt.Fprintf(&b, `<path d="M%.1f %.1fV%.1fM%.1f %.1fH%.1f" stroke="#ddd"/>`, px, edge, edge+size, edge, py, edge+size)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%.1f</text><text x="%.1f" y="%.1f" text-anchor="end">%.1f</text>`+"\n", px, edge+size+16, v, edge-6, py+4, v)
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">%s</text><text transform="translate(16 %g) rotate(-90)" text-anchor="middle">%s</text>`+"\n", edge+size/2, edge+size+36, x, edge+size/2, y)
	for i, s := range all {
		var d strings.Builder
		lastX, lastY := -1.0, -1.0
		for k, p := range s.points {
			px, py := at(p)
			if k > 0 && k < len(s.points)-1 && max(math.Abs(px-lastX), math.Abs(py-lastY)) < apart {
				continue
			}
			lastX, lastY = px, py
			if len(s.points) == 1 { // a rule without a knob
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`, px, py, colours[i%len(colours)])
			}
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(k, 1)], px, py)
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%g" y="%g" fill="%s">%s</text>`+"\n",
			d.String(), colours[i%len(colours)], edge+size-190, edge+size-20*float64(len(all)-i), colours[i%len(colours)], s.name)
	}
	b.WriteString("</svg>\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making the pictures' folder: %w", err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil { //nolint:gosec // a picture for everybody
		return fmt.Errorf("writing a picture: %w", err)
	}
	return nil
}
