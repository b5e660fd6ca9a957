// Package figure prints what was measured beside what was wanted, for people as
// a table and for machines as out/NAME.jsonl with one row a figure.
//
// Invariant: a figure that missed its target stays visible and makes the run
// fail; a figure that could not be taken is a miss as well.
package figure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// Row is one figure.
type Row struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Target string  `json:"target"` // as written in the issue: "≤ 2", "= 0", "" when none is set
	OK     bool    `json:"ok"`
	Note   string  `json:"note"` // how it was taken, or why it was missed
}

// AtMost is a row whose value must not exceed most.
func AtMost(name string, value, most float64, unit, note string) Row {
	return Row{Name: name, Value: value, Unit: unit, Target: fmt.Sprintf("≤ %g", most), OK: value <= most, Note: note}
}

// AtLeast is a row whose value must reach least.
func AtLeast(name string, value, least float64, unit, note string) Row {
	return Row{Name: name, Value: value, Unit: unit, Target: fmt.Sprintf("≥ %g", least), OK: value >= least, Note: note}
}

// Exactly is a row whose value must be want.
func Exactly(name string, value, want float64, unit, note string) Row {
	return Row{Name: name, Value: value, Unit: unit, Target: fmt.Sprintf("= %g", want), OK: value == want, Note: note}
}

// Info is a row without a target.
func Info(name string, value float64, unit, note string) Row {
	return Row{Name: name, Value: value, Unit: unit, OK: true, Note: note}
}

// Skipped is a figure without a target that this machine cannot give.
func Skipped(name, unit, needs string) Row {
	return Row{Name: name, Unit: unit, OK: true, Note: "SKIP: needs " + needs}
}

// Missing is a figure that could not be taken.
func Missing(name, unit, target string, why error) Row {
	return Row{Name: name, Unit: unit, Target: target, Note: "not measured: " + why.Error()}
}

// ErrMissed says that some rows are not at their figure.
var ErrMissed = errors.New("not every figure was reached")

// Report prints rows to w and writes them to dir/name.jsonl.
func Report(w io.Writer, dir, name string, rows []Row) error {
	missed := Print(w, rows)
	if err := Write(dir, name, rows); err != nil {
		return err
	}
	if missed > 0 {
		return fmt.Errorf("%w: %d of %d", ErrMissed, missed, len(rows))
	}
	return nil
}

// Print prints rows to w as one table, and says how many are not at their figure.
func Print(w io.Writer, rows []Row) (missed int) {
	table := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(table, "FIGURE\tVALUE\tUNIT\tTARGET\tOK\tNOTE")
	for _, r := range rows {
		mark := "yes"
		if !r.OK {
			mark = "NO"
			missed++
		}
		fmt.Fprintf(table, "%s\t%.4g\t%s\t%s\t%s\t%s\n", r.Name, r.Value, r.Unit, r.Target, mark, r.Note)
	}
	table.Flush()
	return missed
}

// Write writes rows to dir/name.jsonl.
func Write(dir, name string, rows []Row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the figures' folder: %w", err)
	}
	file, err := os.Create(filepath.Join(dir, name+".jsonl"))
	if err != nil {
		return fmt.Errorf("writing figures: %w", err)
	}
	encoder := json.NewEncoder(file)
	for _, r := range rows {
		err = errors.Join(err, encoder.Encode(r))
	}
	return errors.Join(err, file.Close())
}
