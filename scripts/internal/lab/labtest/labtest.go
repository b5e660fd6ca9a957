// Package labtest is what the tests of real programs share: the programs, built once,
// a free port, a cgroup, and how a figure is told.
package labtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Programs is the folder of the three programs: VEDETTE_BIN, or they are built once for all
// tests of a package.
var Programs = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("VEDETTE_BIN"); bin != "" {
		return bin, nil
	}
	bin, err := os.MkdirTemp("", "vedette-bin-")
	if err != nil {
		return "", err
	}
	for name, cgo := range map[string]string{"vedette": "0", "vedette-sensor": "0", "vedette-coordinator": "1"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(bin, name), "github.com/vedette-edr/vedette/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return bin, fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return bin, nil
})

// Main runs the tests and removes what Programs built.
func Main(m *testing.M) int {
	code := m.Run()
	if bin, err := Programs(); err == nil && os.Getenv("VEDETTE_BIN") == "" {
		_ = os.RemoveAll(bin)
	}
	return code
}

// NeedRoot skips a test that cannot run without.
func NeedRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root for eBPF and network namespaces")
	}
}

// FreePort is one of loopback where do runs what it is given: "udp" or "tcp".
func FreePort(t *testing.T, do func(func() error) error, network string) (port string) {
	t.Helper()
	err := do(func() error {
		var address string
		if network == "udp" {
			conn, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			address = conn.LocalAddr().String()
			defer conn.Close()
		} else {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			address = listener.Addr().String()
			defer listener.Close()
		}
		_, p, err := net.SplitHostPort(address)
		port = p
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Cgroup makes an empty cgroup v2 and returns its folder and its path below the mount.
func Cgroup(t *testing.T) (dir, path string) {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if before, _, ok := strings.Cut(lines.Text(), " - cgroup2 "); ok {
			path = fmt.Sprintf("/vlab-%d", os.Getpid())
			dir = filepath.Join(strings.Fields(before)[4], path)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Skipf("SKIP: needs a cgroup v2 hierarchy that can be written: %v", err)
			}
			t.Cleanup(func() {
				// Whoever is in it has just ended; the kernel takes a moment to notice.
				retry, late := time.NewTicker(10*time.Millisecond), time.After(5*time.Second)
				defer retry.Stop()
				for err := os.Remove(dir); err != nil; err = os.Remove(dir) {
					select {
					case <-retry.C:
					case <-late:
						t.Errorf("the cgroup is not empty: %v", err)
						return
					}
				}
			})
			return dir, path
		}
	}
	t.Skip("SKIP: needs a cgroup v2 hierarchy")
	return "", ""
}

// Figure prints one measured figure and appends it to the file VEDETTE_OUT.
func Figure(t testing.TB, name string, value float64, unit, target string, ok bool, note string) {
	t.Helper()
	t.Logf("%-36s %12.3f %-8s target %-10s ok=%v %s", name, value, unit, target, ok, note)
	if !ok {
		t.Errorf("%s = %g %s, target %s", name, value, unit, target)
	}
	path := os.Getenv("VEDETTE_OUT")
	if path == "" {
		return
	}
	row, err := json.Marshal(map[string]any{"name": name, "value": value, "unit": unit, "target": target, "ok": ok, "note": note})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("opening VEDETTE_OUT: %v", err)
	}
	defer f.Close()
	if _, err := f.Write(append(row, '\n')); err != nil {
		t.Fatalf("writing VEDETTE_OUT: %v", err)
	}
}
