package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Ensure a cluster that was made is there after a power cut: what init has told a person
// is done must not be gone with the page cache. The admin's key above all is nowhere else.
func TestInitSurvivesPowerCut(t *testing.T) {
	bin := os.Getenv("VEDETTE_BIN")
	if os.Geteuid() != 0 || bin == "" {
		t.Skip("SKIP: needs root and the built programs (VEDETTE_BIN)")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("SKIP: needs mkfs.ext4")
	}
	d := disks{dir: t.TempDir()}
	if err := d.make(t.Context(), 1, func(undo func() error) {
		t.Cleanup(func() {
			if err := undo(); err != nil {
				t.Error(err)
			}
		})
	}); err != nil {
		t.Fatal(err)
	}
	// A directory of its own, new as well.
	data := filepath.Join(d.mountpoint(0), "data")
	if err := program(t.Context(), filepath.Join(bin, "vedette-coordinator"), "init", "--data", data, "--id", "n1",
		"--listen", "127.0.0.1:17743", "--operator-listen", "127.0.0.1:17744"); err != nil {
		t.Fatal(err)
	}
	made, err := filepath.Glob(filepath.Join(data, "*"))
	if err != nil || len(made) < 6 {
		t.Fatalf("init made %q, %v", made, err)
	}
	if err := errors.Join(d.shutdown(0), program(t.Context(), "umount", d.mountpoint(0)), d.mount(t.Context(), 0)); err != nil {
		t.Fatal(err)
	}
	for _, path := range made {
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("after the power cut: %s: %v", filepath.Base(path), err)
		}
	}
}
