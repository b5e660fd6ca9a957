package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// open gives a slow machine the time to stop and to end processes.
func open(cfg Config) *Host {
	cfg.Wait = slow.Deadline(5 * time.Second)
	return Open(cfg)
}

// Ensure nothing of a tree survives, however it forks.
func TestKillFinds(t *testing.T) {
	mount := mountOf(t)
	for _, kind := range []string{"sleep", "wide", "hop", "daemons"} {
		t.Run(kind, func(t *testing.T) {
			rounds := 34
			if kind == "sleep" || slow.Deadline(1) > 1 {
				rounds = 3 // an emulated machine takes its time for a hundred processes
			}
			cgroup := newCgroup(t, mount)
			h := open(Config{})
			for i := range rounds {
				b := light(t, kind, mount, cgroup)
				a := b.act("op-kill")
				killed, err := h.Kill(t.Context(), a)
				if err != nil || len(killed.PIDs) == 0 {
					t.Fatalf("round %d: got %v, %v", i, killed, err)
				}
				for range 3 {
					if left := b.living(); len(left) > 0 {
						t.Fatalf("round %d: %d survived: %v", i, len(left), left)
					}
					_ = pause(t.Context(), 2*time.Millisecond)
				}
				if frozen, err := h.wantsFrozen(cgroup); err != nil || frozen || len(a.State.Paused) > 0 {
					t.Fatalf("round %d: the cgroup is left frozen (%v, %v, %v)", i, frozen, err, a.State.Paused)
				}
				b.clear()
			}
		})
	}
}

// Ensure a wide tree ends also where nothing can be paused.
func TestKillWithoutCgroups(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	for range 3 {
		b := light(t, "wide", mount, cgroup)
		if killed, err := open(Config{Cgroup: "none"}).Kill(t.Context(), b.act("op-kill")); err != nil || len(b.living()) > 0 {
			t.Fatalf("got %v, %v; %d survived", killed, err, len(b.living()))
		}
		b.clear()
	}
}

// Ensure who lives beside the tree in its cgroup goes on.
func TestKillSparesNeighbours(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	neighbour, b := light(t, "sleep", mount, cgroup), light(t, "wide", mount, cgroup)
	if _, err := open(Config{}).Kill(t.Context(), b.act("op-kill")); err != nil {
		t.Fatal(err)
	}
	if got := neighbour.living(); len(got) != 1 {
		t.Errorf("%d of one neighbour live", len(got))
	}
}

// Ensure the tree by /proc's word is met from its root down.
func TestKillDescends(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	b := light(t, "wide", mount, cgroup)
	a := b.act("op-kill")
	a.Tree = Tree{Members: func() []Member { return []Member{{Key: b.root}} }, Descend: true}
	killed, err := open(Config{}).Kill(t.Context(), a)
	if err != nil || len(b.living()) > 0 {
		t.Errorf("got %v, %v; %d survived", killed, err, len(b.living()))
	}
}

// Ensure a PID that has another owner now is left alone.
func TestAnotherOwner(t *testing.T) {
	mount := mountOf(t)
	b := light(t, "sleep", mount, newCgroup(t, mount))
	a := b.act("op-1")
	stale := event.ProcessKey{PID: b.root.PID, Start: b.root.Start - 5*tick}
	a.Tree = Tree{Members: func() []Member { return []Member{{Key: stale}} }, Descend: true}
	h := open(Config{Settle: time.Millisecond})
	if _, err := h.Plan(a.Tree); !errors.Is(err, ErrNobody) {
		t.Errorf("plan: got %v, want %v", err, ErrNobody)
	}
	if killed, err := h.Kill(t.Context(), a); err != nil || len(killed.PIDs) != 0 {
		t.Errorf("kill: got %v, %v", killed, err)
	}
	if _, err := h.Freeze(t.Context(), a); !errors.Is(err, ErrNobody) {
		t.Errorf("freeze: got %v, want %v", err, ErrNobody)
	}
	if len(b.living()) != 1 {
		t.Error("it was ended")
	}
}

