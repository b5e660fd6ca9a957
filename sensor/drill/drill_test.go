package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/drill"
)

const envRun = "VEDETTE_DRILL_TEST_RUN"

// A drill's processes are this program again, and so is a run that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "drill" && os.Args[2] == "act" {
		unix.Umask(0o077) // as the sensor's program has it
		os.Exit(Act(context.Background(), os.Args[3:]))
	}
	if os.Getenv(envHostile) != "" {
		if err := hostile(os.Getenv(envOutside)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if base := os.Getenv(envRun); base != "" {
		if _, err := Run(context.Background(), Config{Base: base, Drills: drill.All()}); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Ensure every drill of the catalogue can be done, and nothing is done that is not in it.
func TestBodies(t *testing.T) {
	known := map[string]bool{}
	for _, d := range drill.All() {
		known[d.ID] = true
		if bodies[d.ID] == nil {
			t.Errorf("drill %s does nothing", d.ID)
		}
	}
	for id := range bodies {
		if !known[id] {
			t.Errorf("the catalogue has no drill %s", id)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root for namespaces")
	}
}

// base is not below /tmp, where a program is odd by itself and which may be mounted noexec.
func base(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "vedette-drill-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // some drills run as a service's account
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "drills")
}

// everything is what all drills are about on this host, and the places where they make something.
func everything() drill.Drill {
	var all drill.Drill
	for _, d := range drill.All() {
		all.Paths += " " + d.Paths
	}
	return all
}

// left names what a run made on the host and should not be there any more.
func left(t *testing.T, nonce string) (all []string) {
	t.Helper()
	for _, dir := range []string{"/tmp/", "/var/tmp/", "/dev/shm/"} {
		for _, pattern := range []string{"*", ".*"} {
			found, err := filepath.Glob(dir + pattern + nonce + "*")
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, found...)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, nonce) {
			all = append(all, line)
		}
	}
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range pids {
		if hasMark(proc, envMark+"="+drill.MarkPrefix+nonce+".") {
			all = append(all, proc)
		}
	}
	return all
}

// Ensure every drill can be done here or says what it lacks, changes nothing of the host, and
// leaves nothing.
func TestAllDrills(t *testing.T) {
	needRoot(t)
	dir := base(t)
	before := look(everything())
	run, err := Run(t.Context(), Config{Base: dir, Drills: drill.All()})
	if err != nil {
		t.Fatal(err)
	}
	if len(run.Drills) != len(drill.All()) {
		t.Errorf("%d of %d drills were done", len(run.Drills), len(drill.All()))
	}
	skipped := 0
	for _, d := range run.Drills {
		switch {
		case d.State == drill.StateSkipped:
			skipped++
			t.Logf("%s: %s", d.ID, d.Why)
			if !strings.HasPrefix(d.Why, "needs ") {
				t.Errorf("%s is skipped without a need: %q", d.ID, d.Why)
			}
		case d.State != drill.StateDone:
			t.Errorf("%s: %s: %s", d.ID, d.State, d.Why)
		}
		if !d.Clean {
			t.Errorf("%s left %q", d.ID, d.Left)
		}
	}
	if done := len(run.Drills) - skipped; done < 40 {
		t.Errorf("%d drills were done, want 40 at least", done)
	}
	if changed := before.differs(look(everything())); len(changed) > 0 {
		t.Errorf("the host is not as it was: %q", changed)
	}
	if more := left(t, run.Nonce); len(more) > 0 {
		t.Errorf("there is still: %q", more)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 { // the lock
		t.Errorf("the drills' folder has %v (%v)", entries, err)
	}
}

// Ensure a run that is killed at any point is undone by Clean.
func TestKilledHalfway(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	dice := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	before := look(everything())
	for range 6 {
		dir := base(t)
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), envRun+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.NewTimer(time.Duration(dice.IntN(25_000)) * time.Millisecond)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-after.C:
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			<-ended
		case <-ended:
		}
		after.Stop()
		cleaned, err := Clean(dir)
		t.Logf("cleaned %v", cleaned)
		if err != nil {
			t.Errorf("cleaning: %v", err)
		}
		for _, nonce := range cleaned {
			if more := left(t, nonce); len(more) > 0 {
				t.Errorf("there is still: %q", more)
			}
		}
		if again, err := Clean(dir); err != nil || len(again) > 0 {
			t.Errorf("cleaned %v again (%v)", again, err)
		}
	}
	if changed := before.differs(look(everything())); len(changed) > 0 {
		t.Errorf("the host is not as it was: %q", changed)
	}
}

// Ensure what a journal names is undone only where it can be a run's own.
func TestForeignJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "0badc0de")
	keep := filepath.Join(t.TempDir(), "precious")
	own := filepath.Join(t.TempDir(), "vedette-drill-0badc0de")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(keep, 0o700), os.Mkdir(own, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, e := range []entry{{"m", "remove", keep}, {"m", "remove", own}, {"m", "umount", "/proc"}, {"m", "umount", keep}, {"m", "remove", "vedette-drill-0badc0de"}, {"m", "remove", own + "/.."}} {
		if err := note(dir, e); err != nil {
			t.Fatal(err)
		}
	}
	// A torn line is what was not begun.
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"mark":"m","undo":"remo`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	err = undo(dir, "")
	if n := strings.Count(err.Error(), errForeign.Error()); n != 5 {
		t.Errorf("%d entries are refused, want 5: %v", n, err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error("what is no drill's was removed")
	}
	if _, err := os.Stat(own); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what is a drill's is still there")
	}
}

