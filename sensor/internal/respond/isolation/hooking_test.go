package isolation

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Ensure a library that comes or goes is seen though a folder that did not change is not
// read again.
func TestReaders(t *testing.T) {
	dir := t.TempDir()
	library := filepath.Join(dir, "libnftnl.so.11")
	r := readers{}
	then := time.Now().Add(-time.Hour)
	for _, step := range []struct {
		name   string
		change func() error
		want   bool
	}{
		{"an empty folder", func() error { return nil }, false},
		{"a library comes", func() error { return os.WriteFile(library, nil, 0o600) }, true},
		{"nothing changes", func() error { return nil }, true},
		{"it goes", func() error { return os.Remove(library) }, false},
		{"the folder goes", func() error { return os.Remove(dir) }, false},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		// Of each step its own time: a clock of the file system may be coarser than they are.
		then = then.Add(time.Second)
		if _, err := os.Stat(dir); err == nil && step.name != "nothing changes" {
			if err := os.Chtimes(dir, then, then); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.in(dir); got != step.want {
			t.Errorf("%s: found %v, want %v", step.name, got, step.want)
		}
	}
}