// Ensure the sensor, who it descends from, PID 1 and kernel threads are refused,
// and nobody else is touched then.
func TestProtected(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	h := open(Config{})
	for _, pid := range []int{1, 2, os.Getpid(), os.Getppid()} {
		b := light(t, "sleep", mount, cgroup)
		a := b.act("op-1")
		told := a.Tree.Members
		a.Tree.Members = func() []Member {
			seen, _ := h.look(pid)
			return append(told(), Member{Key: seen.key()})
		}
		_, err := h.Kill(t.Context(), a)
		if !errors.Is(err, ErrProtected) || len(b.living()) != 1 {
			t.Errorf("PID %d: got %v, %d living", pid, err, len(b.living()))
		}
		if _, err := h.Freeze(t.Context(), a); !errors.Is(err, ErrProtected) {
			t.Errorf("freezing PID %d: got %v", pid, err)
		}
		b.clear()
	}
	// The sensor as a child of the tree.
	b := light(t, "sleep", mount, cgroup)
	sensor := exec.Command("/proc/self/exe")
	sensor.Env = []string{bombKind + "=sleep"}
	if err := sensor.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sensor.Process.Kill(); _ = sensor.Wait() }()
	own := open(Config{Self: int(b.root.PID)})
	if _, err := own.Plan(b.tree()); !errors.Is(err, ErrProtected) || !strings.Contains(err.Error(), "it is the sensor") {
		t.Errorf("the sensor's own: got %v", err)
	}
	if own.mayPause(cgroup) {
		t.Error("the sensor's own cgroup could be paused")
	}
}

// Ensure a freeze holds the whole tree, and its undo restores each process to its
// cgroup and its state.
func TestFreezeAndThaw(t *testing.T) {
	mount := mountOf(t)
	for _, kind := range []string{"sleep", "wide", "hop", "daemons"} {
		t.Run(kind, func(t *testing.T) {
			cgroup := newCgroup(t, mount)
			h := open(Config{})
			b := light(t, kind, mount, cgroup)
			a := b.act("op-freeze")
			if kind == "sleep" {
				_ = unix.Kill(int(b.root.PID), unix.SIGSTOP)
				await(t, "stopped", func() bool { now, _ := h.look(int(b.root.PID)); return now.stopped() })
			}
			frozen, err := h.Freeze(t.Context(), a)
			if err != nil || frozen.BySignal != 0 {
				t.Fatalf("got %v, %v", frozen, err)
			}
			before := pidsOf(b.living())
			_ = pause(t.Context(), 20*time.Millisecond)
			if after := pidsOf(b.living()); !slices.Equal(before, after) {
				t.Fatalf("the frozen tree changed from %v to %v", before, after)
			}
			for _, pid := range before {
				if at, _ := h.cgroupOf(pid); at != cgroup+"/vedette-frozen-op-freeze" {
					t.Errorf("%d is in %s", pid, at)
				}
			}
			if err := h.Thaw(a); err != nil {
				t.Fatal(err)
			}
			for _, pid := range pidsOf(b.living()) {
				if at, ok := h.cgroupOf(pid); ok && at != cgroup {
					t.Errorf("%d is in %s after the undo", pid, at)
				}
			}
			if _, err := os.Stat(filepath.Join(mount, cgroup, "vedette-frozen-op-freeze")); !os.IsNotExist(err) {
				t.Errorf("the cgroup is still there: %v", err)
			}
			if kind == "sleep" {
				if now, _ := h.look(int(b.root.PID)); !now.stopped() {
					t.Errorf("it was stopped before and is %c now", now.state)
				}
			} else if len(a.State.Origins) != 0 {
				t.Errorf("the state is not empty: %v", a.State)
			}
			b.clear()
		})
	}
}

func pidsOf(members []Member) []int {
	var pids []int
	for _, m := range members {
		pids = append(pids, int(m.Key.PID))
	}
	slices.Sort(pids)
	return pids
}

