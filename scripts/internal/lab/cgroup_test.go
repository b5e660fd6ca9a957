package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cgroup makes an empty cgroup v2 and returns its folder and its path below the mount.
func cgroup(t *testing.T) (dir, path string) {
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
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				// Whoever is in it has just ended; the kernel takes a moment to notice.
				if err := Until(ctx, 10*time.Millisecond, "the cgroup to be empty", func(context.Context) (bool, error) {
					err := os.Remove(dir)
					return err == nil, err
				}); err != nil {
					t.Error(err)
				}
			})
			return dir, path
		}
	}
	t.Skip("SKIP: needs a cgroup v2 hierarchy")
	return "", ""
}

// Ensure a sensor limited to a cgroup sees what runs in it and nothing else, and
// refuses to isolate it with a reason that the operator gets to read.
func TestCgroupScope(t *testing.T) {
	needRoot(t)
	dir, path := cgroup(t)
	r := newRig(t)
	r.stop(t)
	r.spec.Scope = "cgroup:" + path
	r.again(t)
	shell := copied(t)
	inside, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	r.run(t, shell, "-c", "true", "outside")
	cmd := exec.CommandContext(t.Context(), shell, "-c", "true", "inside")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(inside.Fd())}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.run(t, shell, "-c", "true", "outside-again")
	times := r.untilFound(t, 15*time.Second, shell, "inside")
	r.until(t, 10*time.Second, "a summary", func(ctx context.Context) (bool, error) {
		d, err := r.detail(ctx)
		return d.execs(shell) > 0, err
	})
	d, err := r.detail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if times["inside"] != 1 || times["outside"]+times["outside-again"] != 0 || d.execs(shell) != 1 {
		t.Errorf("told %v and counted %d, want what ran inside, once", times, d.execs(shell))
	}
	r.refusesIsolation(t, "cgroup")
}

// Ensure a host whose owner forbids isolation refuses it with that reason.
func TestIsolationDisabled(t *testing.T) {
	r := newRig(t)
	r.stop(t)
	r.spec.More = "isolation:\n  enabled: false\n"
	r.again(t)
	r.refusesIsolation(t, "isolation.enabled is false")
}

// refusesIsolation orders it and wants a refusal that names the reason: in what the
// command prints, in the list, and by the exit code.
func (r *rig) refusesIsolation(t *testing.T, reason string) {
	t.Helper()
	r.until(t, 15*time.Second, "the host to be online", func(ctx context.Context) (bool, error) {
		hosts, err := r.cluster.Hosts(ctx)
		return hosts["web1"].State == "online", err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := r.lab.Run(r.cluster.CLIFrom, r.cluster.Command(ctx, "isolate", "web1", "--yes", "--wait", "--timeout", "15s", "--reason", "a test"))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() == 0 {
		t.Errorf("vedette isolate: got %v, want an error", err)
	}
	for _, want := range []string{"refused", reason} {
		if !strings.Contains(string(out), want) {
			t.Errorf("vedette isolate does not say %q:\n%s", want, out)
		}
	}
	list, err := r.cluster.CLI(ctx, "isolation", "list", "-o", "wide")
	if err != nil || !strings.Contains(string(list), "refused") || !strings.Contains(string(list), reason) {
		t.Errorf("isolation list: %v\n%s", err, list)
	}
	if d, err := r.detail(ctx); err != nil || d.Isolation == "applied" {
		t.Errorf("the host is %q after a refusal (%v)", d.Isolation, err)
	}
}
