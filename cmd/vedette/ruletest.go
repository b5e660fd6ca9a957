package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
)

// maxRecordLine bounds a line of a recording; a sensor's have some KiB.
const maxRecordLine = 1 << 20

func (a *app) ruleTestCommand() *cobra.Command {
	record := ""
	c := &cobra.Command{
		Use:   "test FILE|DIR…",
		Short: "try rules on events made up for them, or on a recording",
		Long: `Makes up, for each rule and kind of record, an event that it must match and one that it must
not, shows them, and tries them with all the rules loaded as a sensor does; exit code 1 when
one goes wrong. With --record FILE (JSON lines, as vedette-sensor recorder query -o json and
hunt write them; - is stdin) the records are tried instead, in the order of the file, and the
matches shown. "open" is a record that tells too little: the rule is about a field that
recordings lack. Correlations are counted on a recording, and not made up for.`,
		Example:           "  vedette rule test rules/odd_shell.yml\n  vedette-sensor recorder query --since 1h -o jsonl | vedette rule test rules/ --record -",
		Args:              atLeast("FILE"),
		ValidArgsFunction: completeFiles,
		RunE: bare(func(ctx context.Context, args []string) error {
			p, err := a.printer("")
			if err != nil {
				return err
			}
			files, err := readRules(a.stdin, args, false)
			if err != nil {
				return err
			}
			report := ruleset.Lint(files)
			for _, n := range report.Notes {
				if n.Weight == ruleset.Refused || n.Weight == ruleset.Unsupported {
					a.say("%s: %s: %s", notePlace(n), n.Weight, n.What)
				}
			}
			if len(report.Rules) == 0 {
				return exit(exitError, "%w", errNoRules)
			}
			if record != "" {
				return a.tryRecords(ctx, p, report, record)
			}
			return a.tryExamples(p, report)
		}),
	}
	c.Flags().StringVar(&record, "record", "", "try the records in this file, JSON lines; - for stdin")
	return c
}

// loaded is rules indexed as a sensor does, by kind of record.
type loaded struct {
	matchers map[string][]*sigma.Matcher
	index    map[string]*sigma.Index
	rule     map[*sigma.Matcher]ruleset.Rule
	scratch  sigma.Scratch
}

func load(report *ruleset.Report) *loaded {
	l := &loaded{matchers: map[string][]*sigma.Matcher{}, index: map[string]*sigma.Index{}, rule: map[*sigma.Matcher]ruleset.Rule{}}
	for _, r := range report.Rules {
		for _, m := range r.Matchers {
			l.matchers[m.Of] = append(l.matchers[m.Of], m)
			l.rule[m] = r
		}
	}
	for of, matchers := range l.matchers {
		l.index[of] = sigma.NewIndex(matchers)
	}
	return l
}

func (l *loaded) match(of string, r sigma.Record) (found []*sigma.Matcher) {
	if index := l.index[of]; index != nil {
		for _, n := range index.Match(r, &l.scratch) {
			found = append(found, l.matchers[of][n])
		}
	}
	return found
}

func matchWord(matches bool) string {
	if matches {
		return "match"
	}
	return "no match"
}

func (a *app) tryExamples(p *output.Printer, report *ruleset.Report) error {
	l := load(report)
	var rows []shape.RuleTest
	wrong := 0
	for _, r := range report.Rules {
		for _, m := range r.Matchers {
			var given sigma.Example
			if m.Service() == "auditd" {
				given = taxonomy.Given(m.Of)
			}
			match, miss, err := m.Examples(given)
			for _, x := range []struct {
				example sigma.Example
				want    bool
			}{{match, true}, {miss, false}} {
				row := shape.RuleTest{Rule: r.Title, ID: r.ID, Record: m.Of, Want: matchWord(x.want), Severity: r.Level}
				if x.example == nil {
					row.Got, row.Missing = "none", fmt.Sprint(err)
				} else {
					row.Got, row.Fields = matchWord(slices.Contains(l.match(m.Of, x.example), m)), fieldsOf(m, x.example)
				}
				if row.Got != row.Want {
					wrong++
				}
				rows = append(rows, row)
			}
		}
	}
	if _, err := output.Print(p, testTable(), output.Rows(rows)); err != nil {
		return err
	}
	a.say("%s: %s were made up, %d went otherwise than they should", plural(len(report.Rules), "rule"), plural(len(rows), "event"), wrong)
	if wrong > 0 {
		return exit(exitError, "%s went otherwise than it should; a rule without an event may contradict itself", plural(wrong, "event"))
	}
	return nil
}

// fieldsOf gives an example's fields the names that the rule uses.
func fieldsOf(m *sigma.Matcher, example sigma.Example) map[string][]string {
	fields := map[string][]string{}
	for n, values := range example {
		if name := m.NameOf(n); name != "" && len(values) > 0 { // other log sources' fields have no name here
			fields[name] = values
		}
	}
	return fields
}