// Ensure somebody's thaw is taken back.
func TestKeepFreezesAgain(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	h := open(Config{})
	b := light(t, "wide", mount, cgroup)
	a := b.act("op-1")
	if _, err := h.Freeze(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if again, err := h.Keep(t.Context(), a); again || err != nil {
		t.Fatalf("untouched: got %v, %v", again, err)
	}
	if err := h.setFrozen(a.group(cgroup), false); err != nil {
		t.Fatal(err)
	}
	if again, err := h.Keep(t.Context(), a); !again || err != nil {
		t.Fatalf("thawed: got %v, %v", again, err)
	}
	// Somebody takes one out.
	pid := pidsOf(b.living())[0]
	if err := os.WriteFile(filepath.Join(mount, cgroup, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
		t.Fatal(err)
	}
	if again, err := h.Keep(t.Context(), a); !again || err != nil {
		t.Fatalf("taken out: got %v, %v", again, err)
	}
	if !h.allHeld(a, mustMembers(t, h, a)) {
		t.Error("not all are frozen again")
	}
	// A lost record: what is found by name alone is enough for the way back.
	left := h.Leftovers(nil)
	if !slices.Equal(left["op-1"], []string{cgroup}) || len(h.Leftovers(map[string]bool{"op-1": true})["op-1"]) != 0 {
		t.Fatalf("got %v", left)
	}
	if err := h.Thaw(Act{Operation: "op-1", State: &State{Origins: left["op-1"]}}); err != nil || h.Anybody(a) {
		t.Errorf("got %v", err)
	}
}

func mustMembers(t *testing.T, h *Host, a Act) map[int]task {
	t.Helper()
	members, _, err := h.members(a.Tree)
	if err != nil {
		t.Fatal(err)
	}
	return members
}

// Ensure a freeze by signal leaves alone who was stopped before.
func TestFreezeBySignal(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	h := open(Config{Cgroup: "none"})
	ran, stopped := light(t, "sleep", mount, cgroup), light(t, "sleep", mount, cgroup)
	_ = unix.Kill(int(stopped.root.PID), unix.SIGSTOP)
	state := func(b *bomb) string { now, _ := h.look(int(b.root.PID)); return string(now.state) }
	await(t, "stopped", func() bool { return state(stopped) == "T" })
	a := ran.act("op-1")
	a.Tree.Members = func() []Member { return append(ran.living(), stopped.living()...) }
	saved := 0
	a.Save = func() {
		saved++
		if state(ran) == "T" {
			t.Error("stopped before it was saved")
		}
	}
	frozen, err := h.Freeze(t.Context(), a)
	if err != nil || frozen.BySignal != 2 || state(ran) != "T" || saved != 1 {
		t.Fatalf("got %v, %v, saved %d times", frozen, err, saved)
	}
	if err := h.Thaw(a); err != nil {
		t.Fatal(err)
	}
	await(t, "running", func() bool { return state(ran) != "T" })
	if state(stopped) != "T" {
		t.Error("the one that was stopped before runs")
	}
}

// Ensure a pause that a killed sensor left is taken back.
func TestRecover(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	h := open(Config{})
	b := light(t, "wide", mount, cgroup)
	a := b.act("op-1")
	var onDisk []State
	a.Save = func() { onDisk = append(onDisk, State{Paused: slices.Clone(a.State.Paused)}) }
	s, err := h.holdStill(t.Context(), a)
	if err != nil || s.loose {
		t.Fatalf("got %v", err)
	}
	// The sensor dies here: s is never released.
	if frozen, _ := h.wantsFrozen(cgroup); !frozen || len(onDisk) != 1 {
		t.Fatalf("frozen %v, saved %v", frozen, onDisk)
	}
	h.Recover(&onDisk[0])
	if frozen, _ := h.wantsFrozen(cgroup); frozen || len(onDisk[0].Paused) != 0 {
		t.Errorf("still frozen: %v", onDisk[0])
	}
}

// Ensure an end in the middle pauses nobody for ever.
func TestKillIsInterrupted(t *testing.T) {
	mount := mountOf(t)
	cgroup := newCgroup(t, mount)
	h := open(Config{Settle: slow.Deadline(time.Minute)})
	b := light(t, "wide", mount, cgroup)
	ctx, cancel := context.WithCancel(t.Context())
	a := b.act("op-1")
	a.Save = cancel
	if _, err := h.Kill(ctx, a); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if frozen, err := h.wantsFrozen(cgroup); frozen || err != nil {
		t.Errorf("left frozen: %v, %v", frozen, err)
	}
}

func TestNames(t *testing.T) {
	a := Act{Operation: "../x", Tree: Tree{Members: func() []Member { return nil }}, State: &State{}, Save: func() {}}
	if _, err := open(Config{}).Kill(t.Context(), a); !errors.Is(err, ErrOperation) {
		t.Errorf("got %v", err)
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2"))
	f.Add([]byte("("))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := parseStat(raw)
		if err == nil && strings.ContainsAny(got.name, "\x1b\n") {
			t.Errorf("a name that writes on a terminal: %q", got.name)
		}
	})
}

func TestStat(t *testing.T) {
	got, err := parseStat([]byte("7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2"))
	if want := (task{pid: 7, parent: 1, state: 'S', flags: 4194560, start: 123456, name: "a b) c"}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}
