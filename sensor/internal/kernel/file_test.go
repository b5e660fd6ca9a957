package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// fileWatch is a Source that watches a tree and a single file in directories of its own.
type fileWatch struct {
	*watch
	tree, file, plain string // a watched tree, a watched file, a directory that is not watched
}

func openFiles(t testing.TB, change ...func(*Config)) *fileWatch {
	t.Helper()
	needKernel(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fileWatch{tree: dir + "/tree", file: dir + "/single/secret", plain: dir + "/plain"}
	for _, d := range []string{f.tree, filepath.Dir(f.file), f.plain} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, f.file, "x")
	cfg := Config{Watch: []WatchPath{
		{Path: f.tree + "/", Class: event.FilePersistence, Ops: append([]event.FileOp{event.FileUtimes}, allOps()...)},
		{Path: f.file, Class: event.FileCredential, Ops: append([]event.FileOp{event.FileUtimes}, allOps()...)},
	}}
	for _, c := range change {
		c(&cfg)
	}
	f.watch = open(t, cfg)
	return f
}

func allOps() (ops []event.FileOp) {
	for op := event.FileWrite; op <= event.FileChange; op++ {
		ops = append(ops, op)
	}
	return ops
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// told waits for a file event of this process.
func (f *fileWatch) told(op event.FileOp, path, target string) *event.File {
	f.t.Helper()
	return first(f.watch, fmt.Sprintf("%v of %s %s", op, path, target), func(e *event.File) bool {
		return e.Op == op && string(e.Path) == path && string(e.Target) == target
	})
}

// dump is what came, for a failure's message.
func (f *fileWatch) dump() string {
	var b strings.Builder
	for _, e := range filter(f.all(), func(e *event.File) bool { return e.Op != event.FileMapExec }) {
		fmt.Fprintf(&b, "%v %q %q pid %d mode %o\n", e.Op, e.Path, e.Target, e.Process.PID, e.Mode)
	}
	return b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Ensure that each operation on a watched tree is told with the names that it had.
func TestFileOperations(t *testing.T) {
	f := openFiles(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.dump())
		}
	})
	if f.features.Changes != ChangesEverywhere {
		t.Skip("SKIP: needs a kernel that tells each move of a change time (6.13)")
	}
	a, b := f.tree+"/a", f.tree+"/sub/b"
	write(t, a, "one")
	e := f.told(event.FileCreate, a, "")
	var st unix.Stat_t
	must(t, unix.Stat(a, &st))
	if e.Inode != st.Ino || e.Class != event.FilePersistence || e.Mode&0o777 != 0o644 || e.Process.PID != uint32(os.Getpid()) {
		t.Errorf("create: %+v, inode %d", e, st.Ino)
	}
	must(t, os.Mkdir(f.tree+"/sub", 0o755))
	f.told(event.FileMkdir, f.tree+"/sub", "")
	must(t, os.Rename(a, b))
	f.told(event.FileRename, a, b)
	write(t, f.plain+"/in", "x")
	must(t, os.Rename(f.plain+"/in", f.tree+"/in"))
	if e := first(f.watch, "a rename into the tree", func(e *event.File) bool {
		return e.Op == event.FileRename && string(e.Target) == f.tree+"/in"
	}); !e.Truncated || !strings.HasSuffix(string(e.Path), "plain/in") {
		t.Errorf("a rename into the tree: %+v, from %q", e, e.Path)
	}
	write(t, f.tree+"/new", "x")
	must(t, os.Rename(f.tree+"/new", b))
	f.told(event.FileRename, f.tree+"/new", b)
	must(t, os.Link(b, f.tree+"/hard"))
	f.told(event.FileLink, b, f.tree+"/hard")
	must(t, os.Link(b, f.tree+"/harder"))
	first(f.watch, "a third name", func(e *event.File) bool { return e.Op == event.FileLink && string(e.Target) == f.tree+"/harder" })
	must(t, os.Rename(f.tree+"/hard", f.tree+"/hardest"))
	f.told(event.FileRename, f.tree+"/hard", f.tree+"/hardest")
	for _, name := range []string{"/hardest", "/harder"} { // an inode of several names: the one that went
		must(t, os.Remove(f.tree+name))
		f.told(event.FileUnlink, f.tree+name, "")
	}
	must(t, os.Symlink("/dev/null", f.tree+"/soft"))
	f.told(event.FileSymlink, f.tree+"/soft", "/dev/null")
	must(t, unix.Mkfifo(f.tree+"/fifo", 0o600))
	f.told(event.FileMknod, f.tree+"/fifo", "")
	must(t, unix.Chmod(b, 0o4755))
	if e := f.told(event.FileChmod, b, ""); e.Mode&0o7777 != 0o4755 {
		t.Errorf("chmod told mode %o", e.Mode)
	}
	must(t, os.Chown(b, 1, 1))
	f.told(event.FileChown, b, "")
	must(t, os.Truncate(b, 1))
	f.told(event.FileTruncate, b, "")
	must(t, unix.Utimes(b, []unix.Timeval{{Sec: 1}, {Sec: 1}}))
	f.told(event.FileUtimes, b, "")
	if err := unix.Setxattr(b, "user.x", []byte("1"), 0); err == nil {
		f.told(event.FileSetxattr, b, "")
		must(t, unix.Removexattr(b, "user.x"))
		f.told(event.FileRemovexattr, b, "")
	} else {
		t.Logf("no user attributes here: %v", err)
	}
	must(t, os.Remove(b))
	f.told(event.FileUnlink, b, "")
	must(t, os.Remove(f.tree+"/sub"))
	f.told(event.FileRmdir, f.tree+"/sub", "")

	fd, err := os.OpenFile(f.tree+"/in", os.O_WRONLY, 0)
	must(t, err)
	defer fd.Close()
	f.told(event.FileWrite, f.tree+"/in", "")
	must(t, fd.Chmod(0o600))
	f.told(event.FileChmod, f.tree+"/in", "")
	must(t, fd.Truncate(0))
	f.told(event.FileTruncate, f.tree+"/in", "")
	write(t, f.file, "y")
	f.told(event.FileTruncate, f.file, "")
	runtime.KeepAlive(fd)
	must(t, os.Link(f.file, f.plain+"/copy"))
	first(f.watch, "a link to the watched file", func(e *event.File) bool {
		return e.Op == event.FileLink && string(e.Path) == f.file && strings.HasSuffix(string(e.Target), "plain/copy")
	})
	must(t, os.Rename(f.file, f.plain+"/away"))
	first(f.watch, "the watched file's move", func(e *event.File) bool {
		return e.Op == event.FileRename && string(e.Path) == f.file && strings.HasSuffix(string(e.Target), "plain/away")
	})
	for _, l := range f.Losses() {
		if l.Where == "map:changes" {
			t.Errorf("lost: %v", l)
		}
	}
}

