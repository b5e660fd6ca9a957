package kernel

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that nothing short-lived is missed, however many run beside each other.
func TestEveryShortExecArrives(t *testing.T) {
	w := open(t, Config{})
	const n, workers = 200, 4
	pids := make([]uint32, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				pids[i] = run(t, exec.Command("/bin/true", "number", strconv.Itoa(i)))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()

	self := uint32(os.Getpid())
	image, err := filepath.EvalSymlinks("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	for i, pid := range pids {
		got := first(w, fmt.Sprintf("exec %d", i), func(e *event.Exec) bool {
			return e.Process.PID == pid && slices.Equal(argv(e), []string{"/bin/true", "number", strconv.Itoa(i)})
		})
		if string(got.Path) != image || got.PathTruncated {
			t.Errorf("exec %d: path %q, truncated %v, want %q", i, got.Path, got.PathTruncated, image)
		}
		if got.Parent.PID != self {
			t.Errorf("exec %d: parent %d, want %d", i, got.Parent.PID, self)
		}
		exit := first(w, fmt.Sprintf("exit %d", i), func(e *event.Exit) bool { return e.Process == got.Process })
		if exit.Code != 0 || exit.Signal != 0 {
			t.Errorf("exit %d: code %d signal %d", i, exit.Code, exit.Signal)
		}
		first(w, fmt.Sprintf("fork %d", i), func(e *event.Fork) bool { return e.Child == got.Process && e.Process == got.Parent })
	}
	if losses := w.Losses(); len(losses) != 0 {
		t.Errorf("losses %v", losses)
	}
}

// Ensure that an exec carries the identity that stat(2) and /proc tell.
func TestExecIdentity(t *testing.T) {
	w := open(t, Config{})
	dir := t.TempDir()
	image := copyFile(t, "/bin/true", filepath.Join(dir, "an image"))
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(image, "x")
	cmd.Dir = dir
	pid := run(t, cmd)
	got := first(w, "exec", byPID(pid))
	var cwd unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_INO|unix.STATX_MNT_ID, &cwd); err != nil {
		t.Fatal(err)
	}
	wantCwd := event.DirectoryID{Inode: cwd.Ino, Device: cwd.Dev_major<<20 | cwd.Dev_minor, Mount: uint32(cwd.Mnt_id)}
	if got.Cwd != wantCwd {
		t.Errorf("working directory %+v, want %+v", got.Cwd, wantCwd)
	}
	want := event.ImageID{
		Device: uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev)),
		Inode:  st.Ino,
		Change: uint64(st.Ctim.Nano()),
		Size:   uint64(st.Size),
		NLink:  uint32(st.Nlink),
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/mnt", &ns); err != nil {
		t.Fatal(err)
	}
	want.MountNS = uint32(ns.Ino)
	if got.Image != want {
		t.Errorf("image %+v, want %+v", got.Image, want)
	}
	if string(got.Path) != image {
		t.Errorf("path %q, want %q", got.Path, image)
	}
	if err := unix.Stat("/proc/self/ns/net", &ns); err != nil {
		t.Fatal(err)
	}
	if got.NetNS != uint32(ns.Ino) {
		t.Errorf("network namespace %d, want %d", got.NetNS, ns.Ino)
	}
	if got.UID != 0 || got.RealUID != 0 || got.GID != 0 || got.SetID {
		t.Errorf("credentials %d %d %d %v", got.UID, got.RealUID, got.GID, got.SetID)
	}
	login, err := os.ReadFile("/proc/self/loginuid")
	if err == nil && string(login) != fmt.Sprint(got.LoginUID) {
		t.Errorf("login uid %d, want %s", got.LoginUID, login)
	}
	if comm := string(bytes.TrimRight(got.Comm[:], "\x00")); comm != "an image" {
		t.Errorf("comm %q", comm)
	}
}