// Ensure two runs do not meet.
func TestOneRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "drills")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Clean(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("cleaning beside a run: got %v, want %v", err, ErrBusy)
	}
	unlock()
	if _, err := Clean(dir); err != nil {
		t.Error(err)
	}
}

// Ensure a folder that is not ours is left as it is, and so is what lies in ours and is no run's.
func TestForeignFolder(t *testing.T) {
	foreign := t.TempDir()
	link, open := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "open")
	unlock, err := lock(open)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := errors.Join(os.Mkdir(filepath.Join(foreign, "0badc0de"), 0o700), os.WriteFile(filepath.Join(foreign, "0badc0de", "precious"), nil, 0o600),
		os.Symlink(foreign, link), os.Chmod(foreign, 0o750), os.Chmod(open, 0o777)); err != nil { //nolint:gosec // what is refused
		t.Fatal(err)
	}
	before := look(drill.Drill{Paths: foreign + " " + link + " " + open})
	for _, dir := range []string{foreign, link, open} {
		if _, err := Clean(dir); err == nil || !strings.Contains(err.Error(), "--dir") {
			t.Errorf("cleaning %s: got %v, want what to do", dir, err)
		}
		if _, err := lock(dir); err == nil {
			t.Errorf("%s is taken", dir)
		}
	}
	if changed := before.differs(look(drill.Drill{Paths: foreign + " " + link + " " + open})); len(changed) > 0 {
		t.Error(changed)
	}
	if err := os.Chmod(open, 0o711); err != nil { //nolint:gosec // as it was made
		t.Fatal(err)
	}
	for _, name := range []string{"0badc0de", "0badc0df", "0badc0d0"} {
		if err := errors.Join(os.Mkdir(filepath.Join(open, name), 0o700), os.WriteFile(filepath.Join(open, name, "precious"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(open, "0badc0df", runMark), nil, 0o600), os.Remove(filepath.Join(open, "0badc0d0", "precious"))); err != nil {
		t.Fatal(err)
	}
	if cleaned, err := Clean(open); err != nil || len(cleaned) != 1 || cleaned[0] != "0badc0df" {
		t.Errorf("cleaned %v (%v), want the run with a mark", cleaned, err)
	}
	if _, err := os.Stat(filepath.Join(open, "0badc0de", "precious")); err != nil {
		t.Errorf("what is no run's: %v", err)
	}
	if there, err := os.ReadDir(open); err != nil || len(there) != 2 {
		t.Errorf("there is %v (%v), want the mark and what is no run's", there, err)
	}
}
