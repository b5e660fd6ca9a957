package output

import (
	"fmt"
	"strings"

	pretty "github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Colour is an ANSI colour, used only where a person looks at a terminal.
type Colour string

// Colours.
const (
	Plain  Colour = ""
	Red    Colour = "31"
	Green  Colour = "32"
	Yellow Colour = "33"
	Bold   Colour = "1"
	Dim    Colour = "2"
)

// Paint colours text that is safe already.
func (p *Printer) Paint(c Colour, s string) string {
	if !p.Colour || c == Plain || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// grid is a table that is printed block by block.
type grid[T any] struct {
	p       *Printer
	columns []Column[T]
	rows    []T
	widths  []int // of the shown columns in what was printed; nil: nothing was
}

func (g *grid[T]) add(row T) error {
	if g.rows = append(g.rows, row); len(g.rows) < block {
		return nil
	}
	return g.flush()
}

// flush prints the rows that wait. A table without rows has no head: the command says
// on stderr that there is nothing.
func (g *grid[T]) flush() error {
	if len(g.rows) == 0 {
		return nil
	}
	t := pretty.NewWriter()
	style := pretty.StyleDefault
	style.Options = pretty.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "   "
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.SuppressTrailingSpaces()

	var shown []Column[T]
	for _, c := range g.columns {
		if !c.Wide || g.p.Format == Wide {
			shown = append(shown, c)
		}
	}
	head := make(pretty.Row, len(shown))
	configs := make([]pretty.ColumnConfig, len(shown))
	widths := make([]int, len(shown))
	copy(widths, g.widths)
	for i, c := range shown {
		head[i] = c.Head
		configs[i] = pretty.ColumnConfig{Number: i + 1, WidthMin: widths[i]}
		if c.Right {
			configs[i].Align, configs[i].AlignHeader = text.AlignRight, text.AlignRight
		}
		if !g.p.NoHeaders {
			widths[i] = max(widths[i], text.StringWidthWithoutEscSequences(c.Head))
		}
	}
	t.SetColumnConfigs(configs)
	if !g.p.NoHeaders && g.widths == nil {
		t.AppendHeader(head)
	}
	for _, row := range g.rows {
		cells := make(pretty.Row, len(shown))
		for i, c := range shown {
			cell := g.p.cell(c.Max, c.Cell(row), paint(c.Paint, row))
			cells[i], widths[i] = cell, max(widths[i], text.StringWidthWithoutEscSequences(cell))
		}
		t.AppendRow(cells)
	}
	g.rows, g.widths = g.rows[:0], widths
	_, err := fmt.Fprintln(g.p.Out, t.Render())
	return err
}

func paint[T any](f func(T) Colour, row T) Colour {
	if f == nil {
		return Plain
	}
	return f(row)
}

func (p *Printer) cell(most int, value string, c Colour) string {
	value = Safe(value)
	if value == "" {
		value = "-"
	}
	if p.Format == Table {
		value = Cut(value, most)
	}
	return p.Paint(c, value)
}

// Cut shortens s to at most n columns, with an ellipsis; n of 0 or less leaves it.
func Cut(s string, n int) string {
	if n <= 0 || text.StringWidthWithoutEscSequences(s) <= n {
		return s
	}
	return strings.TrimRight(text.Trim(s, n-1), " ") + "…"
}
