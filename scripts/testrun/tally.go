package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// event is one line of go test -json (see go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// maxLine bounds one event: a test may print a long line, go test does not split it.
const maxLine = 16 << 20

// tally turns the events of go test into counts and into what a person reads.
type tally struct {
	out      io.Writer
	counts   counts
	packages map[string]*packageRun
	builds   map[string][]string // output of the compiler and of vet by import path
	skips    []string
	failed   []failure
	slow     []slowTest
}

// slowTest is a test that took long by itself, to see what a run waits for.
type slowTest struct {
	name    string
	seconds float64
}

type packageRun struct {
	output []string // of the package itself, outside any test
	tests  map[string]*testRun
	counts counts
}

type testRun struct {
	output      []string
	verdict     string
	hasSubtests bool
	subFailed   bool
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, packages: map[string]*packageRun{}, builds: map[string][]string{}}
}

// read takes events until the end. A line that is no event is output that some
// program wrote past the test framework; it is shown.
func (t *tally) read(events io.Reader) error {
	scanner := bufio.NewScanner(events)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	for scanner.Scan() {
		var e event
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil {
			fmt.Fprintln(t.out, scanner.Text())
			continue
		}
		t.add(e)
	}
	if err := scanner.Err(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return nil
}

func (t *tally) add(e event) {
	switch e.Action {
	case "build-output":
		t.builds[e.ImportPath] = append(t.builds[e.ImportPath], e.Output)
		return
	case "build-fail":
		return // the package's own fail event names it
	}
	p := t.packages[e.Package]
	if p == nil {
		p = &packageRun{tests: map[string]*testRun{}}
		t.packages[e.Package] = p
	}
	if e.Test == "" {
		t.addPackage(p, e)
		return
	}
	run := p.tests[e.Test]
	if run == nil {
		run = &testRun{}
		p.tests[e.Test] = run
		if parent, ok := parentOf(p, e.Test); ok {
			parent.hasSubtests = true
		}
	}
	switch e.Action {
	case "output":
		run.output = append(run.output, e.Output)
	case "pass", "fail", "skip":
		run.verdict = e.Action
		t.judge(p, run, e)
	}
}

// judge counts a test that ended. Subtests end before their parents, so a parent
// knows by then whether one of them has already taken the blame.
func (t *tally) judge(p *packageRun, run *testRun, e event) {
	if !strings.Contains(e.Test, "/") {
		t.slow = append(t.slow, slowTest{path.Base(e.Package) + " " + e.Test, e.Elapsed})
	}
	switch e.Action {
	case "pass":
		if !run.hasSubtests {
			p.counts.passed++
		}
	case "skip":
		if !run.hasSubtests {
			p.counts.skipped++
			t.skips = append(t.skips, fmt.Sprintf("SKIP %s %s: %s", e.Package, e.Test, reason(run.output)))
		}
	case "fail":
		for name := e.Test; ; {
			parent, ok := parentOf(p, name)
			if !ok {
				break
			}
			parent.subFailed = true
			name = name[:strings.LastIndexByte(name, '/')]
		}
		if !run.subFailed {
			p.counts.failed++
			t.failed = append(t.failed, failure{e.Package, e.Test})
		}
		if !run.subFailed || len(spoken(run.output)) > 0 {
			fmt.Fprintf(t.out, "FAIL %s %s\n%s", e.Package, e.Test, indent(run.output))
		}
	}
	run.output = nil
}

func (t *tally) addPackage(p *packageRun, e event) {
	switch e.Action {
	case "output":
		p.output = append(p.output, e.Output)
	case "pass", "skip", "fail":
		t.endPackage(p, e)
		delete(t.packages, e.Package)
	}
}

func (t *tally) endPackage(p *packageRun, e event) {
	if e.Action == "fail" {
		if p.counts.failed == 0 {
			p.counts.failed++ // nothing else has taken the blame
			t.failed = append(t.failed, failure{pkg: e.Package})
		}
		output := slices.Concat(t.builds[e.FailedBuild], p.output)
		for _, name := range unfinished(p) {
			output = append(output, "did not end: "+name+"\n")
			output = append(output, p.tests[name].output...)
		}
		if !onlyVerdict(output) {
			fmt.Fprintf(t.out, "FAIL %s\n%s", e.Package, indent(output))
		}
	}
	t.counts.passed += p.counts.passed
	t.counts.failed += p.counts.failed
	t.counts.skipped += p.counts.skipped
	if p.counts == (counts{}) {
		return // no test files
	}
	word := "ok  "
	if e.Action == "fail" {
		word = "FAIL"
	}
	fmt.Fprintf(t.out, "%s %s %.1fs (%s)\n", word, e.Package, e.Elapsed, p.counts)
}

// close ends the account: a package without a verdict was cut off and counts as
// failed. Skips come last, where they are read.
func (t *tally) close() counts {
	for _, name := range sortedKeys(t.packages) {
		t.endPackage(t.packages[name], event{Action: "fail", Package: name})
	}
	for _, line := range t.skips {
		fmt.Fprintln(t.out, line)
	}
	return t.counts
}

// slowest are the tests that took most of the time, a line of them.
func (t *tally) slowest(n int) string {
	slices.SortStableFunc(t.slow, func(a, b slowTest) int { return cmp.Compare(b.seconds, a.seconds) })
	var said []string
	for _, s := range t.slow[:min(n, len(t.slow))] {
		said = append(said, fmt.Sprintf("%s %.0f s", s.name, s.seconds))
	}
	return strings.Join(said, ", ")
}

// onlyVerdict reports whether a failed package said no more than that it failed,
// which its tests have said better.
func onlyVerdict(output []string) bool {
	for _, line := range output {
		if !strings.HasPrefix(line, "FAIL") {
			return false
		}
	}
	return true
}

func unfinished(p *packageRun) []string {
	var names []string
	for _, name := range sortedKeys(p.tests) {
		if p.tests[name].verdict == "" {
			names = append(names, name)
		}
	}
	return names
}

func parentOf(p *packageRun, name string) (*testRun, bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return nil, false
	}
	parent, ok := p.tests[name[:i]]
	return parent, ok
}

// spoken is what a test wrote itself: its output without the framework's lines.
func spoken(output []string) []string {
	var said []string
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	return said
}

// reason is what t.Skip was given, without the file and line that the framework
// puts before it.
func reason(output []string) string {
	var said []string
	for _, line := range spoken(output) {
		if _, rest, ok := strings.Cut(line, ".go:"); ok {
			_, line, _ = strings.Cut(rest, ":")
		}
		line = strings.TrimPrefix(strings.TrimSpace(line), "SKIP: ")
		if line != "" {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

func indent(output []string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.Join(output, "")) {
		b.WriteString("    " + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
