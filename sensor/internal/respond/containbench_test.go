package respond

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/process"
)

const (
	previewed = sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED

	freeze       = sensorv1.Action_ACTION_FREEZE
	kill         = sensorv1.Action_ACTION_KILL
	blockImage   = sensorv1.Action_ACTION_BLOCK_IMAGE
	blockAddress = sensorv1.Action_ACTION_BLOCK_ADDRESS
	blockName    = sensorv1.Action_ACTION_BLOCK_NAME
	lockAccount  = sensorv1.Action_ACTION_LOCK_ACCOUNT
	quarantine   = sensorv1.Action_ACTION_QUARANTINE_FILE
	neighbour    = sensorv1.Action_ACTION_BLOCK_NEIGHBOUR
)

const testShadow = "root:*:20228:0:99999:7:::\nalice:$y$hash:20228:0:99999:7:::\n"

// containBench is a host of which every part that a containment touches is the
// test's own: a namespace, a root, a file system for programs, a cgroup.
type containBench struct {
	*bench
	root, programs string
	resolved       []netip.Addr
	sleeper        *exec.Cmd
}

func newContainBench(t *testing.T, change func(*Config)) *containBench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root")
	}
	b := &containBench{root: t.TempDir(), programs: t.TempDir()}
	if err := unix.Mount("vedette-test", b.programs, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("SKIP: needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(b.programs, unix.MNT_DETACH) })
	state := filepath.Join(b.programs, "state")
	err := errors.Join(os.Mkdir(state, 0o700), os.MkdirAll(filepath.Join(b.root, "etc"), 0o755), os.MkdirAll(filepath.Join(b.root, "tmp"), 0o755),
		os.WriteFile(filepath.Join(b.root, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\nalice:x:64998:64998::/:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(b.root, "etc/shadow"), []byte(testShadow), 0o640),
		os.WriteFile(filepath.Join(b.root, "tmp/evil"), []byte("evil"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	b.bench = newBench(t, func(c *Config) {
		c.ScopeKind = "host" // whose accounts, files and programs it acts on
		c.StateDir = state
		c.Contain = &ContainConfig{
			Root: b.root, ExecDead: -1, Mounts: func() ([]string, error) { return []string{b.programs}, nil },
			Resolved:  func(string) []netip.Addr { return b.resolved },
			LookUp:    func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no resolver here") },
			Storyline: func(string) []process.Member { return b.members() },
		}
		if change != nil {
			change(c)
		}
	})
	return b
}

// members is the sleeper alone.
func (b *containBench) members() []process.Member {
	if b.sleeper == nil {
		return nil
	}
	m, ok := process.Open(process.Config{}).Look(b.sleeper.Process.Pid)
	if !ok {
		return nil
	}
	return []process.Member{m}
}

// sleep starts a process in a cgroup of its own.
func (b *containBench) sleep() *sensorv1.ProcessTarget {
	b.t.Helper()
	mount := ""
	for _, at := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(at + "/cgroup.procs"); err == nil {
			mount = at
		}
	}
	if mount == "" {
		b.t.Skip("SKIP: needs cgroup v2")
	}
	path, err := os.MkdirTemp(mount, "vedette-test-")
	if err != nil {
		b.t.Skipf("SKIP: needs to make cgroups: %v", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer dir.Close()
	b.sleeper = exec.Command("sleep", "1000")
	b.sleeper.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := b.sleeper.Start(); err != nil {
		b.t.Skipf("SKIP: needs sleep in a cgroup: %v", err)
	}
	ended := make(chan struct{})
	go func(cmd *exec.Cmd) { defer close(ended); _ = cmd.Wait() }(b.sleeper)
	b.t.Cleanup(func() {
		_ = os.WriteFile(path+"/cgroup.kill", []byte("1"), 0)
		<-ended
		inside, _ := filepath.Glob(path + "/*/cgroup.procs")
		for _, procs := range inside {
			b.t.Errorf("left behind: %s", procs)
			_ = os.Remove(filepath.Dir(procs))
		}
		if err := os.Remove(path); err != nil {
			b.t.Errorf("removing the test's cgroup: %v", err)
		}
	})
	key := b.members()[0].Key
	return &sensorv1.ProcessTarget{Pid: key.PID, Start: key.Start}
}

func (b *containBench) give(action sensorv1.Action, operation string, target *sensorv1.Target, change func(*sensorv1.Grant)) *sensorv1.IsolationStatus {
	b.t.Helper()
	g := b.order(action, operation)
	g.Target = target
	if change != nil {
		change(g)
	}
	return b.r.Grant(b.t.Context(), b.sign(g)).GetStatus()
}

func (b *containBench) undo(of string) *sensorv1.IsolationStatus {
	b.t.Helper()
	return b.give(sensorv1.Action_ACTION_RELEASE, "op-undo-"+of, nil, func(g *sensorv1.Grant) { g.Undoes = of })
}

// cases are each action with how it shows.
func (b *containBench) cases() []containCase {
	evil := filepath.Join(b.programs, "evil")
	raw, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.t.Fatal(err)
	}
	raw = raw[:4096] // no program: exec gives another error than EPERM
	raw[0] = 0
	if err := os.WriteFile(evil, raw, 0o755); err != nil {
		b.t.Fatal(err)
	}
	hash := sha256.Sum256(raw)
	inFrozen := func() bool {
		at, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.sleeper.Process.Pid))
		return strings.Contains(string(at), "/vedette-frozen-")
	}
	shadow := func() bool {
		raw, _ := os.ReadFile(filepath.Join(b.root, "etc/shadow"))
		return string(raw) != testShadow
	}
	gone := func() bool { _, err := os.Stat(filepath.Join(b.root, "tmp/evil")); return err != nil }
	process := b.sleep()
	return []containCase{
		{freeze, &sensorv1.Target{Process: process}, inFrozen, "freeze 1 processes"},
		{freeze, &sensorv1.Target{Storyline: "1.2"}, inFrozen, "freeze 1 processes"},
		{blockAddress, &sensorv1.Target{Prefixes: []string{"10.77.0.2", "fd77::/64"}}, b.blocks, ""},
		{blockAddress, &sensorv1.Target{Prefixes: []string{"10.77.0.128/25", "fd77::2"}}, b.blocks, "drop all packets"},
		{neighbour, &sensorv1.Target{Prefixes: []string{"fd77::2"}, Suspect: "h-suspect"}, b.blocks, "the host h-suspect"},
		{blockName, &sensorv1.Target{Name: "evil.example"}, b.blocks, "drop look-ups of evil.example"},
		{lockAccount, &sensorv1.Target{Account: "alice"}, shadow, "lock alice (UID 64998)"},
		{quarantine, &sensorv1.Target{Path: []byte("/tmp/evil")}, gone, "4 bytes"},
		{blockImage, &sensorv1.Target{ImageSha256: hash[:]}, func() bool { return b.denied(evil) }, "refuse to execute"},
	}
}

type containCase struct {
	action  sensorv1.Action
	target  *sensorv1.Target
	shows   func() bool
	preview string // empty: refused, the coordinator is among it
}

func (b *containBench) blocks() bool {
	present, err := b.r.contain.network.table.Present()
	return present && err == nil
}

// denied executes by a program that is not covered, so that this process is free
// to answer.
func (b *containBench) denied(path string) bool {
	out, _ := exec.Command("sh", "-c", path).CombinedOutput()
	return strings.Contains(string(out), "not permitted")
}
