// Package output renders what a command found: tables and pages for people, JSON,
// YAML and names for programs.
//
// Invariant: nothing that an attacker may have chosen (an argument, a path, a host
// name) reaches a terminal as anything but printable characters. Tables, pages and
// names pass every value through Safe; JSON and YAML escape what is not printable.
package output

import (
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
)

// Format is a value of -o.
type Format string

// Formats.
const (
	Table Format = "table"
	Wide  Format = "wide"
	JSON  Format = "json"
	YAML  Format = "yaml"
	JSONL Format = "jsonl"
	Name  Format = "name"
)

// Formats lists every format, in the order that help shows them.
func Formats() []string {
	return []string{string(Table), string(Wide), string(JSON), string(YAML), string(JSONL), string(Name)}
}

// ParseFormat reads a value of -o.
func ParseFormat(s string) (Format, error) {
	if !slices.Contains(Formats(), s) {
		return "", fmt.Errorf("unknown output format %q: use one of %s", s, strings.Join(Formats(), ", "))
	}
	return Format(s), nil
}

// Printer writes data, and only data, to Out.
type Printer struct {
	Out       io.Writer
	Format    Format
	NoHeaders bool
	Colour    bool
	// Width is the terminal's; 0 when Out is none, and then nothing is cut to fit.
	Width int
}

// Human says whether a person is to read this, and not a program.
func (p *Printer) Human() bool { return p.Format == Table || p.Format == Wide }

// Shown is an object that a program may want as JSON.
type Shown struct {
	// Name is what -o name prints.
	Name string
	// Value is what -o json, jsonl and yaml print.
	Value any
	// Page is what a person reads.
	Page func(*Page)
}

// Show prints one object.
func (p *Printer) Show(s Shown) error {
	switch p.Format {
	case JSON:
		return p.json(s.Value)
	case JSONL:
		return p.jsonLine(s.Value)
	case YAML:
		return p.yaml(s.Value)
	case Name:
		_, err := fmt.Fprintln(p.Out, Safe(s.Name))
		return err
	default:
		page := &Page{p: p}
		s.Page(page)
		return page.flush()
	}
}

// List describes how rows of one kind are printed.
type List[T any] struct {
	Columns []Column[T]
	// Name is what -o name prints of a row.
	Name func(T) string
	// Value is what -o json, jsonl and yaml print of a row.
	Value func(T) any
}

// Column is one column of a table.
type Column[T any] struct {
	Head string
	// Wide columns appear in -o wide only.
	Wide bool
	// Max cuts a cell in -o table, not in -o wide; 0 is no limit.
	Max   int
	Right bool
	Cell  func(T) string
	// Paint colours the cell; nil leaves it plain.
	Paint func(T) Colour
}

// Rows makes an iterator of a slice.
func Rows[T any](rows []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}
