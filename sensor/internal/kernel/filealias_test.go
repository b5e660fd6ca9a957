package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// inMountNS runs f in a mount namespace of its own thread.
func inMountNS(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("making mount namespace: %v", err)
	}
}

func openClose(t testing.TB, name string) {
	t.Helper()
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("opening %s: %v", name, err)
		return
	}
	_ = unix.Close(fd)
}

// Ensure that whatever leads to a watched file, it is told as that file.
func TestFileAliases(t *testing.T) {
	f := openFiles(t)
	inTree := f.tree + "/a"
	write(t, inTree, "x")
	f.told(event.FileCreate, inTree, "")
	must(t, os.Symlink(f.file, f.plain+"/link"))
	must(t, os.Symlink(filepath.Dir(f.file), f.plain+"/dirlink"))
	must(t, os.Link(f.file, f.plain+"/hard"))
	must(t, os.Link(inTree, f.plain+"/hardtree"))
	for _, d := range []string{"/bound", "/boundtree"} {
		must(t, os.Mkdir(f.plain+d, 0o755))
	}
	n := 0
	count := func(path string) (n int) {
		return len(filter(f.all(), func(e *event.File) bool { return e.Op == event.FileWrite && string(e.Path) == path }))
	}
	wantFile, wantTree := 0, 0
	inMountNS(t, func() {
		if unix.Mount(filepath.Dir(f.file), f.plain+"/bound", "", unix.MS_BIND, "") != nil ||
			unix.Mount(f.tree, f.plain+"/boundtree", "", unix.MS_BIND, "") != nil || unix.Chdir(f.plain) != nil {
			t.Error("no bind mount")
			return
		}
		held, err := unix.Open(f.file, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(held)
		for _, name := range []string{
			f.file, f.plain + "/link", f.plain + "/dirlink/secret", f.plain + "/hard", f.plain + "/bound/secret", "../single/secret",
			"link", "bound/../bound/secret", "/proc/thread-self/root" + f.file, "/proc/thread-self/cwd/link",
			fmt.Sprintf("/proc/thread-self/fd/%d", held), "//" + f.file, filepath.Dir(f.file) + "/./secret",
		} {
			openClose(t, name)
			wantFile++
			n++
		}
		for _, name := range []string{inTree, f.plain + "/hardtree", f.plain + "/boundtree/a", "../tree/a", "boundtree/../boundtree/a"} {
			openClose(t, name)
			wantTree++
			n++
		}
	})
	f.await("each alias", func([]event.Event) bool { return count(f.file) >= wantFile && count(inTree) >= wantTree })
	if a, b := count(f.file), count(inTree); a != wantFile || b != wantTree {
		t.Errorf("told %d, %d opens; made %d, %d\n%s", a, b, wantFile, wantTree, f.dump())
	}
}

// Ensure that what is not watched, and what only reads, is not told.
func TestUnwatchedFilesAreNotTold(t *testing.T) {
	f := openFiles(t)
	write(t, f.plain+"/a", "x")
	write(t, filepath.Dir(f.file)+"/other", "x")
	must(t, os.Rename(f.plain+"/a", f.plain+"/b"))
	must(t, os.Remove(f.plain+"/b"))
	if _, err := os.ReadFile(f.file); err != nil {
		t.Fatal(err)
	}
	openClose(t, f.file)
	f.told(event.FileWrite, f.file, "")
	self := uint32(os.Getpid())
	if got := filter(f.all(), func(e *event.File) bool { return e.Process.PID == self && e.Op != event.FileMapExec }); len(got) != 1 {
		t.Errorf("told %d, want 1:\n%s", len(got), f.dump())
	}
}

// Ensure that the file that was opened is told, however the name is changed meanwhile
// by another thread.
func TestOpenedFileCannotBeMisnamed(t *testing.T) {
	f := openFiles(t)
	const tries = 2000
	names := [2]string{f.tree + "/good", f.tree + "/evil"}
	inodes := map[uint64]string{}
	for _, n := range names {
		write(t, n, "x")
		var st unix.Stat_t
		must(t, unix.Stat(n, &st))
		inodes[st.Ino] = n
	}
	buffer := append([]byte(names[0]), 0)
	at := len(buffer) - 5
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			copy(buffer[at:], "evil")
			copy(buffer[at:], "good")
		}
	}()
	var want [2]int
	for range tries {
		fd, _, errno := syscall.Syscall6(unix.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(&buffer[0])), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno != 0 {
			continue // a mixture of both
		}
		var st unix.Stat_t
		must(t, unix.Fstat(int(fd), &st))
		if inodes[st.Ino] == names[0] {
			want[0]++
		} else {
			want[1]++
		}
		_ = unix.Close(int(fd))
	}
	stop.Store(true)
	<-done
	opens := func() []*event.File {
		return filter(f.all(), func(e *event.File) bool { return e.Op == event.FileWrite })
	}
	f.await("every open", func([]event.Event) bool { return len(opens()) >= want[0]+want[1] })
	var got [2]int
	wrong := 0
	for _, e := range opens() {
		if inodes[e.Inode] != string(e.Path) {
			wrong++
		}
		got[slices.Index(names[:], string(e.Path))]++
	}
	if wrong != 0 || got != want {
		t.Errorf("%d wrong; told %v, opened %v", wrong, got, want)
	}
	t.Logf("opened %v", want)
}

