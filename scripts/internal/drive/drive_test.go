package drive

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Ensure the driver does what it is told as often as it says, and says when it cannot.
func TestDriver(t *testing.T) {
	dir := t.TempDir()
	d, err := Build(t.Context(), dir)
	if errors.Is(err, ErrNoCompiler) {
		t.Skip("SKIP: needs a C compiler")
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const n = 7
	for _, c := range []struct{ kind, path string }{{"spawn", d.Tiny}, {"spawn", "/bin/true"}, {"open", file}} {
		out, err := d.Repeat(t.Context(), c.kind, c.path, n, 0).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v: %s", c.kind, c.path, err, out)
		}
		done, err := Parse(out)
		if err != nil || done.Ops != n || done.Took() <= 0 {
			t.Errorf("%s %s: got %+v, %v, want %d times", c.kind, c.path, done, err, n)
		}
	}
	if out, err := d.Command(t.Context(), "mix", "1", d.Tiny, file, "10", "0", "0", "20").CombinedOutput(); err != nil {
		// It serves names at port 53, which a machine may do already.
		if !strings.Contains(string(out), "bind") {
			t.Errorf("mix: %v: %s", err, out)
		}
	} else if done, err := Parse(out); err != nil || done.Spawns != 10 || done.Opens != 20 {
		t.Errorf("mix: got %+v, %v", done, err)
	}
	for _, c := range [][]string{{"spawn", dir + "/absent", "1", "0"}, {"open", dir + "/absent", "1", "0"}, {"spawn", d.Tiny, "x", "0"}, {"nothing"}} {
		out, err := d.Command(t.Context(), c...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !strings.Contains(string(out), "drive") {
			t.Errorf("%v: got %v: %s, want a complaint", c, err, out)
		}
	}
	if _, err := Parse([]byte("drive: nothing")); err == nil {
		t.Error("what is no JSON was read")
	}
}
