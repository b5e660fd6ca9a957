package enrich

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that a working directory is the one that the kernel names: not where the
// process is by the time it is looked at, and known also when it is gone.
func TestWorkingDirectory(t *testing.T) {
	m := newMachine(t)
	m.cfg.Proc = "/proc"
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(wd, &st); err != nil {
		t.Fatal(err)
	}
	here := event.DirectoryID{Inode: st.Ino, Device: 1, Mount: 2}
	elsewhere := event.DirectoryID{Inode: st.Ino + 1, Device: 1, Mount: 2}
	self := uint32(os.Getpid())
	const gone = uint32(1<<32 - 2)
	before := &event.Process{Cwd: "/before"}
	for _, c := range []struct {
		name        string
		pid, parent uint32
		dir         event.DirectoryID
		at          uint64
		want        string
	}{
		{"gone, and nobody to ask", gone, 0, here, 1, "/before"},
		{"by now elsewhere", self, self, elsewhere, 2, "/before"},
		{"gone, the parent is there", gone, self, here, 3, wd},
		{"read a moment ago", gone, 0, here, 3 + cwdFresh/2, wd},
		{"read long ago", gone, 0, here, 3 + 2*cwdFresh, wd},
		{"another mount", gone, 0, event.DirectoryID{Inode: st.Ino, Device: 1, Mount: 3}, 4, "/before"},
		{"told by nobody", self, 0, event.DirectoryID{}, 5, wd},
	} {
		ev := &event.Exec{Header: event.Header{
			Time: c.at, Process: event.ProcessKey{PID: c.pid}, Parent: event.ProcessKey{PID: c.parent},
		}, Cwd: c.dir}
		if got := m.cwdOf(ev, before); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	for mount := range uint32(maxCwds + 10) {
		m.cwdOf(&event.Exec{Header: event.Header{Process: event.ProcessKey{PID: self}},
			Cwd: event.DirectoryID{Inode: st.Ino, Mount: 10 + mount}}, before)
	}
	if n := len(m.cwds); n == 0 || n > maxCwds {
		t.Errorf("%d directories are remembered", n)
	}
}
