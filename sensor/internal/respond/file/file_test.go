package file

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

type bench struct {
	*Store
	t    *testing.T
	root string
}

// newBench is a store and a host beside it, on one file system or on two.
func newBench(t *testing.T, across bool) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root (CAP_CHOWN, CAP_FOWNER) to restore owners")
	}
	root := t.TempDir()
	if across {
		var err error
		if root, err = os.MkdirTemp("/dev/shm", "vedette-test-"); err != nil {
			t.Skipf("SKIP: needs a second file system: %v", err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(root) })
	}
	b := &bench{t: t, root: root}
	b.Store = Open(Config{Dir: filepath.Join(t.TempDir(), "state", "quarantine"), Root: root})
	b.write("/var/lib/dpkg/info/base.list", "/.\n/bin/ls\n/usr/bin/env\n", 0o644)
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.root, name) }

func (b *bench) write(name, content string, mode os.FileMode) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.path(name), []byte(content), mode); err != nil {
		b.t.Fatal(err)
	}
}

// look is all that the undo must restore.
func (b *bench) look(name string) string {
	b.t.Helper()
	f, err := os.OpenFile(b.path(name), os.O_RDONLY|unix.O_NOATIME, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		b.t.Fatal(err)
	}
	attrs, err := xattrs(int(f.Fd()))
	if err != nil {
		b.t.Fatal(err)
	}
	sum, err := hash(f)
	flags := (&held{file: f}).flags() & immutable
	return fmt.Sprintf("mode %o owner %d:%d size %d mtime %d atime %d attrs %v flags %x %x %v", st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Nano(), st.Atim.Nano(), attrs, flags, sum, err)
}

// intruder makes a file with everything that an undo could lose.
func (b *bench) intruder(name string, flags uint32) {
	b.t.Helper()
	b.write(name, strings.Repeat("#!/bin/sh\n", 1000), 0o755)
	full := b.path(name)
	old := time.Unix(1_600_000_000, 123_456_789)
	err := errors.Join(os.Chown(full, 1234, 5678), os.Chmod(full, os.ModeSetuid|0o751),
		unix.Setxattr(full, "trusted.vedette", []byte("kept"), 0), os.Chtimes(full, old, old.Add(time.Second)))
	if err != nil {
		b.t.Fatal(err)
	}
	if flags != 0 {
		f, err := os.Open(full)
		if err != nil {
			b.t.Fatal(err)
		}
		defer f.Close()
		if err := setFlags(int(f.Fd()), (&held{file: f}).flags()|flags); err != nil {
			b.t.Skipf("SKIP: needs a file system with inode flags: %v", err)
		}
		b.t.Cleanup(func() {
			if f, err := os.Open(full); err == nil {
				_ = setFlags(int(f.Fd()), 0)
				_ = f.Close()
			}
		})
	}
}

func nothing(Entry) {}

// Ensure a file is gone, cannot be run, and comes back exactly as it was.
func TestTakeAndPutBack(t *testing.T) {
	for _, across := range []bool{false, true} {
		for _, flags := range []uint32{0, 0x10} {
			t.Run(fmt.Sprintf("across=%v flags=%x", across, flags), func(t *testing.T) {
				b := newBench(t, across)
				b.intruder("/tmp/evil", flags)
				before := b.look("/tmp/evil")
				text, err := b.Check([]byte("/tmp/evil"))
				if err != nil || !strings.Contains(text, "10000 bytes") || b.look("/tmp/evil") != before {
					t.Fatalf("check: got %q, %v", text, err)
				}
				var saved []Entry
				e, err := b.Take("op-1", []byte("/tmp/evil"), nil, func(e Entry) {
					saved = append(saved, e)
					if _, err := os.Lstat(b.path("/tmp/evil")); err != nil {
						t.Error("saved after it was done")
					}
				})
				if err != nil || len(saved) != 1 {
					t.Fatalf("got %v, saved %d times", err, len(saved))
				}
				if _, err := os.Lstat(b.path("/tmp/evil")); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("it is still there: %v", err)
				}
				if names, _ := os.ReadDir(b.path("/tmp")); len(names) != 0 {
					t.Errorf("left behind: %v", names)
				}
				if err := exec.Command(b.content("op-1")).Run(); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("running it in the store: got %v", err)
				}
				if held := b.Held(); held["op-1"].Ino != e.Ino {
					t.Errorf("found without a record: %v", held)
				}
				if err := b.PutBack("op-1", saved[0]); err != nil {
					t.Fatal(err)
				}
				b.Forget("op-1")
				if after := b.look("/tmp/evil"); after != before {
					t.Errorf("got  %s\nwant %s", after, before)
				}
				if names, _ := os.ReadDir(b.cfg.Dir); len(names) != 0 {
					t.Errorf("left in the store: %v", names)
				}
			})
		}
	}
}

