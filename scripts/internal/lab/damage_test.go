package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func overwrite(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// noise is random bytes: no format can be read out of them.
func noise(t *testing.T, n int) []byte {
	t.Helper()
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

// middle overwrites bytes in the middle of a file.
func middle(t *testing.T, path string, n int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[len(raw)/2:], noise(t, n))
	overwrite(t, path, raw)
}

// Ensure a sensor whose baseline or spool is damaged starts, says so once, has the
// loss counted at the coordinator, and goes on finding.
func TestDamagedStateIsSurvived(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	r.run(t, shell, "-c", "true", "before")
	r.untilFound(t, 10*time.Second, shell, "before")
	database := r.state("baseline.db")
	cases := []struct {
		name   string
		damage func(t *testing.T)
		log    []string // in one line of the log
		where  string
		cause  string
	}{
		{"baseline of noise", func(t *testing.T) { overwrite(t, database, noise(t, 64<<10)) },
			[]string{"baseline cannot be read", "moved_to"}, "baseline", "corrupt-file"},
		{"truncated baseline", func(t *testing.T) {
			if err := os.Truncate(database, 5000); err != nil {
				t.Fatal(err)
			}
		}, []string{"baseline cannot be read", "moved_to"}, "baseline", "corrupt-file"},
		{"empty baseline", func(t *testing.T) { overwrite(t, database, nil) },
			[]string{"baseline cannot be read", "empty"}, "baseline", "corrupt-file"},
		{"folder for a baseline", func(t *testing.T) {
			if err := errors.Join(os.Remove(database), os.Mkdir(database, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, []string{"baseline cannot be read", "is a directory"}, "baseline", "corrupt-file"},
		{"damaged spool segment", func(t *testing.T) {
			r.spoolWhileAway(t, shell)
			segments, err := filepath.Glob(r.state("spool", "*-c-*.seg"))
			if err != nil || len(segments) == 0 {
				t.Fatalf("no segment of critical records: %v", err)
			}
			for _, s := range segments {
				middle(t, s, 64)
			}
		}, []string{"spool was damaged"}, "spool", ""},
		{"spool position of noise", func(t *testing.T) { overwrite(t, r.state("spool", "position"), noise(t, 4000)) },
			[]string{"position file"}, "spool", "position"},
		{"empty spool position", func(t *testing.T) { overwrite(t, r.state("spool", "position"), nil) },
			[]string{"position file"}, "spool", "position"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before, err := r.detail(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			r.stop(t)
			c.damage(t)
			said := r.logged(t, c.log...)
			r.again(t)
			if n := r.logged(t, c.log...) - said; n != 1 {
				t.Errorf("%d lines of the log hold %q, want 1\n%s", n, c.log, r.sensor.Tail())
			}
			was := before.lost(c.where, c.cause)
			r.until(t, 15*time.Second, "the loss to be shown", func(ctx context.Context) (bool, error) {
				d, err := r.detail(ctx)
				return d.lost(c.where, c.cause) > was, err
			})
			marker := "after-" + strings.ReplaceAll(c.name, " ", "-")
			r.run(t, shell, "-c", "true", marker)
			if got := r.untilFound(t, 10*time.Second, shell, marker)[marker]; got != 1 {
				t.Errorf("told %d times, want once", got)
			}
		})
	}
}

// spoolWhileAway leaves findings in the spool of a stopped sensor: the node was away.
func (r *rig) spoolWhileAway(t *testing.T, shell string) {
	t.Helper()
	r.cluster.Members["c1"].Kill()
	r.again(t)
	for _, marker := range []string{"away-1", "away-2", "away-3"} {
		r.run(t, shell, "-c", "true", marker)
		r.until(t, 5*time.Second, "the spool to have it", func(context.Context) (bool, error) {
			return r.spooled(t, marker), nil
		})
	}
	r.stop(t)
	if err := r.cluster.StartNode(t.Context(), r.cluster.Nodes[0]); err != nil {
		t.Fatal(err)
	}
	if err := r.cluster.answers(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Ensure what cannot be healed by the sensor alone is refused with what to do.
func TestUnusableStateIsRefused(t *testing.T) {
	r := newRig(t)
	sensor := filepath.Join(r.lab.Bin, "vedette-sensor")
	refused := func(t *testing.T, through []string, want ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		args := append(slices.Clone(through), sensor, "--config", r.state("sensor.yaml"))
		out, err := r.lab.Run(r.ns, exec.CommandContext(ctx, args[0], args[1:]...))
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("got %v, want exit 1", err)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("it does not say %q:\n%s", w, out)
			}
		}
		if strings.Contains(string(out), "goroutine ") {
			t.Errorf("it panicked:\n%s", out)
		}
	}
	t.Run("two sensors with one state", func(t *testing.T) {
		refused(t, nil, "in use by another process", "another vedette-sensor")
	})
	r.stop(t)
	keep := map[string][]byte{}
	for _, name := range []string{"host.key", "host.crt", "roots.pem", "identity.json"} {
		raw, err := os.ReadFile(r.state("identity", name))
		if err != nil {
			t.Fatal(err)
		}
		keep[name] = raw
	}
	for name, raw := range keep {
		for damage, text := range map[string][]byte{"noise": noise(t, 500), "empty": nil, "truncated": raw[:len(raw)/2]} {
			t.Run(name+" "+damage, func(t *testing.T) {
				overwrite(t, r.state("identity", name), text)
				defer overwrite(t, r.state("identity", name), raw)
				refused(t, nil, "identity is damaged", name, "vedette token create", "vedette-sensor enroll")
			})
		}
	}
	t.Run("key that others may read", func(t *testing.T) {
		if err := os.Chmod(r.state("identity", "host.key"), 0o644); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Chmod(r.state("identity", "host.key"), 0o600) }()
		refused(t, nil, "can be read by others", "chmod 600")
	})
	t.Run("baseline of somebody else", func(t *testing.T) {
		if _, err := exec.LookPath("setpriv"); err != nil {
			t.Skip("SKIP: needs setpriv (util-linux)")
		}
		if err := os.Chown(r.state("baseline.db"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Chown(r.state("baseline.db"), 0, 0) }()
		refused(t, []string{"setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"}, "baseline.db", "permission denied", "chown it")
	})
	r.again(t) // whatever was refused has harmed nothing
}
