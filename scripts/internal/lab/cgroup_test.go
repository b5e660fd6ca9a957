package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// Ensure a sensor limited to a cgroup sees what runs in it and nothing else, and
// refuses to isolate it with a reason that the operator gets to read.
func TestCgroupScope(t *testing.T) {
	labtest.NeedRoot(t)
	dir, path := labtest.Cgroup(t)
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
