package sensor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sensor.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Ensure what --print-config prints is a config that says the same.
func TestPrintedConfigReadsBack(t *testing.T) {
	want := DefaultConfig()
	want.Labels = map[string]string{"role": "web"}
	want.Scope = Scope{Kind: "cgroup", Path: "/system.slice"}
	want.SummaryInterval = 5 * time.Second
	text, err := want.Print()
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(write(t, string(text)))
	if err != nil {
		t.Fatal(err)
	}
	got.where = nil
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Config{})); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// Ensure every field is explained by --print-config.
func TestPrintExplainsEveryField(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Labels = map[string]string{"a": "b"}
	text, err := cfg.Print()
	if err != nil {
		t.Fatal(err)
	}
	explained := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "#"):
			explained = true
		case strings.Contains(line, "#"), strings.HasPrefix(line, "  a:"), strings.HasPrefix(line, "isolation:"):
			explained = false
		default:
			if !explained {
				t.Errorf("not explained: %s", line)
			}
			explained = false
		}
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"unknown key": {"state_dir: /x\nbaselin: {}\n", "[2:1]"},
		"nested":      {"baseline:\n  windo: 1m\n", "[2:3]"},
		"scope":       {"scope: planet\n", "line 1, scope: "},
		"duration":    {"state_dir: /x\nsummary_interval: soon\n", "line 2, summary_interval: "},
		"log level":   {"log_level: loud\n", "loud"},
		"not YAML":    {"{{{", "reading config"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := LoadConfig(write(t, c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// Ensure a value that cannot be is told with its line, and a default without one.
func TestValidateNamesLines(t *testing.T) {
	cfg, err := LoadConfig(write(t, "# ours\nsummary_interval: 2h\nbaseline:\n  learn_for: 1h\n  window: 1ms\ncoordinators:\n  - a:1\n  - no-port\n"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.StateDir = "here"
	err = cfg.validate()
	for _, want := range []string{".yaml:2: summary_interval 2h", ".yaml:5: baseline.window", ".yaml:7: coordinators", "\nstate_dir"} {
		if err == nil || !strings.Contains("\n"+err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// Ensure one run tells all that is wrong.
func TestValidateJoinsProblems(t *testing.T) {
	cfg := DefaultConfig()
	cfg.StateDir = "here"
	cfg.Coordinators = []string{"no-port"}
	cfg.SummaryInterval = time.Millisecond
	cfg.SpoolMaxBytes = 1
	cfg.Recorder.MaxBytes = 1
	err := cfg.validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"state_dir", "no-port", "summary_interval", "spool_max_bytes", "recorder.max_bytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}
