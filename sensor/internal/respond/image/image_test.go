package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// none is no descriptor: the group of nobody.
const none = 1<<31 - 1

func TestMain(m *testing.M) {
	if os.Getenv("VEDETTE_TEST_DEAD") != "" {
		stopWithDeadMan()
	}
	goleak.VerifyTestMain(m)
}

// newGuard covers a file system of the test's own and nothing else of the machine.
func newGuard(t *testing.T, change func(*Config)) (*Guard, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root (CAP_SYS_ADMIN) for fanotify and a mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("vedette-test", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("SKIP: needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	cfg := Config{Mounts: func() ([]string, error) { return []string{dir}, nil }, Dir: dir}
	if change != nil {
		change(&cfg)
	}
	g := New(cfg)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, dir
}

// program is a copy of true with something after it, so that its hash is its own.
func program(t *testing.T, path, salt string) Hash {
	t.Helper()
	true_, err := exec.LookPath("true")
	if err != nil {
		t.Skip("SKIP: needs true")
	}
	raw, err := os.ReadFile(true_)
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, salt...)
	if err := os.WriteFile(path, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(raw)
}

func expect(t *testing.T, what, path string, want unix.Errno) {
	t.Helper()
	if got, err := execute(path, none); got != want || err != nil {
		t.Errorf("%s: exec gave %d (%v), %v; want %d", what, got, got, err, want)
	}
}

func block(t *testing.T, g *Guard, blocked map[Hash]int64) {
	t.Helper()
	err := g.Set(blocked)
	if errors.Is(err, ErrUnsupported) {
		t.Skipf("SKIP: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Ensure blocked content does not run under any name, other content does, and the
// undo is one.
func TestBlock(t *testing.T) {
	g, dir := newGuard(t, nil)
	evil, good := filepath.Join(dir, "evil"), filepath.Join(dir, "good")
	hash := program(t, evil, "evil")
	program(t, good, "good")
	expect(t, "before", evil, 0)
	for _, size := range []int64{-1, fileSize(t, evil)} {
		block(t, g, map[Hash]int64{hash: size})
		if text, err := g.Probe(); err != nil {
			t.Fatalf("probe: got %q, %v", text, err)
		}
		expect(t, "blocked", evil, unix.EPERM)
		expect(t, "another", good, 0)
		copied, linked := filepath.Join(dir, fmt.Sprint("copy", size)), filepath.Join(dir, fmt.Sprint("link", size))
		program(t, copied, "evil")
		if err := os.Link(evil, linked); err != nil {
			t.Fatal(err)
		}
		expect(t, "a copy", copied, unix.EPERM)
		expect(t, "a hard link", linked, unix.EPERM)
		script := filepath.Join(dir, fmt.Sprint("script", size))
		_ = os.WriteFile(script, []byte("#!"+evil+"\n"), 0o755)
		expect(t, "as an interpreter", script, unix.EPERM)
		// Written over: the change counts at once.
		program(t, copied, "good")
		expect(t, "a copy that became good", copied, 0)
		program(t, copied, "evil")
		expect(t, "and evil again", copied, unix.EPERM)
	}
	if n := g.Counters(); n.Denied == 0 || n.Late != 0 || n.Asked < n.Denied {
		t.Errorf("counted %+v", n)
	}
	if err := g.Set(nil); err != nil {
		t.Fatal(err)
	}
	expect(t, "lifted", evil, 0)
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Ensure a program is hashed once it is at rest, and what has another size never.
func TestHashedOnce(t *testing.T) {
	g, dir := newGuard(t, nil)
	good := filepath.Join(dir, "good")
	program(t, good, "good")
	block(t, g, map[Hash]int64{{1}: -1})
	deadline := time.Now().Add(slow.Deadline(10 * time.Second))
	for {
		before := g.Counters().Hashed
		expect(t, "good", good, 0)
		if g.Counters().Hashed == before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is hashed every time")
		}
	}
	block(t, g, map[Hash]int64{{1}: 7})
	program(t, good, "better")
	before := g.Counters().Hashed
	expect(t, "another size", good, 0)
	if got := g.Counters().Hashed; got != before {
		t.Errorf("hashed %d times, want none", got-before)
	}
}

// Ensure an exec is held no longer than the patience lasts, and what was let
// through is told.
func TestLate(t *testing.T) {
	late := make(chan int, 1)
	g, dir := newGuard(t, func(c *Config) {
		c.Patience = time.Nanosecond
		c.Late = func(pid int, _ Hash) {
			select {
			case late <- pid:
			default:
			}
		}
	})
	evil := filepath.Join(dir, "evil")
	hash := program(t, evil, strings.Repeat("evil", 1<<20))
	block(t, g, map[Hash]int64{hash: -1})
	expect(t, "with no patience", evil, 0)
	select {
	case <-late:
	case <-time.After(slow.Deadline(10 * time.Second)):
		t.Error("it was not told")
	}
}

// Ensure closing lets everybody through who waits.
func TestCloseReleases(t *testing.T) {
	g, dir := newGuard(t, func(c *Config) { c.Patience = time.Hour })
	evil := filepath.Join(dir, "evil")
	program(t, evil, "")
	// A hole takes seconds to hash and no memory.
	if err := os.Truncate(evil, MaxBytes); err != nil {
		t.Fatal(err)
	}
	block(t, g, map[Hash]int64{{1}: -1})
	ran := make(chan unix.Errno, 1)
	group := g.running.fd
	go func() { errno, _ := execute(evil, group); ran <- errno }()
	deadline := time.Now().Add(slow.Deadline(10 * time.Second))
	for g.Counters().Asked == 0 && time.Now().Before(deadline) {
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case errno := <-ran:
		if errno != 0 {
			t.Errorf("exec gave %v", errno)
		}
	case <-time.After(slow.Deadline(10 * time.Second)):
		t.Fatal("an exec hangs")
	}
}

// Ensure a stopped sensor is ended by the kernel.
func TestDeadMan(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "VEDETTE_TEST_DEAD=1")
	started := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("got %v, want a SIGKILL", err)
	}
	if took := time.Since(started); took < 400*time.Millisecond {
		t.Errorf("it was ended after %s, while it went on", took)
	}
}

func stopWithDeadMan() {
	// Longer than the limit at work, then stopped.
	const limit = 200 * time.Millisecond
	disarm, err := deadMan(limit)
	if err != nil {
		os.Exit(3)
	}
	<-time.After(2 * limit)
	disarm()
	<-time.After(2 * limit)
	if _, err = deadMan(limit); err != nil {
		os.Exit(3)
	}
	_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	os.Exit(0)
}

// Ensure who runs blocked content already is found, also without a file.
func TestRunning(t *testing.T) {
	g, dir := newGuard(t, nil)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("SKIP: needs sleep")
	}
	raw, _ := os.ReadFile(sleep)
	raw = append(raw, "evil"...)
	evil := filepath.Join(dir, "evil")
	if err := os.WriteFile(evil, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(evil, "1000")
	cmd.Args[0] = "sleep"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	_ = os.Remove(evil)
	hash := sha256.Sum256(raw)
	if got := g.Running("/proc", map[Hash]int64{hash: int64(len(raw))}); !slices.Equal(got, []int{cmd.Process.Pid}) {
		t.Errorf("got %v, want %d", got, cmd.Process.Pid)
	}
}

func TestMounts(t *testing.T) {
	got := parseMounts(strings.NewReader(`24 30 0:22 / /proc rw shared:12 - proc proc rw
30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
77 30 0:44 / /mnt/with\040space rw - tmpfs tmpfs rw
78 30 0:45 broken
79 30 0:46 / /merged rw - overlay overlay rw,lowerdir=/l
`))
	want := []mount{{"8:1", "/"}, {"0:44", "/mnt/with space"}, {"0:46", "/merged"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if paths, err := Mounts("/proc"); err != nil || len(paths) == 0 {
		t.Errorf("got %v, %v", paths, err)
	}
}

// BenchmarkExec is what a block costs an exec: run once without, once with.
func BenchmarkExec(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("blocked=%v", with), func(b *testing.B) {
			dir := b.TempDir()
			if err := unix.Mount("vedette-test", dir, "tmpfs", 0, ""); err != nil {
				b.Skipf("SKIP: needs to mount a tmpfs: %v", err)
			}
			defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
			raw, _ := os.ReadFile("/bin/true")
			path := filepath.Join(dir, "true")
			_ = os.WriteFile(path, raw, 0o755)
			g := New(Config{Mounts: func() ([]string, error) { return []string{dir}, nil }, Dir: dir})
			defer func() { _ = g.Close() }()
			if with {
				if err := g.Set(map[Hash]int64{{1}: -1}); err != nil {
					b.Skipf("SKIP: %v", err)
				}
			}
			for b.Loop() {
				_, _ = execute(path, none)
			}
		})
	}
}
