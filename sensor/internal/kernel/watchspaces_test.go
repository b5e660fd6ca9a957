package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure the files of a mount namespace are watched for as long as some process is in it, not
// only while the one lives that was executed there last; and that they are left soon after the
// last one, because the next file system that is mounted has the same numbers.
func TestNamespaceIsWatchedWhileItLives(t *testing.T) {
	f := openFiles(t)
	spaces := func() int {
		f.watcher.mu.Lock()
		defer f.watcher.mu.Unlock()
		return len(f.watcher.spaces)
	}
	inMountNS(t, func() {
		check := func(what string, err error) {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		check("mounting", unix.Mount("tmpfs", filepath.Dir(f.file), "tmpfs", 0, ""))
		check("making the file", os.WriteFile(f.file, []byte("x"), 0o644))
		lives := exec.Command("/bin/sh", "-c", "read go; echo y >>"+f.file+"; read end; :")
		in, err := lives.StdinPipe()
		check("a pipe", err)
		check("starting who lives", lives.Start())
		ends := exec.Command("/bin/sh", "-c", ":")
		check("running who ends", ends.Run())
		exited := func(e *event.Exit) bool { return e.Process.PID == uint32(ends.Process.Pid) }
		for deadline := time.Now().Add(patience); len(filter(f.all(), exited)) == 0; {
			if time.Now().After(deadline) {
				t.Error("its end was not seen")
				break
			}
			<-f.more
		}
		for range 2 { // what a look would forget it has forgotten by then
			check("looking", f.watcher.refresh())
		}
		if spaces() == 0 {
			t.Error("a namespace is forgotten that a process is in")
		}
		_, err = in.Write([]byte("go\n"))
		check("telling it to go on", err)
		told := func(e *event.File) bool {
			return e.Op == event.FileWrite && string(e.Path) == f.file && e.Process.PID == uint32(lives.Process.Pid)
		}
		deadline := time.Now().Add(patience)
		for len(filter(f.all(), told)) == 0 && time.Now().Before(deadline) {
			select {
			case <-f.more:
			case <-time.After(50 * time.Millisecond):
			}
		}
		if len(filter(f.all(), told)) == 0 {
			t.Errorf("not told:\n%s", f.dump())
		}
		check("ending it", in.Close())
		check("waiting for its end", lives.Wait())
	})
	for deadline := time.Now().Add(patience); spaces() > 0; {
		if time.Now().After(deadline) {
			t.Fatal("a namespace that nobody is in is still watched")
		}
		select {
		case <-f.more:
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Ensure a file that is made in an overlay is told by its own path though a watched directory has
// its number: where the layers are on several file systems, directories are numbered by the
// overlay and files by their layer.
func TestFileWithADirectorysNumber(t *testing.T) {
	const trees, files = 20, 20
	f := openFiles(t, func(c *Config) {
		plain := strings.TrimSuffix(c.Watch[0].Path, "/tree/") + "/plain"
		for i := range trees {
			c.Watch = append(c.Watch, WatchPath{Path: fmt.Sprintf("%s/t%d/", plain, i), Class: event.FilePersistence})
		}
	})
	inMountNS(t, func() {
		check := func(what string, err error) {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for i := range trees {
			check("making a tree", os.Mkdir(fmt.Sprintf("%s/t%d", f.plain, i), 0o755))
		}
		check("mounting", unix.Mount("tmpfs", f.tree, "tmpfs", 0, ""))
		check("making a layer", os.Mkdir(f.tree+"/up", 0o755))
		check("making a layer", os.Mkdir(f.tree+"/work", 0o755))
		if err := unix.Mount("overlay", f.plain, "overlay", 0, "lowerdir="+f.plain+",upperdir="+f.tree+"/up,workdir="+f.tree+"/work"); err != nil {
			t.Logf("SKIP: needs overlayfs: %v", err)
			return
		}
		lives := exec.Command("/bin/sh", "-c", fmt.Sprintf("read go; i=0; while [ $i -lt %d ]; do echo x >%s/t0/f$i; i=$((i+1)); done; read end; :", files, f.plain))
		in, err := lives.StdinPipe()
		check("a pipe", err)
		check("starting a shell", lives.Start())
		f.await("its start", func(events []event.Event) bool {
			return len(filter(events, byPID(uint32(lives.Process.Pid)))) > 0
		})
		check("looking", f.watcher.refresh())
		_, err = in.Write([]byte("go\n"))
		check("telling it to go on", err)
		mine := func(e *event.File) bool {
			return e.Op == event.FileCreate && e.Process.PID == uint32(lives.Process.Pid)
		}
		for _, e := range filter(f.await("its files", func(events []event.Event) bool { return len(filter(events, mine)) >= files }), mine) {
			if !strings.HasPrefix(string(e.Path), f.plain+"/t0/f") {
				t.Errorf("a file in t0 is told as %s", e.Path)
			}
		}
		check("ending it", in.Close())
		check("waiting for its end", lives.Wait())
	})
}

// Ensure the first process of a namespace stands for it, and not one of those that come and go.
func TestEldestStandsForANamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root")
	}
	inMountNS(t, func() {
		outer := exec.Command("/bin/sh", "-c", "/bin/sh -c 'echo $$; read end; :'; :")
		in, err := outer.StdinPipe()
		if err != nil {
			t.Error(err)
			return
		}
		out, err := outer.StdoutPipe()
		if err != nil {
			t.Error(err)
			return
		}
		if err := outer.Start(); err != nil {
			t.Error(err)
			return
		}
		first, inner := uint32(outer.Process.Pid), uint32(0)
		if _, err := fmt.Fscan(out, &inner); err != nil {
			t.Errorf("reading the inner shell's number: %v", err)
		}
		ns := mountNamespace(first)
		if got := eldest(inner, ns); got != first || inner == first {
			t.Errorf("for %d stands %d, want %d", inner, got, first)
		}
		if got := eldest(inner, ns+1); got != 0 {
			t.Errorf("%d stands for a namespace that it is not in", got)
		}
		_ = in.Close()
		if err := outer.Wait(); err != nil {
			t.Errorf("waiting for its end: %v", err)
		}
		if got := eldest(first, ns); got != 0 {
			t.Errorf("%d stands for a namespace after its end", got)
		}
	})
}