// Ensure an undo overwrites nothing.
func TestPlaceIsTaken(t *testing.T) {
	for _, across := range []bool{false, true} {
		b := newBench(t, across)
		b.intruder("/tmp/evil", 0)
		e, err := b.Take("op-1", []byte("/tmp/evil"), nil, nothing)
		if err != nil {
			t.Fatal(err)
		}
		b.write("/tmp/evil", "mine", 0o644)
		if err := b.PutBack("op-1", e); !errors.Is(err, ErrOccupied) {
			t.Errorf("got %v, want %v", err, ErrOccupied)
		}
		if raw, _ := os.ReadFile(b.path("/tmp/evil")); string(raw) != "mine" {
			t.Errorf("overwritten: %q", raw)
		}
		_ = os.RemoveAll(b.path("/tmp"))
		if err := b.PutBack("op-1", e); err == nil || !strings.Contains(err.Error(), "make it anew") {
			t.Errorf("without the folder: got %v", err)
		}
		_ = os.Mkdir(b.path("/tmp"), 0o755)
		if err := b.PutBack("op-1", e); err != nil {
			t.Errorf("at last: got %v", err)
		}
	}
}

// Ensure what must stay stays, with the reason.
func TestRefused(t *testing.T) {
	b := newBench(t, false)
	b.cfg.Own = []string{b.path("/etc/vedette")}
	for _, name := range []string{"/usr/bin/ls", "/usr/bin/env", "/bin2/env", "/etc/passwd", "/etc/vedette/sensor.yaml", "/boot/vmlinuz", "/dev/x", "/usr/local/bin/free"} {
		b.write(name, "x", 0o755)
	}
	b.write("/diverted", "x", 0o755)
	b.write("/var/lib/dpkg/diversions", "/bin/ls\n/diverted\nother\n", 0o644)
	_ = os.Symlink("/usr/bin", b.path("/bin"))
	_ = os.Symlink("/etc/passwd", b.path("/tmplink"))
	_ = unix.Mkfifo(b.path("/pipe"), 0o600)
	_ = unix.Mknod(b.path("/device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
	_ = os.MkdirAll(b.cfg.Dir, 0o700)
	_ = os.WriteFile(filepath.Join(filepath.Dir(b.cfg.Dir), "isolation.lease"), nil, 0o600)
	for name, want := range map[string]string{
		"/usr/bin/ls":              "package base owns",
		"/usr/bin/env":             "package base owns",
		"/diverted":                "package base owns",
		"/bin/ls":                  "symbolic link",
		"/tmplink":                 "is a symbolic link",
		"/etc/passwd":              "does not work without",
		"/etc/vedette/sensor.yaml": "belongs to the sensor",
		"/boot/vmlinuz":            "starts from",
		"/dev/x":                   "among the devices",
		"/usr":                     "a folder",
		"/pipe":                    "a pipe",
		"/device":                  "a device",
		"/missing":                 "no such file",
		"relative":                 "not the absolute path",
		"/a/../etc/passwd":         "not the absolute path",
		"":                         "not the absolute path",
		"/":                        "not the absolute path",
		"/etc/passwd\x00x":         "not the absolute path",
	} {
		if text, err := b.Check([]byte(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check %q: got %q, %v, want %q", name, text, err, want)
		}
		if _, err := b.Take("op-1", []byte(name), nil, nothing); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("take %q: got %v, want %q", name, err, want)
		}
	}
	if _, err := b.Check([]byte("/usr/local/bin/free")); err != nil {
		t.Errorf("what no package owns: got %v", err)
	}
	host := Open(Config{Dir: b.cfg.Dir})
	own := filepath.Join(filepath.Dir(b.cfg.Dir), "isolation.lease")
	if _, err := host.Check([]byte(own)); err == nil || !strings.Contains(err.Error(), "belongs to the sensor") {
		t.Errorf("the state: got %v", err)
	}
	// A package database that cannot be read.
	b.write("/var/lib/rpm/rpmdb.sqlite", "SQLite", 0o644)
	b.write("/tmp/evil", "x", 0o755)
	if _, err := b.Check([]byte("/usr/local/bin/free")); !errors.Is(err, ErrRefused) {
		t.Errorf("with rpm: got %v", err)
	}
	if _, err := b.Check([]byte("/tmp/evil")); err != nil {
		t.Errorf("with rpm, where no package is: got %v", err)
	}
}

// Ensure an attempt that was interrupted at any step is finished or undone by the
// next.
func TestInterrupted(t *testing.T) {
	for _, across := range []bool{false, true} {
		for _, undo := range []bool{false, true} {
			for step := range 4 {
				t.Run(fmt.Sprintf("across=%v undo=%v step=%d", across, undo, step), func(t *testing.T) {
					b := newBench(t, across)
					b.intruder("/tmp/evil", 0)
					before := b.look("/tmp/evil")
					e := b.halfway(step, across)
					if !undo {
						if _, err := b.Take("op-1", []byte("/tmp/evil"), &e, nothing); err != nil {
							t.Fatalf("finishing: %v", err)
						}
						if names, _ := os.ReadDir(b.path("/tmp")); len(names) != 0 {
							t.Errorf("left: %v", names)
						}
					}
					if err := b.PutBack("op-1", e); err != nil {
						t.Fatalf("undoing: %v", err)
					}
					if after := b.look("/tmp/evil"); after != before {
						t.Errorf("got  %s\nwant %s", after, before)
					}
					if names, _ := os.ReadDir(b.path("/tmp")); len(names) != 1 {
						t.Errorf("left: %v", names)
					}
				})
			}
		}
	}
}

// halfway does the first steps of a Take and no more.
func (b *bench) halfway(step int, across bool) Entry {
	b.t.Helper()
	p, err := b.locate([]byte("/tmp/evil"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer p.close()
	h, err := p.hold()
	if err != nil {
		b.t.Fatal(err)
	}
	defer h.close()
	e, err := h.describe([]byte("/tmp/evil"))
	if err = errors.Join(err, os.MkdirAll(b.cfg.Dir, 0o700), b.describe("op-1", e)); err != nil {
		b.t.Fatal(err)
	}
	content := b.content("op-1")
	raw, _ := os.ReadFile(b.path("/tmp/evil"))
	// Reading it just now moved the time of the last access.
	old := []unix.Timespec{nanos(e.Atime), nanos(e.Mtime)}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, b.path("/tmp/evil"), old, 0)
	switch {
	case step == 0:
	case !across:
		err = os.Rename(b.path("/tmp/evil"), content)
		if step > 1 {
			err = errors.Join(err, os.Chmod(content, 0))
		}
	case step == 1:
		err = os.WriteFile(content+".part", raw[:100], 0o600)
	default:
		err = os.WriteFile(content, raw, 0)
		if step == 3 {
			err = errors.Join(err, os.Rename(b.path("/tmp/evil"), b.path("/tmp/"+asideName("op-1"))))
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// Ensure whoever exchanges the path while it is taken makes nothing else vanish
// and nothing be read through a link.
func TestExchangedPaths(t *testing.T) {
	for _, across := range []bool{false, true} {
		b := newBench(t, across)
		b.write("/etc/precious", "precious", 0o600)
		b.write("/tmp/other", "other", 0o644)
		var over atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			evil, link, spare := b.path("/tmp/evil"), b.path("/tmp/link"), b.path("/tmp/spare")
			for !over.Load() {
				_ = os.WriteFile(spare, []byte("evil"), 0o755)
				_ = os.Rename(spare, evil)
				_ = os.Symlink("../etc/precious", link)
				_ = os.Rename(link, evil)
				_ = os.Link(b.path("/tmp/other"), spare)
				_ = os.Rename(spare, evil)
			}
		}()
		taken, swapped, tries := 0, 0, 0
		deadline := time.Now().Add(slow.Deadline(10 * time.Second))
		for i := 0; (taken < 10 || swapped < 10) && time.Now().Before(deadline); i++ {
			tries++
			id := fmt.Sprintf("op-%d", i)
			e, err := b.Take(id, []byte("/tmp/evil"), nil, nothing)
			if errors.Is(err, ErrSwapped) {
				swapped++
			}
			if err != nil {
				continue
			}
			taken++
			f, _ := os.Open(b.content(id))
			sum, _ := hash(f)
			_ = f.Close()
			if !bytes.Equal(sum, e.SHA256) {
				t.Errorf("took another content than was looked at")
			}
		}
		over.Store(true)
		<-done
		if raw, err := os.ReadFile(b.path("/etc/precious")); string(raw) != "precious" {
			t.Errorf("the link's target: %q, %v", raw, err)
		}
		held := b.Held()
		for id, e := range held {
			if st := (unix.Stat_t{}); unix.Lstat(b.content(id), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
				t.Errorf("the store holds what is no file: %s %v", id, e)
			}
		}
		if taken == 0 || swapped == 0 {
			t.Errorf("across=%v: %d taken and %d exchanges met in %d tries, want some of each", across, taken, swapped, tries)
		}
	}
}

func FuzzPath(f *testing.F) {
	dir := f.TempDir()
	_ = os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)
	_ = os.Symlink("/etc", filepath.Join(dir, "link"))
	s := Open(Config{Dir: filepath.Join(dir, "state/q"), Root: dir})
	for _, seed := range []string{"/x", "/../x", "/link/passwd", "//x", "/x/", "/\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		if _, err := s.Check(name); err == nil && string(name) != "/x" {
			t.Errorf("%q was accepted", name)
		}
	})
}