// Ensure that a path is told as the process sees it: across mounts, below its root.
func TestExecPathAcrossMounts(t *testing.T) {
	w := open(t, Config{})
	dir := t.TempDir()
	if err := unix.Mount("vedette-test", dir, "tmpfs", 0, ""); err != nil {
		t.Fatalf("mounting tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	below := filepath.Join(dir, strings.Repeat("d/", 30))
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	image := copyFile(t, "/bin/true", filepath.Join(below, "tool"))
	got := first(w, "exec on a mount", byPID(run(t, exec.Command(image))))
	if string(got.Path) != image || got.PathTruncated {
		t.Errorf("path %q, truncated %v, want %q", got.Path, got.PathTruncated, image)
	}

	deep := filepath.Join(dir, strings.Repeat("e/", 240))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	image = copyFile(t, "/bin/true", filepath.Join(deep, "tool"))
	got = first(w, "deep exec", byPID(run(t, exec.Command(image))))
	if !got.PathTruncated || !strings.HasSuffix(image, "/"+string(got.Path)) {
		t.Errorf("deep path %q, truncated %v, want a tail of %q", got.Path, got.PathTruncated, image)
	}
}

// Ensure that argv keeps its bytes, its whole length and says when it was cut.
func TestExecArgv(t *testing.T) {
	w := open(t, Config{})
	odd := "\xff\xfe\x80 not\nUTF-8"
	got := first(w, "odd argv", byPID(run(t, exec.Command("/bin/true", "", odd, ""))))
	if want := []string{"/bin/true", "", odd, ""}; !slices.Equal(argv(got), want) {
		t.Errorf("argv %q, want %q", argv(got), want)
	}
	if got.ArgvTruncated || got.ArgvBytes != uint32(len("/bin/true")+len(odd)+4) {
		t.Errorf("argv of %d bytes, truncated %v", got.ArgvBytes, got.ArgvTruncated)
	}

	long := strings.Repeat("x", 128<<10-1) // MAX_ARG_STRLEN with its NUL
	got = first(w, "long argv", byPID(run(t, exec.Command("/bin/true", "short", long))))
	if want := uint32(len("/bin/true") + 1 + len("short") + 1 + len(long) + 1); got.ArgvBytes != want || !got.ArgvTruncated {
		t.Errorf("argv of %d bytes, truncated %v, want %d, true", got.ArgvBytes, got.ArgvTruncated, want)
	}
	if n := len(bytes.Join(got.Argv, []byte{0})); n != 4096 {
		t.Errorf("kept %d bytes of argv, want 4096", n)
	}
	if string(got.Argv[1]) != "short" || !strings.HasPrefix(long, string(got.Argv[2])) {
		t.Errorf("argv %.80q", got.Argv)
	}
}

// Ensure that an image without a file is known for one.
func TestExecWithoutFile(t *testing.T) {
	w := open(t, Config{})
	fd, err := unix.MemfdCreate("payload", 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "memfd")
	defer file.Close()
	content, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	got := first(w, "memfd exec", byPID(run(t, exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd), "arg"))))
	if !got.Image.MemoryFD || got.Image.NLink != 0 || string(got.Path) != "memfd:payload" {
		t.Errorf("memory fd %v, links %d, path %q", got.Image.MemoryFD, got.Image.NLink, got.Path)
	}

	image := copyFile(t, "/bin/true", filepath.Join(t.TempDir(), "memfd:gone"))
	open, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	got = first(w, "deleted exec", byPID(run(t, exec.Command(fmt.Sprintf("/proc/self/fd/%d", open.Fd())))))
	if got.Image.MemoryFD || got.Image.NLink != 0 || string(got.Path) != image {
		t.Errorf("memory fd %v, links %d, path %q, want %q", got.Image.MemoryFD, got.Image.NLink, got.Path, image)
	}
}

// Ensure that a script is told with its interpreter, and the image is what runs.
func TestExecScript(t *testing.T) {
	w := open(t, Config{})
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh -e\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	got := first(w, "script", byPID(run(t, exec.Command(script, "arg"))))
	if string(got.Filename) != script || string(got.Interpreter) != "/bin/sh" || string(got.Path) != shell {
		t.Errorf("filename %q, interpreter %q, path %q", got.Filename, got.Interpreter, got.Path)
	}
	if want := []string{"/bin/sh", "-e", script, "arg"}; !slices.Equal(argv(got), want) {
		t.Errorf("argv %q, want %q", argv(got), want)
	}
	exit := first(w, "exit", func(e *event.Exit) bool { return e.Process == got.Process })
	if exit.Code != 3 {
		t.Errorf("exit code %d, want 3", exit.Code)
	}
}

