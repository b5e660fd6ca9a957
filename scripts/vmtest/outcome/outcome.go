// Package outcome is what the guest of vmtest tells its host: gathered from the
// output of test programs, written as lines, read back as rows.
//
// Invariant: a package that began is told, and the last line counts what was told
// before it. A report without that line, or with other counts, is an error: the
// guest died or bytes were lost.
package outcome

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Verdicts of a test.
const (
	Passed  = "pass"
	Failed  = "fail"
	Skipped = "skip"
)

// What begins a line of the report.
const (
	kernelMark  = "VMTEST-KERNEL "
	packageMark = "VMTEST-PACKAGE "
	endMark     = "VMTEST-END "
)

const (
	// maxLine bounds one line of a report: a package with a thousand tests, each
	// failed with all the output that is kept of one, is far below it.
	maxLine = 4 << 20
	// maxPackages bounds a report: the tree has fewer than a hundred.
	maxPackages = 1000
)

// Errors of Read.
var (
	// ErrNoSentinel: the report ends before its last line.
	ErrNoSentinel = errors.New("the guest ended without its last line")
	// ErrCounts: the last line counts something else than the lines before it tell.
	ErrCounts = errors.New("the guest's last line does not count what it told")
)

// Test is one leaf: a test with subtests stands for them.
type Test struct {
	Name    string   `json:"name"`
	Verdict string   `json:"verdict"`
	Seconds float64  `json:"seconds"`
	Reason  string   `json:"reason,omitempty"` // of a skip
	Output  []string `json:"output,omitempty"` // of a failure, its last lines
}

// Package is a test program's run.
type Package struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Tests   []Test  `json:"tests"`
	Error   string  `json:"error,omitempty"` // why it failed as a whole
}

// Counts is what the closing line holds.
type Counts struct{ Pass, Fail, Skip int }

// Counts counts the tests; a package that failed as a whole is one more failure.
func (p Package) Counts() (c Counts) {
	for _, t := range p.Tests {
		switch t.Verdict {
		case Passed:
			c.Pass++
		case Skipped:
			c.Skip++
		default:
			c.Fail++
		}
	}
	if p.Error != "" {
		c.Fail++
	}
	return c
}

func (c *Counts) add(more Counts) {
	c.Pass += more.Pass
	c.Fail += more.Fail
	c.Skip += more.Skip
}

// Writer writes a report.
type Writer struct {
	out    io.Writer
	counts Counts
}

// NewWriter begins a report of a guest that runs the kernel release.
func NewWriter(out io.Writer, release string) (*Writer, error) {
	_, err := fmt.Fprintf(out, "%s%s\n", kernelMark, release)
	return &Writer{out: out}, err
}

// Package tells one package.
func (w *Writer) Package(p Package) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encoding the outcome of %s: %w", p.Name, err)
	}
	w.counts.add(p.Counts())
	_, err = fmt.Fprintf(w.out, "%s%s\n", packageMark, text)
	return err
}

// End writes the sentinel.
func (w *Writer) End() error {
	_, err := fmt.Fprintf(w.out, "%spass=%d fail=%d skip=%d\n", endMark, w.counts.Pass, w.counts.Fail, w.counts.Skip)
	return err
}

// Report is all that a guest told.
type Report struct {
	Kernel   string
	Packages []Package
}

// Read reads a report to its end and calls each for every package as it comes.
// What it read is returned beside an error too.
func Read(in io.Reader, each func(Package)) (Report, error) {
	var r Report
	var counts Counts
	ended := false
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	for scanner.Scan() {
		line := strings.TrimSuffix(scanner.Text(), "\r") // a serial port's line ends so
		switch {
		case ended:
			return r, fmt.Errorf("%w: %.80q comes after it", ErrCounts, line)
		case strings.HasPrefix(line, kernelMark):
			r.Kernel = strings.TrimPrefix(line, kernelMark)
		case strings.HasPrefix(line, packageMark):
			var p Package
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, packageMark)), &p); err != nil {
				return r, fmt.Errorf("decoding a package's outcome: %w", err)
			}
			if len(r.Packages) == maxPackages {
				return r, fmt.Errorf("more than %d packages", maxPackages)
			}
			r.Packages = append(r.Packages, p)
			counts.add(p.Counts())
			each(p)
		case strings.HasPrefix(line, endMark):
			var told Counts
			if _, err := fmt.Sscanf(line, endMark+"pass=%d fail=%d skip=%d", &told.Pass, &told.Fail, &told.Skip); err != nil {
				return r, fmt.Errorf("%w: %.80q", ErrCounts, line)
			}
			if told != counts {
				return r, fmt.Errorf("%w: %+v, told %+v", ErrCounts, told, counts)
			}
			ended = true
		default:
			return r, fmt.Errorf("not a line of a report: %.80q", line)
		}
	}
	if err := scanner.Err(); err != nil {
		return r, fmt.Errorf("reading the guest's report: %w", err)
	}
	if !ended {
		return r, ErrNoSentinel
	}
	return r, nil
}
