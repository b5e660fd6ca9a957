package process

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// actKind makes this test binary a sensor that acts on a bomb and may be killed.
const actKind = "VEDETTE_TEST_ACT"

// actUntilKilled keeps its state in a file, as the sensor does. The bomb's mark is
// an argument: in the environment it would make this process one of the bomb's.
func actUntilKilled(kind, mark, cgroup, file string) {
	b := &bomb{mark: append([]byte(mark), 0), cgroup: cgroup}
	a := b.act("op-1")
	a.Save = func() {
		raw, _ := json.Marshal(a.State)
		_ = os.WriteFile(file+".new", raw, 0o600)
		_ = os.Rename(file+".new", file)
	}
	h := open(Config{})
	if kind == "freeze" {
		_, _ = h.Freeze(context.Background(), a)
	} else {
		_, _ = h.Kill(context.Background(), a)
	}
}

// Ensure a sensor that is killed at any moment leaves nobody frozen that its state
// does not name, and the next one thaws them all.
func TestSensorIsKilled(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	h := open(Config{})
	interrupted, rounds := 0, 40
	if slow.Deadline(1) > 1 {
		rounds = 4
	}
	for i := range rounds {
		kind := []string{"freeze", "kill"}[i%2]
		b := light(t, "wide", mount, cgroup)
		file := filepath.Join(t.TempDir(), "state")
		sensor := exec.Command("/proc/self/exe", string(b.mark[:len(b.mark)-1]), cgroup, file)
		sensor.Env = []string{actKind + "=" + kind}
		if err := sensor.Start(); err != nil {
			t.Fatal(err)
		}
		// At another moment each time, from before the first pause on.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(i) * int64(2500*time.Microsecond)}, nil)
		_ = sensor.Process.Kill()
		_ = sensor.Wait()
		state := new(State)
		if raw, err := os.ReadFile(file); err == nil {
			if err := json.Unmarshal(raw, state); err != nil {
				t.Fatal(err)
			}
		}
		if frozen, _ := h.wantsFrozen(cgroup); frozen {
			interrupted++
		}
		if err := h.Thaw(Act{Operation: "op-1", State: state}); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		if frozen, err := h.wantsFrozen(cgroup); frozen || err != nil {
			t.Fatalf("round %d, %s: left frozen (%v); the state was %+v", i, kind, err, state)
		}
		for operation, paths := range h.Leftovers(nil) { // another package's tests may freeze theirs meanwhile
			if slices.Contains(paths, "/"+filepath.Base(cgroup)) {
				t.Fatalf("round %d, %s: left %s frozen by %s", i, kind, cgroup, operation)
			}
		}
		b.clear()
	}
	t.Logf("%d of %d were killed during a pause", interrupted, rounds)
}
