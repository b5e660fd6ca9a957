package output

import (
	"regexp"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
)

// pageWidth is how wide running text is set where no terminal says how wide it is.
const pageWidth = 100

// indent of everything under a section's head.
const indent = "  "

// Page collects what a person reads about one object. Every value is made safe.
type Page struct {
	p *Printer
	b strings.Builder
	// fields wait until their section ends, so that values stand in one column.
	fields [][2]string
}

// Title opens the page.
func (g *Page) Title(c Colour, s string) {
	g.endFields()
	g.b.WriteString(g.p.Paint(c, g.p.Paint(Bold, Safe(s))) + "\n")
}

// Section starts a part of the page.
func (g *Page) Section(head string) {
	g.endFields()
	g.b.WriteString("\n" + g.p.Paint(Bold, Safe(head)) + "\n")
}

// Field is one "label  value"; an empty value is left out.
func (g *Page) Field(label, value string) { g.Painted(Plain, label, value) }

// Painted is Field in a colour.
func (g *Page) Painted(c Colour, label, value string) {
	if value == "" {
		return
	}
	g.fields = append(g.fields, [2]string{label, g.p.Paint(c, Safe(value))})
}

// Text is running text, broken at the page's width.
func (g *Page) Text(s string) { g.hanging("", s) }

// Marked is text behind a mark of its own, with which its first line begins.
func (g *Page) Marked(mark, s string) { g.hanging(mark, s) }

// Item is one point of a list.
func (g *Page) Item(s string) { g.hanging("- ", s) }

// Try is a step with the command that does it, on a line of its own so that it can
// be copied whole.
func (g *Page) Try(text, command string) {
	g.hanging("- ", text+":")
	g.b.WriteString(indent + indent + g.p.Paint(Bold, Safe(command)) + "\n")
}

// Line is one line that is never broken, at a depth: trees and tables.
func (g *Page) Line(depth int, c Colour, s string) {
	g.endFields()
	g.b.WriteString(indent + strings.Repeat("  ", depth) + g.p.Paint(c, Safe(s)) + "\n")
}

// Branch is one line of a tree: depth 0 is the root.
func (g *Page) Branch(depth int, c Colour, s string) {
	g.endFields()
	lead := indent
	if depth > 0 {
		lead += strings.Repeat("   ", depth-1) + "└─ "
	}
	g.b.WriteString(lead + g.p.Paint(c, Safe(s)) + "\n")
}

func (g *Page) hanging(mark, s string) {
	g.endFields()
	width := g.width() - len(indent) - len(mark)
	lines := strings.Split(strings.TrimRight(text.WrapSoft(whole(Safe(s), width), width), "\n"), "\n")
	for i, line := range lines {
		lead := indent + mark
		if i > 0 {
			lead = indent + strings.Repeat(" ", len(mark))
		}
		g.b.WriteString(strings.ReplaceAll(lead+strings.TrimRight(line, " "), space, " ") + "\n")
	}
}

// space stands for a blank at which no line may be broken: of no script, and one cell wide.
const space = "\uE000"

// quoted is a command in running text; an apostrophe has a letter before it.
var quoted = regexp.MustCompile(`(^|[ (])'[a-z][^']*'`)

// whole keeps a command on one line, so that it can be copied, where it fits on one at all.
func whole(s string, width int) string {
	return quoted.ReplaceAllStringFunc(s, func(command string) string {
		if len(command) > width {
			return command
		}
		return command[:1] + strings.ReplaceAll(command[1:], " ", space)
	})
}

func (g *Page) width() int {
	if g.p.Width > 0 {
		return max(min(g.p.Width, 120), 40)
	}
	return pageWidth
}

func (g *Page) endFields() {
	widest := 0
	for _, f := range g.fields {
		widest = max(widest, len(f[0]))
	}
	for _, f := range g.fields {
		pad := strings.Repeat(" ", widest-len(f[0])+2)
		g.b.WriteString(indent + g.p.Paint(Dim, f[0]) + pad + f[1] + "\n")
	}
	g.fields = nil
}

func (g *Page) flush() error {
	g.endFields()
	_, err := g.p.Out.Write([]byte(g.b.String()))
	return err
}