// compatProgram is a 32-bit program that makes system calls by int 0x80 and exits.
func compatProgram(calls [][]uint32, text map[uint32]string) []byte {
	const base, dataAt = 0x08048000, 0x800
	var code bytes.Buffer
	mov := func(op byte, v uint32) {
		code.WriteByte(op)
		_ = binary.Write(&code, binary.LittleEndian, v)
	}
	for _, c := range append(calls, []uint32{1, 0}) { // exit
		for i, v := range c {
			mov([]byte{0xb8, 0xbb, 0xb9, 0xba}[i], v) // eax, ebx, ecx, edx
		}
		code.Write([]byte{0xcd, 0x80})
	}
	image := make([]byte, 0x1000)
	var head bytes.Buffer
	head.WriteString("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	_ = binary.Write(&head, binary.LittleEndian, []uint16{2, 3})
	_ = binary.Write(&head, binary.LittleEndian, []uint32{1, base + 0x100, 52, 0, 0})
	_ = binary.Write(&head, binary.LittleEndian, []uint16{52, 32, 1, 0, 0, 0})
	_ = binary.Write(&head, binary.LittleEndian, []uint32{1, 0, base, base, 0x1000, 0x1000, 7, 0x1000})
	copy(image, head.Bytes())
	copy(image[0x100:], code.Bytes())
	for at, s := range text {
		copy(image[dataAt+at:], s+"\x00")
	}
	return image
}

// Ensure that 32-bit calls, whose numbers mean something else, are seen.
func TestFileCallsByInt80(t *testing.T) {
	f := openFiles(t)
	write(t, f.tree+"/a", "x")
	const text = 0x08048800
	program := f.plain + "/compat"
	must(t, os.WriteFile(program, compatProgram([][]uint32{
		{5, text, 1}, // open, O_WRONLY
		{15, text, 0o4711},
		{38, text, text + 0x200},
		{295, 0xffffff9c, text + 0x400, 0o101}, // openat, O_CREAT|O_WRONLY
		{10, text + 0x200},
	}, map[uint32]string{0: f.tree + "/a", 0x200: f.tree + "/b", 0x400: f.tree + "/c"}), 0o755))
	out, err := exec.Command(program).CombinedOutput()
	if err != nil {
		t.Skipf("SKIP: needs IA32 emulation: %v %s", err, out)
	}
	f.told(event.FileWrite, f.tree+"/a", "")
	f.told(event.FileCreate, f.tree+"/c", "")
	if f.features.Changes != ChangesEverywhere {
		return
	}
	f.told(event.FileChmod, f.tree+"/a", "")
	f.told(event.FileRename, f.tree+"/a", f.tree+"/b")
	f.told(event.FileUnlink, f.tree+"/b", "")
}
