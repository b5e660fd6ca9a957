package outcome

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// mark begins each line of the test framework under -test.v=test2json, so that
	// a program which prints half a line before it does not hide it.
	mark = '\x16'
	// keptLines bounds what is kept of one test's output: the last ones say why.
	keptLines = 60
	// keptLine bounds one of them.
	keptLine = 400
	// maxTests bounds the tests of a package.
	maxTests = 10_000
)

// Gather takes the output of one test program line by line.
type Gather struct {
	tests   map[string]*gathered
	order   []string
	current string
	loose   []string // said outside any test: a panic, the framework's time-out
}

type gathered struct {
	Test
	parent bool // has subtests
	ended  bool
}

// NewGather begins the account of a package.
func NewGather() *Gather { return &Gather{tests: map[string]*gathered{}} }

// Line takes a line without its end and returns it as a person wants to see it.
func (g *Gather) Line(line string) string {
	said, frame, framed := line, "", false
	if at := strings.LastIndexByte(line, mark); at >= 0 {
		said, frame, framed = line[:at], line[at+1:], true
	}
	if said != "" {
		g.say(said)
	}
	if !framed {
		return line
	}
	word, rest, _ := strings.Cut(strings.TrimLeft(frame, " "), " ")
	verb, rest, _ := strings.Cut(rest, " ")
	rest = strings.TrimSpace(rest)
	switch word + verb {
	case "===RUN", "===CONT", "===NAME":
		g.current = rest
		if rest != "" {
			g.test(rest)
		}
	case "===PAUSE":
		g.current = ""
	case "---PASS:", "---FAIL:", "---SKIP:":
		g.end(rest, map[string]string{"PASS:": Passed, "FAIL:": Failed, "SKIP:": Skipped}[verb])
	}
	return said + frame
}

func (g *Gather) test(name string) *gathered {
	t := g.tests[name]
	if t == nil {
		t = &gathered{Test: Test{Name: name}}
		if len(g.order) == maxTests {
			return t // counted nowhere, but the program's exit status still is
		}
		g.tests[name] = t
		g.order = append(g.order, name)
	}
	for at := strings.LastIndexByte(name, '/'); at >= 0; at = strings.LastIndexByte(name[:at], '/') {
		if parent := g.tests[name[:at]]; parent != nil {
			parent.parent = true
		}
	}
	return t
}

// end takes "TestX (1.23s)".
func (g *Gather) end(text, verdict string) {
	name, took, _ := strings.Cut(text, " (")
	t := g.test(name)
	t.Verdict, t.ended = verdict, true
	t.Seconds, _ = strconv.ParseFloat(strings.TrimSuffix(took, "s)"), 64)
	if g.current == name {
		g.current = ""
	}
}

func (g *Gather) say(line string) {
	if len(line) > keptLine {
		line = line[:keptLine] + " …"
	}
	kept := &g.loose
	if t := g.tests[g.current]; t != nil {
		kept = &t.Output
	}
	*kept = append(*kept, line)
	if len(*kept) > keptLines {
		*kept = slices.Delete(*kept, 0, 1)
	}
}

// End is the account. status is how the program ended, "" when with success.
func (g *Gather) End(name, status string, seconds float64) Package {
	p := Package{Name: name, Seconds: seconds}
	failed := false
	for _, key := range g.order {
		t := g.tests[key]
		if !t.ended {
			if t.parent && g.openBelow(key) {
				continue
			}
			t.Verdict = Failed
			t.Output = append(t.Output, "did not end")
		}
		if t.parent && (t.Verdict != Failed || g.failedBelow(key)) {
			continue
		}
		switch t.Verdict {
		case Skipped:
			t.Reason, t.Output = reason(t.Output), nil
		case Failed:
			failed = true
		default:
			t.Output = nil
		}
		p.Tests = append(p.Tests, t.Test)
	}
	if status != "" && (!failed || len(g.loose) > 0 && !onlyVerdict(g.loose)) {
		p.Error = fmt.Sprintf("%s: %s", status, strings.Join(g.loose, "\n"))
	} else if len(p.Tests) == 0 {
		p.Error = "ran no test"
	}
	return p
}

func onlyVerdict(lines []string) bool {
	return !slices.ContainsFunc(lines, func(line string) bool { return line != "FAIL" && line != "PASS" })
}

func (g *Gather) openBelow(name string) bool {
	return slices.ContainsFunc(g.order, func(other string) bool {
		return strings.HasPrefix(other, name+"/") && !g.tests[other].ended
	})
}

func (g *Gather) failedBelow(name string) bool {
	return slices.ContainsFunc(g.order, func(other string) bool {
		return strings.HasPrefix(other, name+"/") && (g.tests[other].Verdict == Failed || !g.tests[other].ended)
	})
}

// reason is what t.Skip was given, without the file and line before it.
func reason(output []string) string {
	if len(output) == 0 {
		return "no reason given"
	}
	said := output[len(output)-1]
	if _, rest, ok := strings.Cut(said, ".go:"); ok {
		_, said, _ = strings.Cut(rest, ":")
	}
	return strings.TrimPrefix(strings.TrimSpace(said), "SKIP: ")
}
