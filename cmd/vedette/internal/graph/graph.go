// Package graph draws a small directed graph: as a text for Graphviz, or as a picture with
// a layout of its own.
//
// Invariant: nothing that an attacker may have named (a host, a title) is anything but text
// in what it writes: DOT strings are quoted, SVG is escaped, and neither holds a script.
package graph

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"unicode"
)

// Node is a host; Depth is its column.
type Node struct {
	ID, Label, Sub, Severity string
	Depth                    int
}

// Edge joins two nodes; Tip is what a pointer over it shows.
type Edge struct{ From, To, Label, Tip string }

// Graph is what is drawn; nodes in the order of a tree, parents before their children.
type Graph struct {
	Title string
	Nodes []Node
	Edges []Edge
}

var fills = map[string]string{"critical": "#f4b6b6", "high": "#f8d0b0", "medium": "#f8ecb0", "low": "#d8e8f8"}

func fill(severity string) string {
	if f := fills[severity]; f != "" {
		return f
	}
	return "#eeeeee"
}

// DOT is the graph for Graphviz.
func DOT(g Graph) string {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph campaign {\n  label=%s;\n  rankdir=LR;\n  node [shape=box, style=filled];\n", quote(g.Title))
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "  %s [label=%s, fillcolor=%q];\n", quote(n.ID), quote(n.Label+"\n"+n.Sub), fill(n.Severity))
	}
	for _, e := range g.Edges {
		fmt.Fprintf(&b, "  %s -> %s [label=%s, tooltip=%s];\n", quote(e.From), quote(e.To), quote(e.Label), quote(e.Tip))
	}
	b.WriteString("}\n")
	return b.String()
}

// quote is a string of DOT: only the quotation mark and the backslash mean anything in it.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case !unicode.IsPrint(r):
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Measures of the picture, in pixels.
const (
	boxWidth, boxHeight = 210, 48
	gapX, gapY          = 130, 26
	margin, header      = 24, 36
	maxLabel            = 30 // characters in a box
)

type point struct{ x, y int }

// layout gives each node a column by its depth and a row: a leaf has the next free one, whoever
// has children stands at the height of the first.
func layout(g Graph) (at map[string]point, width, height int) {
	at = make(map[string]point)
	row := 0
	for i, n := range g.Nodes {
		if i > 0 && n.Depth <= g.Nodes[i-1].Depth {
			row++
		}
		p := point{margin + n.Depth*(boxWidth+gapX), header + margin + row*(boxHeight+gapY)}
		at[n.ID] = p
		width, height = max(width, p.x+boxWidth+margin), max(height, p.y+boxHeight+margin)
	}
	return at, max(width, 2*margin+boxWidth), max(height, header+2*margin)
}

// SVG is the graph as a picture.
func SVG(g Graph) string {
	at, width, height := layout(g)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height, width, height)
	b.WriteString(`<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>` + "\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/><text x="%d" y="%d" font-size="14" font-weight="bold">%s</text>`+"\n", width, height, margin, header-8, escape(g.Title, 120))
	used := make(map[[2]point]int)
	for _, e := range g.Edges {
		from, ok1 := at[e.From]
		to, ok2 := at[e.To]
		if !ok1 || !ok2 || from == to {
			continue
		}
		pair := [2]point{from, to}
		shift := used[pair] * 12 // several edges between two hosts lie side by side
		used[pair]++
		start, end := point{from.x + boxWidth, from.y + boxHeight/2 + shift}, point{to.x, to.y + boxHeight/2 + shift}
		bend := max(gapX/2, (end.x-start.x)/2)
		if end.x <= start.x { // within a column, or back
			start, end = point{from.x + boxWidth/2, from.y + boxHeight}, point{to.x + boxWidth/2, to.y}
			if end.y < start.y {
				start, end = point{from.x + boxWidth/2, from.y}, point{to.x + boxWidth/2, to.y + boxHeight}
			}
			bend = 0
		}
		fmt.Fprintf(&b, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="#444" marker-end="url(#tip)"><title>%s</title></path>`,
			start.x, start.y, start.x+bend, start.y, end.x-bend, end.y, end.x, end.y, escape(e.Tip, 400))
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" font-size="10" fill="#444">%s</text>`+"\n", (start.x+end.x)/2, (start.y+end.y)/2-5, escape(e.Label, maxLabel))
	}
	for _, n := range g.Nodes {
		p := at[n.ID]
		fmt.Fprintf(&b, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="%s" stroke="#444"/>`, escape(n.ID+" "+n.Sub, 200), p.x, p.y, boxWidth, boxHeight, fill(n.Severity))
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">%s</text><text x="%d" y="%d" font-size="11">%s</text></g>`+"\n",
			p.x+10, p.y+20, escape(n.Label, maxLabel), p.x+10, p.y+37, escape(n.Sub, maxLabel+4))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// escape makes text of what may be anything, of at most so many characters.
func escape(s string, most int) string {
	runes := []rune(strings.ToValidUTF8(s, "?"))
	if len(runes) > most {
		runes = append(slices.Clone(runes[:most-1]), '…')
	}
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = '?'
		}
	}
	return html.EscapeString(string(runes))
}
