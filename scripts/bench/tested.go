package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// tested is a test that asserts figures, and is also what measures them.
type tested struct {
	// name, unit and target are of the figure that it is about, for when that is missing.
	name, unit, target string
	// tests is an expression, about what stands before the names of its figures.
	tests, about, folder, limit string
	settings, args              []string
}

// figures runs the test and reads what it wrote into VEDETTE_OUT.
func (t tested) figures(ctx context.Context, b *bench) []figure.Row {
	missing := func(name string, err error) figure.Row { return figure.Missing(name, t.unit, t.target, err) }
	// What still runs would be load that the test does not know of.
	if err := b.lab.Close(); err != nil {
		return []figure.Row{missing(t.name, err)}
	}
	out := filepath.Join(b.dir, "tested.jsonl")
	if err := os.RemoveAll(out); err != nil {
		return []figure.Row{missing(t.name, err)}
	}
	args := append([]string{"test", "-count=1", "-timeout", t.limit, "-run", "^(" + t.tests + ")$", t.folder}, t.args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), append(t.settings, "VEDETTE_OUT="+out, "VEDETTE_BIN="+b.bin)...)
	printed, failed := cmd.CombinedOutput()
	raw, err := os.ReadFile(out)
	if err != nil {
		return []figure.Row{missing(t.name, errors.Join(failed, fmt.Errorf("%w: %s", err, lastLines(printed))))}
	}
	var rows []figure.Row
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		var row figure.Row
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return append(rows, missing(t.name, err))
		}
		row.Name = t.about + row.Name
		rows = append(rows, row)
	}
	if failed != nil {
		rows = append(rows, figure.Missing("the test "+strings.ReplaceAll(t.tests, "|", ", "), "", "passes", fmt.Errorf("%w: %s", failed, lastLines(printed))))
	}
	return rows
}
