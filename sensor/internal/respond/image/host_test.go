package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// guest says whether this machine is vmtest's, by its command line: every exec of
// a machine that is anybody else's must not depend on a test.
func guest() bool {
	raw, err := os.ReadFile("/proc/cmdline")
	return err == nil && strings.Contains(string(raw), "rcupdate.rcu_expedited=1 lsm=landlock")
}

// Ensure a whole machine can be covered, and the sensor can go on starting its
// canary meanwhile, whatever the runtime does.
func TestWholeHost(t *testing.T) {
	if !guest() {
		t.Skip("SKIP: holds every exec of the machine, so it needs vmtest's guest (make vmtest)")
	}
	dir := t.TempDir()
	g := New(Config{Mounts: func() ([]string, error) { return Mounts("/proc") }, Dir: dir, Patience: slow.Deadline(2 * time.Second)})
	defer func() { _ = g.Close() }()
	evil, good := filepath.Join(dir, "evil"), filepath.Join(dir, "good")
	hash := program(t, evil, "evil")
	program(t, good, "good")
	block(t, g, map[Hash]int64{hash: -1})
	covered, missed := g.Covered()
	t.Logf("%d file systems are covered; not: %v", covered, missed)
	if text, err := g.Probe(); err != nil {
		t.Fatalf("got %q, %v", text, err)
	}
	group := g.running.fd
	for path, want := range map[string]unix.Errno{evil: unix.EPERM, good: 0} {
		if got, err := execute(path, group); got != want || err != nil {
			t.Errorf("%s: exec gave %v, %v; want %v", path, got, err, want)
		}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC() // the world stops again and again
			}
		}
	}()
	for range 20 {
		if err := exec.Command("/proc/self/exe", "-test.run=^$").Run(); err != nil {
			t.Errorf("the canary: %v", err)
		}
	}
	close(stop)
	<-done
	if n := g.Counters(); n.Late > 0 || n.Overrun > 0 {
		t.Errorf("counted %+v", n)
	}
}
