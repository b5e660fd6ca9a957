package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// measured is a row of the tests: of a path, in a phase.
type measured struct {
	Path   string `json:"path"`
	Phase  string `json:"phase"`
	Sent   uint64 `json:"sent"`
	Before uint64 `json:"before"`
	Leaked uint64 `json:"leaked"`
	Lacks  string `json:"lacks"`
	Error  string `json:"error"`
	Note   string `json:"note"`
	// A row that is a time has a unit, and what it may be at most where that was asked.
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	Most  float64 `json:"most"`
}

// grid is what was measured on one kernel.
type grid struct {
	kernel string // series of the guest's; empty: this machine's
	paths  []string
	phases []string
	cells  map[[2]string]measured
	tests  []*ended
	said   []string // the last test's lines so far
	unread []error  // rows that the kernel's own words on the console broke
}

// ended is a test beside the matrix.
type ended struct {
	name, verdict string
	said          []string
}

func newGrid(kernel string) *grid { return &grid{kernel: kernel, cells: map[[2]string]measured{}} }

func (g *grid) add(m measured) {
	if !slices.Contains(g.paths, m.Path) {
		g.paths = append(g.paths, m.Path)
	}
	if !slices.Contains(g.phases, m.Phase) {
		g.phases = append(g.phases, m.Phase)
	}
	g.cells[[2]string{m.Path, m.Phase}] = m
}

// line follows the tests' own words: what a test logs comes before its verdict.
func (g *grid) line(line string) {
	trimmed := strings.TrimSpace(line)
	for _, verdict := range []string{"PASS", "FAIL", "SKIP"} {
		rest, ok := strings.CutPrefix(trimmed, "--- "+verdict+": ")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, " ")
		// A subtest's words are its parent's too.
		if !strings.Contains(name, "/") && name != "TestMeasure" {
			g.tests = append(g.tests, &ended{name: name, verdict: verdict, said: g.said})
			g.said = nil
		}
		return
	}
	if _, text, ok := strings.Cut(trimmed, "_test.go:"); ok && g.kernel == "" {
		_, text, _ = strings.Cut(text, ": ")
		g.said = append(g.said, text)
	}
}

func (g *grid) name(of string) string { return strings.TrimSpace(g.kernel + " " + of) }

// rows are the figures.
func (g *grid) rows() (rows []figure.Row) {
	for _, path := range g.paths {
		for _, phase := range g.phases {
			if m, ok := g.cells[[2]string{path, phase}]; ok {
				rows = append(rows, g.row(m))
			}
		}
	}
	for _, err := range g.unread {
		rows = append(rows, figure.Missing(g.name("a row that cannot be read"), "packets", "= 0", err))
	}
	for _, t := range g.tests {
		note := strings.Join(t.said, "; ")
		switch t.verdict {
		case "SKIP":
			rows = append(rows, figure.Row{Name: g.name(t.name), Unit: "failed", OK: true, Note: note})
		case "FAIL":
			rows = append(rows, figure.Exactly(g.name(t.name), 1, 0, "failed", note))
		default:
			rows = append(rows, figure.Exactly(g.name(t.name), 0, 0, "failed", note))
		}
	}
	return rows
}

func (g *grid) row(m measured) figure.Row {
	name := g.name(m.Path + " / " + m.Phase)
	switch {
	case m.Unit != "" && (m.Most == 0 || g.kernel != ""): // emulated, a time says nothing
		return figure.Info(name, m.Value, m.Unit, m.Note)
	case m.Unit != "":
		return figure.AtMost(name, m.Value, m.Most, m.Unit, m.Note)
	case m.Lacks != "":
		return figure.Row{Name: name, Unit: "packets", Target: "= 0", OK: true, Note: "SKIP: this kernel lacks the driver (" + m.Lacks + "); " + guestCommand}
	case m.Error != "":
		return figure.Missing(name, "packets", "= 0", fmt.Errorf("sending failed: %s", m.Error))
	case m.Before == 0 || m.Sent == 0:
		return figure.Missing(name, "packets", "= 0", fmt.Errorf("no packet passed without the cut, so this proves nothing (%d sent)", m.Sent))
	}
	note := fmt.Sprintf("%d sent; %d arrived in the phase before the cut", m.Sent, m.Before)
	if m.Note != "" {
		note = m.Note
	}
	return figure.Exactly(name, float64(m.Leaked), 0, "packets", note)
}

const guestCommand = "run: sudo make isolation GUEST=6.12"

// print is the matrix for people.
func (g *grid) print(w io.Writer) error {
	kernel := "this kernel"
	if g.kernel != "" {
		kernel = "Linux " + g.kernel + " in the guest"
	}
	table := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintf(table, "\nPACKETS LEAKED, %s\tBEFORE\t%s\n", kernel, strings.ToUpper(strings.Join(g.phases, "\t")))
	skipped := false
	for _, path := range g.paths {
		cells := make([]string, 0, len(g.phases))
		var before uint64
		for _, phase := range g.phases {
			m, ok := g.cells[[2]string{path, phase}]
			before = max(before, m.Before)
			switch row := g.row(m); {
			case !ok:
				cells = append(cells, "-")
			case m.Unit != "" && row.OK:
				cells = append(cells, fmt.Sprintf("%.1f %s", m.Value, m.Unit))
			case m.Unit != "":
				cells = append(cells, fmt.Sprintf("%.1f %s NO", m.Value, m.Unit))
			case m.Lacks != "":
				cells, skipped = append(cells, "SKIP"), true
			case row.OK:
				cells = append(cells, fmt.Sprint(m.Leaked))
			case m.Error != "" || m.Before == 0 || m.Sent == 0:
				cells = append(cells, "? NO")
			default:
				cells = append(cells, fmt.Sprintf("%d NO", m.Leaked))
			}
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", path, before, strings.Join(cells, "\t"))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing the matrix: %w", err)
	}
	if skipped {
		fmt.Fprintln(w, "SKIP: this kernel has no driver for it;", guestCommand)
	}
	for _, t := range g.tests {
		fmt.Fprintf(w, "%s %s\n", t.verdict, t.name)
		for _, line := range t.said {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
	return nil
}
