package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// rig is one coordinator and one scoped host in a namespace of its own.
type rig struct {
	lab     *Lab
	cluster *Cluster
	ns      *Namespace
	spec    SensorSpec
	sensor  *Process
}

func newRig(t *testing.T) *rig {
	t.Helper()
	labtest.NeedRoot(t)
	bin, err := labtest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{lab: l}
	if r.ns, err = l.Namespace(fmt.Sprintf("vlab-%d", os.Getpid())); err != nil {
		t.Fatal(err)
	}
	// The node lives in the namespace too: its loopback is the whole network.
	node := NodeSpec{ID: "c1", Listen: "127.0.0.1:" + labtest.FreePort(t, r.ns.Do, "udp"), Operator: "127.0.0.1:" + labtest.FreePort(t, r.ns.Do, "tcp"), NS: r.ns}
	if r.cluster, err = l.StartCluster(t.Context(), []NodeSpec{node}, func(string) {}); err != nil {
		t.Fatal(err)
	}
	r.spec = SensorSpec{
		Name: "web1", Scope: "netns:" + r.ns.Path(), NS: r.ns,
		SummaryInterval: time.Second, Window: time.Second, KnownWindows: 2, LearnFor: time.Hour,
	}
	r.start(t)
	return r
}

func (r *rig) start(t *testing.T) {
	t.Helper()
	var err error
	if r.sensor, err = r.cluster.StartSensor(t.Context(), r.spec); err != nil {
		t.Fatal(err)
	}
	r.until(t, time.Minute, "the sensor to be online", func(ctx context.Context) (bool, error) {
		select {
		case <-r.sensor.Exited():
			t.Fatalf("the sensor ended:\n%s", r.sensor.Tail())
		default:
		}
		hosts, err := r.cluster.Hosts(ctx)
		return hosts["web1"].State == "online" && hosts["web1"].Total > 0, err
	})
}

func (r *rig) until(t *testing.T, most time.Duration, what string, holds func(context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), most, fmt.Errorf("not within %s", most))
	defer cancel()
	if err := Until(ctx, 50*time.Millisecond, what, holds); err != nil {
		t.Fatal(err)
	}
}

type seen struct {
	ID      string `json:"id"`
	Process struct {
		Image     string   `json:"image"`
		Argv      []string `json:"argv"`
		PID       int      `json:"pid"`
		Ancestors []struct {
			Image string `json:"image"`
			PID   int    `json:"pid"`
		} `json:"ancestors"`
	} `json:"process"`
	Evidence struct {
		Flows []struct {
			Remote string `json:"remote"`
		} `json:"flows"`
	} `json:"evidence"`
}

func (r *rig) found(ctx context.Context, image string) ([]seen, error) {
	var all []seen
	err := r.cluster.JSON(ctx, &all, "finding", "list")
	return slices.DeleteFunc(all, func(s seen) bool { return s.Process.Image != image }), err
}

