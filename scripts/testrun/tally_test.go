package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what is got into testdata/*.txt")

// Ensure each recorded run of go test -json reads as its transcript says and ends
// with the right counts.
func TestTranscripts(t *testing.T) {
	recordings, err := filepath.Glob("testdata/*.jsonl")
	if err != nil || len(recordings) == 0 {
		t.Fatalf("listing recordings: got %d, %v", len(recordings), err)
	}
	for _, recording := range recordings {
		name := strings.TrimSuffix(filepath.Base(recording), ".jsonl")
		t.Run(name, func(t *testing.T) {
			events, err := os.Open(recording)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = events.Close() }()
			var out bytes.Buffer
			tally := newTally(&out)
			if err := tally.read(events); err != nil {
				t.Fatalf("reading %s: %v", recording, err)
			}
			out.WriteString(tally.close().String() + "\n")
			for _, failed := range tally.failed {
				out.WriteString("FAILED " + failed.String() + "\n")
			}
			out.WriteString("slowest: " + tally.slowest(2) + "\n")

			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != string(want) {
				t.Errorf("transcript of %s\ngot:\n%s\nwant:\n%s", name, got, want)
			}
		})
	}
}

func TestReason(t *testing.T) {
	tests := []struct {
		name   string
		output []string
		want   string
	}{
		{"usual", []string{"=== RUN   TestX\n", "    x_test.go:9: SKIP: needs CAP_BPF\n", "--- SKIP: TestX (0.00s)\n"}, "needs CAP_BPF"},
		{"without the word", []string{"    x_test.go:9: no nft here: exit 1\n"}, "no nft here: exit 1"},
		{"several lines", []string{"    x_test.go:9: needs two things:\n", "        root\n"}, "needs two things: root"},
		{"none", []string{"=== RUN   TestX\n", "    x_test.go:9: \n"}, "no reason given"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := reason(tt.output); got != tt.want {
				t.Errorf("reason: got %q, want %q", got, tt.want)
			}
		})
	}
}

// Ensure a step is skipped by its last line and by no other.
func TestSkippedStep(t *testing.T) {
	tests := []struct {
		name, output, why string
		skip              bool
	}{
		{"skip", "building\nSKIP: needs qemu\n", "needs qemu", true},
		{"skip of a test within", "SKIP: needs fprobe\nFIGURE  VALUE\n", "", false},
		{"quiet", "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if why, ok := skipped([]byte(tt.output)); ok != tt.skip || ok && why != tt.why {
				t.Errorf("skipped: got %q, %t; want %q, %t", why, ok, tt.why, tt.skip)
			}
		})
	}
}

// Ensure a step that failed gives the names of what failed in it, and not its own.
func TestFailuresIn(t *testing.T) {
	report := "FAIL vmtest-6.12 467.5s: exit status 2\nbuilding\nFAIL kernel TestX (2.1 s)\n    x_test.go:1: no\nSKIP kernel TestY: none\n"
	if got, want := failuresIn(report), []string{"kernel TestX (2.1 s)"}; !slices.Equal(got, want) {
		t.Errorf("failures: got %q, want %q", got, want)
	}
	if got := failuresIn("FAIL lint 1.0s: exit status 1"); len(got) != 0 {
		t.Errorf("failures of a step that says none: got %q", got)
	}
}

// Ensure that steps that are run side by side are all counted, each with its own
// verdict, and shown in the order that they were asked for.
func TestGroup(t *testing.T) {
	t.Chdir(t.TempDir())
	// Each of the first two waits for the other, which one after the other would hang.
	makefile := "first:\n\t@mkfifo pipe 2>/dev/null; echo > pipe; echo 'SKIP: no luck'\n" +
		"second:\n\t@mkfifo pipe 2>/dev/null; cat pipe; echo 'UNSTEADY one of them'\nthird:\n\t@echo boom; false\n"
	if err := os.WriteFile("Makefile", []byte(makefile), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	var got []string
	for _, s := range runGroup(ctx, []string{"first", "second", "third"}, &out) {
		got = append(got, s.name+" "+s.verdict+" "+s.why+strings.Join(s.unsteady, ""))
	}
	if want := []string{"first skip no luck", "second pass UNSTEADY one of them", "third fail "}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	first, second, third := strings.Index(out.String(), "skip first"), strings.Index(out.String(), "ok   second"), strings.Index(out.String(), "FAIL third")
	if first < 0 || second < first || third < second || !strings.Contains(out.String()[third:], "boom") {
		t.Errorf("shown:\n%s", out.String())
	}
}

// Ensure that what runs beside the tests does so while they run, stands back for them, is
// counted, and is shown when they have ended.
func TestBeside(t *testing.T) {
	t.Chdir(t.TempDir())
	// Each of the two waits for the other, which one after the other would hang.
	source := "package p\n\nimport (\n\t\"os\"\n\t\"syscall\"\n\t\"testing\"\n)\n\nfunc TestHears(t *testing.T) {\n" +
		"\t_ = syscall.Mkfifo(\"pipe\", 0o600)\n\theard, _ := os.ReadFile(\"pipe\")\n\t_ = os.WriteFile(\"heard\", heard, 0o600)\n}\n"
	for name, text := range map[string]string{
		"go.mod": "module example.test/p\n\ngo 1.26\n", "p_test.go": source,
		"Makefile": "other:\n\t@mkfifo pipe 2>/dev/null; nice > pipe; echo 'SKIP: no luck'\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	got, err := run(ctx, config{beside: []string{"other"}, packages: []string{"."}, timeout: time.Minute, parallel: 1}, &out)
	if want := (counts{passed: 1, skipped: 1}); err != nil || got != want {
		t.Errorf("got %s, %v; want %s\n%s", got, err, want, out.String())
	}
	tests, other := strings.Index(out.String(), "ok   example.test/p"), strings.Index(out.String(), "skip other")
	if tests < 0 || other < tests || !strings.Contains(out.String()[other:], "SKIP other: no luck") {
		t.Errorf("shown:\n%s", out.String())
	}
	heard, err := os.ReadFile("heard")
	if err != nil {
		t.Fatal(err)
	}
	mine, err := exec.Command("nice").Output()
	if err != nil {
		t.Fatal(err)
	}
	var own, its int
	if _, err := fmt.Sscan(string(mine)+string(heard), &own, &its); err != nil {
		t.Fatal(err)
	}
	if want := min(own+8, 19); its != want {
		t.Errorf("it ran at nice %d, want %d: the tests run at %d", its, want, own)
	}
}
