package process

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// bombKind is what a child of this test binary does instead of testing.
const bombKind, bombMark = "VEDETTE_TEST_BOMB", "VEDETTE_TEST_MARK"

func TestMain(m *testing.M) {
	if os.Getenv(actKind) != "" {
		actUntilKilled(os.Getenv(actKind), os.Args[1], os.Args[2], os.Args[3])
		os.Exit(0)
	}
	if kind := os.Getenv(bombKind); kind != "" {
		runtime.LockOSThread()
		explode(kind)
	}
	goleak.VerifyTestMain(m)
}

// bombUID is nobody's here, so that the limit on its processes is of the bomb alone.
const bombUID, bombSize = 64997, 100

// explode forks with raw system calls only: what runs in the children is a copy of
// one thread, without the runtime's others.
func explode(kind string) {
	_ = unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: bombSize, Max: bombSize})
	// The sensor has a cgroup and so a share of the processors of its own; a test has not.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	if err := syscall.Setuid(bombUID); err != nil {
		os.Exit(3)
	}
	_, _ = os.Stdout.WriteString("ready\n")
	switch kind {
	case "sleep":
		for {
			_ = unix.Pause()
		}
	case "wide":
		wide()
	case "hop":
		hop()
	case "daemons":
		daemons()
	}
}

func fork() uintptr {
	pid, _, errno := syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
	if errno != 0 {
		return ^uintptr(0)
	}
	return pid
}

// wide: every process forks as fast as it can.
func wide() {
	for {
		fork()
	}
}

// hop: each generation ends as soon as the next one lives, so that the parent of
// all is always PID 1 (or a subreaper), and none has the session of the one before.
func hop() {
	for {
		if pid := fork(); pid != 0 && pid != ^uintptr(0) {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	}
}

// daemons: the root and all that it makes fork twice, and the one in the middle ends.
func daemons() {
	for {
		if fork() != 0 {
			continue
		}
		syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
		if fork() != 0 {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}

// bomb is one that runs, in a cgroup of its own.
type bomb struct {
	t      *testing.T
	mark   []byte
	cgroup string // path below the mount; "": the test's own
	mount  string
	root   event.ProcessKey
	cmd    *exec.Cmd
}

func mountOf(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root to make cgroups")
	}
	mount := findCgroup2("/proc")
	if mount == "" {
		t.Skip("SKIP: needs a cgroup v2 hierarchy")
	}
	return mount
}

func newCgroup(t *testing.T, mount string) string {
	t.Helper()
	path, err := os.MkdirTemp(mount, "vedette-test-")
	if err != nil {
		t.Skipf("SKIP: needs to make cgroups: %v", err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(path, "cgroup.freeze"), []byte("0"), 0)
		_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
		await(t, "the test's cgroup is empty", func() bool {
			_ = filepath.WalkDir(path, func(p string, entry os.DirEntry, _ error) error {
				if entry != nil && entry.IsDir() && p != path {
					_ = os.Remove(p)
				}
				return nil
			})
			err := os.Remove(path)
			return err == nil || os.IsNotExist(err)
		})
	})
	return strings.TrimPrefix(path, mount)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(slow.Deadline(10 * time.Second))
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long: %s", what)
		}
		_ = pause(t.Context(), time.Millisecond)
	}
}

var bombs int

func light(t *testing.T, kind, mount, cgroup string) *bomb {
	t.Helper()
	bombs++
	b := &bomb{t: t, mark: fmt.Appendf(nil, "%s=%d.%d\x00", bombMark, os.Getpid(), bombs), cgroup: cgroup, mount: mount}
	b.cmd = exec.Command("/proc/self/exe")
	b.cmd.Env = []string{bombKind + "=" + kind, strings.TrimSuffix(string(b.mark), "\x00"), "GOMAXPROCS=1"}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{}
	if cgroup != "" {
		dir, err := os.Open(filepath.Join(mount, cgroup))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		b.cmd.SysProcAttr.UseCgroupFD, b.cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.clear)
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatalf("the bomb did not start: %v", err)
	}
	if started, ok := Open(Config{}).look(b.cmd.Process.Pid); ok {
		b.root = started.key()
	}
	return b
}

// clear is what cleans up when the code under test does not.
func (b *bomb) clear() {
	for range 1000 {
		living := b.living()
		if len(living) == 0 {
			break
		}
		for _, m := range living {
			_ = unix.Kill(int(m.Key.PID), unix.SIGSTOP)
		}
		for _, m := range b.living() {
			_ = unix.Kill(int(m.Key.PID), unix.SIGKILL)
		}
	}
	_ = b.cmd.Wait()
}

// living is the lineage as the kernel's marks would tell it: who inherited the
// bomb's environment, whatever became of its parents.
func (b *bomb) living() []Member {
	h := Open(Config{})
	names, _ := filepath.Glob("/proc/[0-9]*")
	var members []Member
	for _, name := range names {
		pid, _ := strconv.Atoi(filepath.Base(name))
		if environ, err := os.ReadFile(name + "/environ"); err != nil || !bytes.Contains(environ, b.mark) {
			continue
		}
		if t, ok := h.look(pid); ok && !t.dead() {
			members = append(members, Member{Key: t.key(), Cgroup: b.cgroup})
		}
	}
	return members
}

// tree knows the cgroup even when it met nobody, as the sensor's own records do.
func (b *bomb) tree() Tree {
	return Tree{Members: func() []Member {
		return append(b.living(), Member{Key: b.root, Cgroup: b.cgroup})
	}}
}

func (b *bomb) act(operation string) Act {
	return Act{Operation: operation, Tree: b.tree(), State: &State{}, Save: func() {}}
}
