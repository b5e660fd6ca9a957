package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// mapExec maps a page of a file to be executed.
func mapExec(t *testing.T, fd int) {
	t.Helper()
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	must(t, err)
	_ = unix.Munmap(m)
}

// Ensure that a library of an ordinary place is told once, and each load of one that
// lies elsewhere, whatever it lies in.
func TestMappedLibraries(t *testing.T) {
	f := openFiles(t, func(c *Config) { c.KeepKnown = true })
	self := uint32(os.Getpid())
	loads := func(path string) []*event.File {
		return filter(f.all(), func(e *event.File) bool {
			return e.Op == event.FileMapExec && e.Process.PID == self && string(e.Path) == path
		})
	}
	library := f.plain + "/lib.so"
	write(t, library, string(make([]byte, 4096)))
	fd, err := unix.Open(library, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	mapExec(t, fd)
	mapExec(t, fd)
	must(t, os.Chmod(f.plain, 0o1777))
	mapExec(t, fd)
	mapExec(t, fd)
	memory, err := unix.MemfdCreate("hidden", unix.MFD_CLOEXEC)
	must(t, err)
	defer unix.Close(memory)
	must(t, unix.Ftruncate(memory, 4096))
	mapExec(t, memory)
	e := first(f.watch, "the memfd", func(e *event.File) bool { return e.Op == event.FileMapExec && e.MemoryFD && e.Process.PID == self })
	if string(e.Path) != "memfd:hidden" {
		t.Errorf("the memfd is called %q", e.Path)
	}
	got := loads(library)
	if len(got) != 3 || got[0].OpenPlace || !got[1].OpenPlace || !got[2].OpenPlace {
		t.Errorf("%d loads told: %+v", len(got), got)
	}
}

// Ensure that the budget leaves out what is not critical, counts it, and nothing else.
func TestBudgetSamplesFiles(t *testing.T) {
	needKernel(t)
	dir := t.TempDir()
	for _, d := range []string{"/critical", "/other"} {
		must(t, os.Mkdir(dir+d, 0o755))
	}
	w := open(t, Config{Watch: []WatchPath{{Path: dir + "/critical/", Class: event.FileCredential}, {Path: dir + "/other/", Class: event.FileWeb}}})
	must(t, w.SetFileSampling(3))
	const n = 400
	for i := range n {
		write(t, fmt.Sprintf("%s/critical/%d", dir, i), "")
		write(t, fmt.Sprintf("%s/other/%d", dir, i), "")
	}
	created := func(class event.FileClass) int {
		return len(filter(w.all(), func(e *event.File) bool { return e.Op == event.FileCreate && e.Class == class }))
	}
	w.await("the critical ones", func([]event.Event) bool { return created(event.FileCredential) == n })
	lost := func() int {
		for _, l := range w.Losses() {
			if l.Cause == "sampled by budget" {
				return int(l.Count)
			}
		}
		return 0
	}
	told := created(event.FileWeb)
	if told+lost() < n || told > n/4 || told == 0 {
		t.Errorf("told %d of %d, counted %d", told, n, lost())
	}
}

// Ensure that a container's own files are watched: they are others than the host's, and
// on a file system whose numbers stat does not tell.
func TestFilesOfAnotherMountNamespace(t *testing.T) {
	f := openFiles(t)
	inMountNS(t, func() {
		root := f.plain
		must := func(err error) {
			if err != nil {
				t.Error(err)
			}
		}
		must(unix.Mount("tmpfs", root, "tmpfs", 0, ""))
		for _, d := range []string{"/up", "/work", "/root"} {
			must(os.Mkdir(root+d, 0o755))
		}
		if err := unix.Mount("overlay", root+"/root", "overlay", 0, "lowerdir=/,upperdir="+root+"/up,workdir="+root+"/work"); err != nil {
			t.Logf("SKIP: needs overlayfs: %v", err)
			return
		}
		for _, d := range []string{filepath.Dir(f.file), f.tree} { // where the temporary folder is a mount of its own
			must(os.MkdirAll(root+"/root"+d, 0o755))
		}
		deadline := time.Now().Add(patience)
		for n := 0; ; n++ {
			// Its paths are looked up a moment after its first exec.
			cmd := exec.Command("/usr/sbin/chroot", root+"/root", "/bin/sh", "-c", fmt.Sprintf("echo x >>%s; echo y >%s/c%d; mv %s/c%d %s/d%d", f.file, f.tree, n, f.tree, n, f.tree, n))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			events := f.all()
			told := func(op event.FileOp, path string) bool {
				return len(filter(events, func(e *event.File) bool { return e.Op == op && string(e.Path) == path && e.MountNS != f.watcher.own })) > 0
			}
			renamed := f.features.Changes != ChangesEverywhere || told(event.FileRename, fmt.Sprintf("%s/c%d", f.tree, n-1))
			if told(event.FileWrite, f.file) && renamed {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("not told:\n%s", f.dump())
				return
			}
		}
	})
}

// Ensure that user space makes the hashes that the programs look up, for names of every
// length.
func TestNamesAreHashedAlike(t *testing.T) {
	needKernel(t)
	dir := t.TempDir()
	var set []WatchPath
	name := ""
	for n := 1; n <= 255; n++ {
		name += string(rune('a' + n%26))
		if n%8 < 2 || n > 250 || n < 9 {
			set = append(set, WatchPath{Path: dir + "/" + name})
		}
	}
	w := open(t, Config{Watch: set})
	for _, p := range set {
		write(t, p.Path, "x")
		first(w, p.Path, func(e *event.File) bool { return e.Op == event.FileCreate && string(e.Path) == p.Path })
	}
}

// Ensure that a name in every home is watched in homes that come later, at once.
func TestStarsAreWatchedAtOnce(t *testing.T) {
	needKernel(t)
	dir := t.TempDir()
	w := open(t, Config{Watch: []WatchPath{{Path: dir + "/*/.ssh/"}, {Path: dir + "/*/.profile"}, {Path: dir + "/late/er/"}}})
	must(t, os.MkdirAll(dir+"/new/.ssh", 0o700))
	for _, name := range []string{"/new/.ssh/authorized_keys", "/new/.profile"} {
		write(t, dir+name, "x")
		first(w, name, func(e *event.File) bool { return e.Op == event.FileCreate && string(e.Path) == dir+name })
	}
	write(t, dir+"/new/other", "x")
	must(t, os.Mkdir(dir+"/late", 0o700))
	first(w, "the removal", func(e *event.File) bool { return true })
	for n := 0; ; n++ {
		name := fmt.Sprintf("%s/late/er", dir)
		must(t, os.Mkdir(name, 0o700))
		write(t, name+"/x", "x")
		if len(filter(w.all(), func(e *event.File) bool { return string(e.Path) == name+"/x" })) > 0 {
			break
		}
		must(t, os.RemoveAll(name))
	}
	for _, e := range filter(w.all(), func(e *event.File) bool { return string(e.Path) == dir+"/new/other" || string(e.Path) == dir+"/late" }) {
		t.Errorf("told %v %s", e.Op, e.Path)
	}
}

// BenchmarkOpen prints the kernel's run time of the programs for an open and a close,
// least of several rounds: other processes' calls run them too.
func BenchmarkOpen(b *testing.B) {
	const rounds, opens = 8, 3000
	f := openFiles(b, func(c *Config) { c.KeepKnown = true })
	if _, err := f.Tasks(b.Context()); err != nil { // puts this process into the table
		b.Fatal(err)
	}
	write(b, f.plain+"/a", "x")
	write(b, f.tree+"/known", "x")
	write(b, f.tree+"/new", "x")
	openClose(b, f.tree+"/known")
	key := f.told(event.FileWrite, f.tree+"/known", "").Key
	must(b, f.Know(key))
	b.Logf("key %x", key)
	for _, tt := range []struct {
		name, path string
		flags      int
	}{
		{"no call of a class", "", 0},
		{"unwatched, read", f.plain + "/a", unix.O_RDONLY},
		{"unwatched", f.plain + "/a", unix.O_WRONLY},
		{"known", f.tree + "/known", unix.O_WRONLY},
		{"new", f.tree + "/new", unix.O_WRONLY},
	} {
		b.Run(tt.name, func(b *testing.B) {
			least := time.Duration(1<<63 - 1)
			for range rounds {
				cost, err := f.measure(bpf.VedetteProgCallEnd, func() {
					for range opens {
						if tt.path == "" {
							_, _ = unix.Getpid(), unix.Getppid()
							continue
						}
						fd, err := unix.Open(tt.path, tt.flags|unix.O_CLOEXEC, 0)
						if err != nil {
							b.Fatal(err)
						}
						_ = unix.Close(fd)
					}
				})
				if err != nil {
					b.Fatal(err)
				}
				least = min(least, cost/opens)
			}
			_, kept := f.Counters()
			b.ReportMetric(float64(kept), "kept-back")
			b.ReportMetric(float64(least.Nanoseconds()), "kernel-ns/open")
		})
	}
}