// Ensure that what kernels before 6.13 say is enough on ext4, which is where it is
// claimed to be.
func TestFileOperationsAsOnOlderKernels(t *testing.T) {
	needKernel(t)
	dir := t.TempDir()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	features, err := Probe()
	must(t, err)
	spec, err := btf.LoadKernelSpec()
	must(t, err)
	if features.Ext4 = hasTracepoint(spec, "ext4_mark_inode_dirty"); !features.Ext4 || fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("SKIP: needs ext4 below the directory for temporary files, and in the kernel's own image")
	}
	features.Changes = ChangesSome
	s := &Source{cfg: Config{Watch: []WatchPath{{Path: dir + "/"}}}.withDefaults(), features: features}
	must(t, s.open(scopeKnobs{}))
	w := read(t, s)
	write(t, dir+"/a", "x")
	must(t, os.Rename(dir+"/a", dir+"/b"))
	must(t, os.Chmod(dir+"/b", 0o4755))
	must(t, os.Link(dir+"/b", dir+"/c"))
	must(t, os.Remove(dir+"/c"))
	must(t, os.Mkdir(dir+"/d", 0o700))
	must(t, os.Remove(dir+"/d"))
	for _, want := range []struct {
		op           event.FileOp
		path, target string
	}{
		{event.FileCreate, "/a", ""}, {event.FileRename, "/a", "/b"}, {event.FileChmod, "/b", ""}, {event.FileLink, "/b", "/c"},
		{event.FileUnlink, "/c", ""}, {event.FileMkdir, "/d", ""}, {event.FileRmdir, "/d", ""},
	} {
		first(w, fmt.Sprintf("%v of %s %s", want.op, want.path, want.target), func(e *event.File) bool {
			return e.Op == want.op && string(e.Path) == dir+want.path && (want.target == "" || string(e.Target) == dir+want.target)
		})
	}
}