func (a *app) tryRecords(ctx context.Context, p *output.Printer, report *ruleset.Report, name string) (err error) {
	var in io.Reader = a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return usage("reading the recording: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		in = f
	}
	t := &trial{loaded: load(report)}
	var correlations []*sigma.Correlation
	for _, r := range report.Rules {
		if r.Correlation != nil {
			correlations = append(correlations, r.Correlation)
		}
	}
	t.correlator, _ = sigma.NewCorrelator(sigma.DefaultCorrelatorLimits, slices.Concat(slices.Collect(maps.Values(t.matchers))...), correlations) // refused ones were told by lint
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxRecordLine)
	read := func(yield func(shape.RuleTest, error) bool) {
		for lines.Scan() {
			if t.line++; ctx.Err() != nil {
				yield(shape.RuleTest{}, ctx.Err())
				return
			}
			if strings.TrimSpace(lines.Text()) == "" {
				continue
			}
			for _, row := range t.try(lines.Bytes()) {
				if !yield(row, nil) {
					return
				}
			}
		}
		if err := lines.Err(); err != nil {
			yield(shape.RuleTest{}, fmt.Errorf("reading the recording at line %d: %w", t.line+1, err))
		}
	}
	if _, err := output.Print(p, testTable(), read); err != nil {
		return err
	}
	a.say("%s tried: %d matched, %d open, %d are of no kind that rules are about, %d could not be read",
		plural(t.tried, "record"), t.matched, t.open, t.other, t.bad)
	if t.bad > 0 {
		return exit(exitPartial, "%s could not be read; the first: line %d: %w", plural(t.bad, "line"), t.badLine, t.badError)
	}
	return nil
}

// trial is a recording being tried.
type trial struct {
	*loaded
	recording  taxonomy.Recording
	correlator *sigma.Correlator

	line, tried, matched, open, other, bad, badLine int
	badError                                        error
}

func (t *trial) try(line []byte) (rows []shape.RuleTest) {
	record, err := t.recording.Read(line)
	if err != nil {
		if t.bad++; t.bad == 1 {
			t.badLine, t.badError = t.line, err
		}
		return nil
	}
	if record.Of == "" {
		t.other++
		return nil
	}
	t.tried++
	at, _ := timeOf(record.Time)
	row := func(m *sigma.Matcher, got string) shape.RuleTest {
		r := t.rule[m]
		return shape.RuleTest{Rule: r.Title, ID: r.ID, Record: record.Of, Got: got, Fields: fieldsOf(m, record.Example), Time: record.Time, Line: t.line, Severity: r.Level}
	}
	hit := func(hits []sigma.Hit) {
		for _, h := range hits {
			t.matched++
			rows = append(rows, shape.RuleTest{Rule: h.Correlation.Title, ID: sigma.IDOf(&h.Correlation.Header), Record: "correlation", Got: "match",
				Fields: map[string][]string{"count": {fmt.Sprint(h.Count)}, "group": h.Group}, Time: record.Time, Line: t.line, Severity: h.Correlation.Level})
		}
	}
	hit(t.correlator.Advance(at))
	for _, m := range t.matchers[record.Of] {
		switch matches, certain := m.Decide(record, record.Known); {
		case certain && matches:
			t.matched++
			rows = append(rows, row(m, "match"))
			hit(t.correlator.Observe(at, m, record, nil))
		case !certain && m.Match(record):
			// What is not recorded would have to speak against it.
			t.open++
			open := row(m, "open")
			open.Missing = "it also looks at what recordings do not hold"
			rows = append(rows, open)
		}
	}
	return rows
}

func testTable() output.List[shape.RuleTest] {
	type row = shape.RuleTest
	return output.List[row]{
		Name:  func(r row) string { return r.ID },
		Value: func(r row) any { return r },
		Columns: []output.Column[row]{
			{Head: "RULE", Max: 44, Cell: func(r row) string { return r.Rule }},
			{Head: "RECORD", Cell: func(r row) string { return r.Record }},
			{Head: "WANT", Cell: func(r row) string { return r.Want }},
			{Head: "GOT", Cell: func(r row) string { return r.Got }, Paint: func(r row) output.Colour {
				switch {
				case r.Want == "" && r.Got == "match", r.Want != "" && r.Got != r.Want:
					return output.Red
				case r.Got == "open":
					return output.Yellow
				}
				return output.Plain
			}},
			{Head: "TIME", Wide: true, Cell: func(r row) string { return r.Time }},
			{Head: "LINE", Wide: true, Right: true, Cell: func(r row) string { return fmt.Sprint(r.Line) }},
			{Head: "EVENT", Max: 160, Cell: eventText},
		},
	}
}

// eventText is a record's fields in one line.
func eventText(r shape.RuleTest) string {
	if r.Fields == nil {
		return r.Missing
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Fields)) {
		parts = append(parts, name+"="+strings.Join(r.Fields[name], ","))
	}
	return strings.Join(parts, "  ")
}

func timeOf(text string) (time.Time, error) { return time.Parse(time.RFC3339Nano, text) }
