package outcome

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what is got into testdata/*.txt")

// Ensure that each recorded output of a test program becomes the report that stands
// beside it, and that the report reads back as what was written.
func TestTranscripts(t *testing.T) {
	recordings, err := filepath.Glob("testdata/*.out")
	if err != nil || len(recordings) == 0 {
		t.Fatalf("listing recordings: got %d, %v", len(recordings), err)
	}
	for _, recording := range recordings {
		name := strings.TrimSuffix(filepath.Base(recording), ".out")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(recording)
			if err != nil {
				t.Fatal(err)
			}
			// The recording's last line is how the program ended.
			lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
			status := strings.TrimPrefix(lines[len(lines)-1], "status:")
			gather := NewGather()
			for _, line := range lines[:len(lines)-1] {
				if shown := gather.Line(line); strings.ContainsRune(shown, mark) {
					t.Errorf("shown with its mark: %q", shown)
				}
			}
			p := gather.End("some/package", status, 1.5)
			var report strings.Builder
			w, err := NewWriter(&report, "6.1.0")
			if err := errors.Join(err, w.Package(p), w.End()); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(report.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), report.String()); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			got, err := Read(strings.NewReader(report.String()), func(Package) {})
			if diff := cmp.Diff(Report{Kernel: "6.1.0", Packages: []Package{p}}, got); err != nil || diff != "" {
				t.Errorf("read back: %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// Ensure that nothing but a whole report is one.
func TestBadReports(t *testing.T) {
	const one = packageMark + `{"name":"p","seconds":1,"tests":[{"name":"TestX","verdict":"pass","seconds":0}]}` + "\n"
	tests := []struct {
		name, text string
		want       error
	}{
		{"empty", "", ErrNoSentinel},
		{"no sentinel", kernelMark + "6.1\n" + one, ErrNoSentinel},
		{"half a sentinel", one + endMark + "pass=1 fail=", ErrCounts},
		{"a package less", endMark + "pass=1 fail=0 skip=0\n", ErrCounts},
		{"a failure hidden", strings.Replace(one, `"pass"`, `"fail"`, 1) + endMark + "pass=1 fail=0 skip=0\n", ErrCounts},
		{"a package after the end", endMark + "pass=0 fail=0 skip=0\n" + one, ErrCounts},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Read(strings.NewReader(tt.text), func(Package) {}); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	for _, text := range []string{"hello\n", packageMark + "{\n"} {
		if r, err := Read(strings.NewReader(text), func(Package) {}); err == nil {
			t.Errorf("%q: got %+v, want an error", text, r)
		}
	}
}

// Ensure that no bytes from a guest make the host panic, and that a report which is
// taken for whole counts what it holds.
func FuzzRead(f *testing.F) {
	f.Add([]byte(kernelMark + "6.1\r\n" + packageMark + `{"name":"p","tests":[{"verdict":"skip"}]}` + "\r\n" + endMark + "pass=0 fail=0 skip=1\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var told Counts
		r, err := Read(strings.NewReader(string(text)), func(p Package) { told.add(p.Counts()) })
		if err != nil {
			return
		}
		var held Counts
		for _, p := range r.Packages {
			held.add(p.Counts())
		}
		if told != held {
			t.Errorf("told %+v, holds %+v", told, held)
		}
	})
}

// Ensure that no output of a test program is too odd to be accounted for, and that a
// program which failed is never taken for one that passed.
func FuzzGather(f *testing.F) {
	f.Add("\x16=== RUN   TestX\n    x_test.go:1: SKIP: needs y\n\x16--- SKIP: TestX (0.00s)\nPASS")
	f.Add("\x16=== RUN   TestX\n\x16=== RUN   TestX/a\nhalf\x16    --- FAIL: TestX/a (1.00s)\n\x16--- FAIL: TestX (1.00s)")
	f.Fuzz(func(t *testing.T, text string) {
		gather := NewGather()
		for line := range strings.SplitSeq(text, "\n") {
			gather.Line(line)
		}
		if p := gather.End("p", "exit status 1", 0); p.Counts().Fail == 0 {
			t.Errorf("failed and counted %+v", p)
		}
	})
}