// Ensure that execve from a thread is its process's, and names the thread.
func TestExecFromThread(t *testing.T) {
	w := open(t, Config{})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"VEDETTE_TEST_ROLE=thread-exec"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child: %v", err)
	}
	tid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	started := first(w, "exec of the test", byPID(pid))
	got := first(w, "exec from thread", func(e *event.Exec) bool { return e.Process.PID == pid && string(e.Filename) == "/bin/true" })
	if got.OldTID != uint32(tid) || got.TID != pid || got.Process != started.Process {
		t.Errorf("old thread %d, thread %d, process %v; want %d, %d, %v", got.OldTID, got.TID, got.Process, tid, pid, started.Process)
	}
	exits := filter(w.await("exit", func(events []event.Event) bool {
		return len(filter(events, func(e *event.Exit) bool { return e.Process == got.Process })) > 0
	}), func(e *event.Exit) bool { return e.Process.PID == pid })
	if len(exits) != 1 {
		t.Errorf("%d exits of a process with threads, want 1", len(exits))
	}
}

// Ensure that set-id is told when the file raised privileges, and only then.
func TestExecSetID(t *testing.T) {
	w := open(t, Config{})
	dir := "/var/tmp"
	if err := unix.Access(dir, unix.X_OK); err != nil {
		t.Skip("SKIP: needs /var/tmp")
	}
	dir, err := os.MkdirTemp(dir, "vedette-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	image := copyFile(t, "/bin/true", filepath.Join(dir, "raise"))
	if err := os.Chmod(image, os.ModeSetuid|0o755); err != nil {
		t.Fatal(err)
	}
	nobody := func(path string) *exec.Cmd {
		cmd := exec.Command(path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd
	}
	got := first(w, "set-id", byPID(run(t, nobody(image))))
	if !got.SetID || got.UID != 0 || got.RealUID != 65534 {
		t.Errorf("set-id %v, uid %d, real %d", got.SetID, got.UID, got.RealUID)
	}
	got = first(w, "plain", byPID(run(t, nobody("/bin/true"))))
	if got.SetID || got.UID != 65534 {
		t.Errorf("plain: set-id %v, uid %d", got.SetID, got.UID)
	}
}

// Ensure that a signal is told as what ended a process.
func TestExitSignal(t *testing.T) {
	w := open(t, Config{})
	pid := run(t, exec.Command("/bin/sh", "-c", "kill -9 $$"))
	exit := first(w, "exit", func(e *event.Exit) bool { return e.Process.PID == pid })
	if exit.Signal != 9 || exit.Code != 0 {
		t.Errorf("signal %d code %d, want 9, 0", exit.Signal, exit.Code)
	}
}

// Ensure that the list of tasks names processes exactly as the events do.
func TestTasks(t *testing.T) {
	w := open(t, Config{})
	cmd := exec.Command("/bin/sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	got := first(w, "exec", byPID(uint32(cmd.Process.Pid)))
	tasks, err := w.Tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(tasks, func(task Task) bool { return task.Key == got.Process })
	if at < 0 {
		t.Fatalf("no task %v among %d", got.Process, len(tasks))
	}
	want := Task{Key: got.Process, Parent: got.Parent, CgroupID: got.CgroupID, NetNS: got.NetNS, Comm: "sleep", InScope: true}
	if tasks[at] != want {
		t.Errorf("task %+v, want %+v", tasks[at], want)
	}
	if !slices.ContainsFunc(tasks, func(task Task) bool { return task.Key.PID == 1 && task.Parent == (event.ProcessKey{}) }) {
		t.Error("no PID 1 without a parent")
	}
}

func copyFile(t testing.TB, from, to string) string {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}
