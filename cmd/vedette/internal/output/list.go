package output

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
)

// block is how many rows of a table are set at once: its columns are as wide as what is in
// the first, and only ever become wider. More would be held for a list without an end.
const block = 500

// cut follows what was written of a YAML list that breaks off: what stands there would be
// a whole document otherwise.
const cut = "the list is incomplete\n"

// Print prints rows as they come, a table some hundred of them at once, and holds no more of
// them. It returns how many there were. An error of the rows ends the list; what came
// before it is printed, and is no closed document.
func Print[T any](p *Printer, l List[T], rows iter.Seq2[T, error]) (int, error) {
	w := &lister[T]{p: p, l: l, table: grid[T]{p: p, columns: l.Columns}}
	for row, err := range rows {
		if err == nil {
			err = w.add(row)
		} else {
			err = errors.Join(err, w.breakOff())
		}
		if err != nil {
			return w.n, err
		}
	}
	return w.n, w.end()
}

// lister is a list that is being printed.
type lister[T any] struct {
	p     *Printer
	l     List[T]
	n     int
	table grid[T]
}

func (w *lister[T]) add(row T) error {
	w.n++
	switch w.p.Format {
	case JSONL:
		return w.p.jsonLine(w.l.Value(row))
	case Name:
		_, err := fmt.Fprintln(w.p.Out, Safe(w.l.Name(row)))
		return err
	case YAML:
		return w.p.yaml([]any{w.l.Value(row)})
	case JSON:
		lead := "[\n  "
		if w.n > 1 {
			lead = ",\n  "
		}
		raw, err := encodeIn(w.l.Value(row), "  ", "  ")
		if err != nil {
			return err
		}
		_, err = w.p.Out.Write(append([]byte(lead), bytes.TrimSuffix(raw, []byte("\n"))...))
		return err
	default:
		return w.table.add(row)
	}
}

func (w *lister[T]) end() (err error) {
	switch w.p.Format {
	case JSON:
		end := "\n]\n"
		if w.n == 0 {
			end = "[]\n"
		}
		_, err = io.WriteString(w.p.Out, end)
	case YAML:
		if w.n == 0 {
			err = w.p.yaml([]any{})
		}
	case Table, Wide:
		err = w.table.flush()
	}
	return err
}

func (w *lister[T]) breakOff() (err error) {
	switch w.p.Format {
	case YAML:
		if w.n > 0 {
			_, err = io.WriteString(w.p.Out, cut)
		}
	case Table, Wide:
		err = w.table.flush()
	}
	return err
}
