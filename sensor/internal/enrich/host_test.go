package enrich

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOSName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(path, []byte("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := osName("/nowhere", path), "Debian GNU/Linux 12 (bookworm)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := osName("/nowhere"); got != "" {
		t.Errorf("got %q of no file", got)
	}
}

// Ensure the host's facts come without starting a program: the sensor is root
// and the PATH is not its own.
func TestHostFactsRunsNothing(t *testing.T) {
	dir := t.TempDir()
	marker := filepath.Join(dir, "ran")
	script := "#!/bin/sh\ntouch " + marker + "\n"
	for _, name := range []string{"lsb_release", "uname", "hostname"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	facts, err := HostFacts()
	if err != nil {
		t.Fatal(err)
	}
	if facts.Name == "" || facts.Kernel == "" || facts.Arch == "" {
		t.Errorf("incomplete: %+v", facts)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a program from the PATH was run")
	}
}
