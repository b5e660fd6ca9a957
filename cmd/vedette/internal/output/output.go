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

// Print prints rows as they come where the format allows it (jsonl, name), and at
// the end where it does not. It returns how many there were. An error of the rows
// ends the list; what came before it is printed.
func Print[T any](p *Printer, l List[T], rows iter.Seq2[T, error]) (int, error) {
	n := 0
	var all []T
	var failed error
	for row, err := range rows {
		if err != nil {
			failed = err
			break
		}
		n++
		var werr error
		switch p.Format {
		case JSONL:
			werr = p.jsonLine(l.Value(row))
		case Name:
			_, werr = fmt.Fprintln(p.Out, Safe(l.Name(row)))
		default:
			all = append(all, row)
		}
		if werr != nil {
			return n, werr
		}
	}
	// A cut list must not look like a whole one to a program: no closed array after an error.
	if failed != nil && (p.Format == JSON || p.Format == YAML) {
		return n, failed
	}
	var err error
	switch p.Format {
	case JSON, YAML:
		values := make([]any, 0, len(all))
		for _, row := range all {
			values = append(values, l.Value(row))
		}
		if p.Format == JSON {
			err = p.json(values)
		} else {
			err = p.yaml(values)
		}
	case Table, Wide:
		err = table(p, l.Columns, all)
	}
	if failed != nil {
		return n, failed
	}
	return n, err
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