// copied is a shell at a path that no ordinary program has.
func copied(t *testing.T) string {
	t.Helper()
	// Digits enough for a behaviour's name to have a star for them, whatever the PID.
	path := fmt.Sprintf("/dev/shm/vlab-%07d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	raw, err := os.ReadFile("/bin/bash")
	if err != nil {
		t.Skipf("SKIP: needs /bin/bash: %v", err)
	}
	if err := os.WriteFile(path, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
	return path
}

// Ensure a shell run from shared memory that connects out is found with the
// right process, arguments, ancestors and peer.
func TestShellFromSharedMemoryIsFound(t *testing.T) {
	r := newRig(t)
	var target net.Listener
	if err := r.ns.Do(func() (err error) {
		target, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	shell := copied(t)
	host, port, err := net.SplitHostPort(target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%s; echo hello >&3", host, port)
	began := time.Now()
	if _, err := r.lab.Run(r.ns, exec.CommandContext(t.Context(), shell, "-c", script)); err != nil {
		t.Fatal(err)
	}
	var got seen
	r.until(t, 10*time.Second, "the finding with its peer", func(ctx context.Context) (bool, error) {
		all, err := r.found(ctx, shell)
		for _, f := range all {
			for _, flow := range f.Evidence.Flows {
				if flow.Remote == target.Addr().String() {
					got = f
					return true, nil
				}
			}
		}
		return false, err
	})
	t.Logf("exec → finding with its peer: %s (wanted: 2 s)", time.Since(began))
	if want := []string{shell, "-c", script}; !slices.Equal(got.Process.Argv, want) {
		t.Errorf("argv %q, want %q", got.Process.Argv, want)
	}
	if len(got.Process.Ancestors) == 0 || got.Process.Ancestors[0].PID != os.Getpid() {
		t.Errorf("ancestors %+v, want first this test (%d)", got.Process.Ancestors, os.Getpid())
	}
}

// Ensure what is measured and tried here comes as often as the installed sensor does.
func TestSensorRunsAsInstalled(t *testing.T) {
	unit, err := os.ReadFile("../../package/units/vedette-sensor.service")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(unit), "\nTimerSlackNSec=")
	line, _, _ := strings.Cut(rest, "\n")
	want, err := time.ParseDuration(line)
	if err != nil {
		t.Fatal("the unit's TimerSlackNSec:", err)
	}
	r := newRig(t)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", r.sensor.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		raw, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := time.ParseDuration(strings.TrimSpace(string(raw)) + "ns"); err != nil || got != want {
			t.Errorf("thread %s has a timer slack of %s, %v; the unit gives it %s", thread.Name(), got, err, want)
		}
	}
}

// Ensure what was found is still there after node and sensor were killed, and
// that the sensor goes on by itself.
func TestKilledProgramsResume(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	r.run(t, shell, "-c", "true", "before")
	r.untilFound(t, 10*time.Second, shell, "before")

	r.cluster.Members["c1"].Kill()
	r.run(t, shell, "-c", "true", "meanwhile") // nobody listens
	r.until(t, 10*time.Second, "the spool to have it", func(context.Context) (bool, error) { return r.spooled(t, "meanwhile"), nil })
	r.sensor.Kill()
	if err := r.cluster.StartNode(t.Context(), r.cluster.Nodes[0]); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	for marker, times := range r.untilFound(t, 30*time.Second, shell, "before", "meanwhile") {
		if (marker == "before" || marker == "meanwhile") && times != 1 {
			t.Errorf("the finding %q is told %d times, want once", marker, times)
		}
	}
}

// Ensure bad input gets an error that says what to do.
func TestSensorRefuses(t *testing.T) {
	r := newRig(t)
	sensor := filepath.Join(r.lab.Bin, "vedette-sensor")
	config := func(text string) string {
		path := filepath.Join(t.TempDir(), "sensor.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fresh := func() string { return "state_dir: " + t.TempDir() + "\n" }
	node := r.cluster.Nodes[0].Listen
	good, err := r.cluster.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	enroll := func(token string) []string {
		return []string{"enroll", "--config", config(fresh()), "--coordinator", node, "--token", token}
	}
	wrong := strings.Split(good, ".")
	wrong[2] = strings.Repeat("a", len(wrong[2]))
	cases := []struct {
		name string
		args []string
		want string
	}{
		{"not enrolled", []string{"--config", config(fresh())}, "enroll"},
		{"unknown key", []string{"--config", config("statedir: /x\n")}, "[1:1]"},
		{"not a token", enroll("hello"), "vedette token create"},
		{"wrong secret", enroll(strings.Join(wrong, ".")), "token"},
		{"nobody listens", []string{"enroll", "--config", config(fresh()), "--coordinator", "127.0.0.1:9", "--token", good}, "127.0.0.1:9"},
		{"good token", enroll(good), ""},
		{"used token", enroll(good), "token"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			out, err := r.lab.Run(r.ns, exec.CommandContext(ctx, sensor, c.args...))
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), c.want) {
				t.Errorf("got %v, want exit 1 and %q", err, c.want)
			}
			if strings.Contains(string(out), good) {
				t.Error("it printed the token")
			}
		})
	}
}

// Ensure a sensor without the right to load eBPF programs says which one it lacks.
func TestSensorNamesMissingCapability(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("SKIP: needs setpriv (util-linux)")
	}
	r := newRig(t)
	r.stop(t)
	for _, name := range []string{"bpf", "perfmon"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "setpriv", "--bounding-set", "-sys_admin,-"+name, "--inh-caps", "-all",
				filepath.Join(r.lab.Bin, "vedette-sensor"), "--config", filepath.Join(r.lab.StateDir("web1"), "sensor.yaml"))
			out, err := r.lab.Run(r.ns, cmd)
			if err == nil || !strings.Contains(string(out), "CAP_"+strings.ToUpper(name)) {
				t.Errorf("got %v, want an error that names CAP_%s", err, strings.ToUpper(name))
			}
		})
	}
}
