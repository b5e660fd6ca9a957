package respond

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// stuckDisk is a file system that takes no write until it is let go on.
func stuckDisk(t *testing.T) (folder string, freeze, thaw func()) {
	t.Helper()
	dir := t.TempDir()
	image, folder := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, folder}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil { //nolint:gosec // the test's own words
			t.Skipf("SKIP: needs a file system of its own: %s: %v: %s", command[0], err, out)
		}
	}
	root, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	ioctl := func(request uint) error { return unix.IoctlSetInt(int(root.Fd()), request, 0) }
	const freezing, thawing = 0xc0045877, 0xc0045878 // FIFREEZE, FITHAW of linux/fs.h
	t.Cleanup(func() {
		_ = root.Close()
		if err := unix.Unmount(folder, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	freeze = func() {
		t.Helper()
		if err := ioctl(freezing); err != nil {
			t.Fatal(err)
		}
	}
	return folder, freeze, sync.OnceFunc(func() {
		if err := ioctl(thawing); err != nil {
			t.Errorf("thawing: %v", err)
		}
	})
}

// Ensure a disk that stands still delays neither the first cut nor the table, and that the
// isolation is whole when it goes on.
func TestStuckDisk(t *testing.T) {
	folder, freeze, thaw := stuckDisk(t)
	f := &first{}
	b := newBench(t, func(c *Config) { c.StateDir, c.First = folder, f })
	t.Cleanup(func() { b.stop() }) // before the disk goes
	t.Cleanup(thaw)                // and before that, so that it can
	looker, err := isolation.Open(b.host.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = looker.Close() })
	present := func() bool {
		t.Helper()
		there, err := looker.Present()
		if err != nil {
			t.Fatal(err)
		}
		return there
	}
	held := isolation.Spec{Nodes: b.cfg.NodeAddresses()}
	if err := looker.Hold(held); err != nil {
		t.Fatal(err)
	}
	if !present() {
		t.Skip("SKIP: needs nftables tables with an owner that stay when it goes (Linux 6.9)")
	}
	if err := looker.Remove(); err != nil {
		t.Fatal(err)
	}
	freeze()
	done := make(chan *sensorv1.IsolationStatus, 1)
	go func() { done <- b.r.Contain(t.Context(), ownEvidence) }()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for until := time.Now().Add(slow.Deadline(5 * time.Second)); !present(); <-look.C {
		if time.Now().After(until) {
			t.Fatal("no table while the disk stands still")
		}
	}
	f.want(t, "cut full", "stop")
	select {
	case status := <-done:
		t.Fatalf("it does not wait for the disk: %v", status)
	default:
	}
	thaw()
	b.expect("with the disk", <-done, applied, "", true)
}
