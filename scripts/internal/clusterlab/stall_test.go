package clusterlab

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

var stall = flag.Duration("stall", 0, "how long a disk stalls (a minute takes a minute); 0: until the others write")

// Of linux/fs.h: what writes waits until it is thawed.
const freezing, thawing = 0xc0045877, 0xc0045878

// onDisks gives each node an ext4 on a loop device of its own, whose file is in a tmpfs of its own.
func onDisks(l *lab.Lab) error {
	for _, id := range []string{"n1", "n2", "n3"} {
		dir, under := l.NodeDir(id), filepath.Join(l.Dir, "disk-"+id)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(under, 0o700), syscall.Mount("tmpfs", under, "tmpfs", 0, "size=192m,mode=0700")); err != nil {
			return err
		}
		l.OnClose(func() error { return syscall.Unmount(under, syscall.MNT_DETACH) })
		image := filepath.Join(under, "image")
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 1<<30)); err != nil {
			return err
		}
		for _, command := range [][]string{{"mkfs.ext4", "-q", "-E", "lazy_itable_init=1", image}, {"mount", "-o", "loop", image, dir}} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%v: %w: %s", command, err, out)
			}
		}
		l.OnClose(func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) })
		if err := errors.Join(os.Chmod(dir, 0o700), os.RemoveAll(filepath.Join(dir, "lost+found"))); err != nil {
			return err
		}
	}
	return nil
}

// Ensure a leader whose disk fails ends, and one whose disk stalls leads no more within 10 s
// although its heartbeats need no disk; that neither says of anything that it is
// stored which is not, and that both come back.
func TestClusterDiskInTrouble(t *testing.T) {
	labtest.NeedRoot(t)
	c := newTrioOn(t, 3, "", onDisks)
	c.askEach()
	writers, stop := c.write(t, 4, 20*time.Millisecond)
	c.failDisk(t, writers)
	c.stallDisk(t, writers)
	stop()
	c.countedOnce(t, writers)
}

func (c *trio) stallDisk(t *testing.T, writers []*writer) {
	t.Helper()
	victim := c.leader()
	disk, err := os.Open(c.dir(victim))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := unix.IoctlSetInt(int(disk.Fd()), freezing, 0); err != nil {
		t.Fatal(err)
	}
	frozen := true
	thaw := func() {
		if frozen {
			frozen = false
			if err := unix.IoctlSetInt(int(disk.Fd()), thawing, 0); err != nil {
				t.Error(err)
			}
		}
	}
	defer thaw()
	began := time.Now()
	c.deposed(t, "stalled disk", victim, began)
	from := written(writers)
	c.until(60*time.Second, "writes with one stalled disk", func(context.Context) (bool, error) { return written(writers) > from+100, nil })
	labtest.Figure(t, "stalled disk: 100 writes after", time.Since(began).Seconds(), "s", "", true, "")
	<-time.After(*stall - time.Since(began)) // the stall is what is tried
	labtest.Figure(t, "stalled disk: thawed after", time.Since(began).Seconds(), "s", "", true, "")
	thaw()
	c.alive()
	var s status
	c.until(30*time.Second, "the node to be ready again", func(ctx context.Context) (bool, error) {
		return c.serving(ctx, victim, &s) && !strings.Contains(strings.Join(s.Problems, "\n"), "not ready"), fmt.Errorf("%q", s.Problems)
	})
}

// askEach makes the contexts that deposed asks with: that takes a leader, and time that is no part of a figure.
func (c *trio) askEach() {
	c.t.Helper()
	for _, n := range c.Nodes {
		c.only(n.ID)
	}
}

// deposed waits until a node that is asked names another leader than the victim, and judges how long after
// the fault began that is.
func (c *trio) deposed(t *testing.T, fault, victim string, began time.Time) {
	t.Helper()
	var s status
	c.until(time.Minute, "another leader", func(ctx context.Context) (bool, error) {
		for _, n := range c.Nodes {
			if n.ID != victim && c.serving(ctx, n.ID, &s) && s.LeaderID != victim {
				return true, nil
			}
		}
		return false, fmt.Errorf("%q leads", s.LeaderID)
	})
	took := time.Since(began)
	labtest.Figure(t, fault+": another leader after", took.Seconds(), "s", "≤ 10", took <= 10*time.Second, "")
}

// serving asks one node for its status.
func (c *trio) serving(ctx context.Context, id string, s *status) bool {
	cmd := c.Command(ctx, "status", "-o", "json")
	cmd.Env = append(cmd.Env, "VEDETTE_CONTEXT_FILE="+c.only(id))
	r := c.run(cmd)
	return json.Unmarshal([]byte(r.out), s) == nil && s.LeaderID != ""
}

// failDisk has the leader's fsync answered with an error by a real disk.
func (c *trio) failDisk(t *testing.T, writers []*writer) {
	t.Helper()
	victim := c.leader()
	// The disk's own file finds no room, so that it answers what ext4 writes with an error.
	// That takes a moment, in which the fault begins: all of it is counted.
	filler := filepath.Join(c.lab.Dir, "disk-"+victim, "filler")
	began := time.Now()
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	c.deposed(t, "failed disk", victim, began)
	said := c.ends(victim, 60*time.Second)
	labtest.Figure(t, "failed disk: its node ended within", time.Since(began).Seconds(), "s", "", true, "")
	if !strings.Contains(said, "a write of the log failed") {
		t.Errorf("it does not say why it ended:\n%s", said)
	}
	from := written(writers)
	c.until(60*time.Second, "writes with one failed disk", func(context.Context) (bool, error) { return written(writers) > from+100, nil })
	resumed := time.Since(began)
	labtest.Figure(t, "failed disk: 100 writes after", resumed.Seconds(), "s", "≤ 10", resumed <= 10*time.Second, "")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	dir := c.dir(victim)
	image := filepath.Join(c.lab.Dir, "disk-"+victim, "image")
	// What ext4 took for written is read again, as after a reboot.
	steps := [][]string{{"umount", dir}, {"fsck.ext4", "-fy", image}, {"mount", "-o", "loop", image, dir}}
	c.until(20*time.Second, "the disk to work again", func(context.Context) (bool, error) {
		for len(steps) > 0 {
			out, err := exec.Command(steps[0][0], steps[0][1:]...).CombinedOutput()
			// fsck ends with 1 when it mended something.
			if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1 || steps[0][0] != "fsck.ext4") {
				return false, fmt.Errorf("%v: %w: %s", steps[0], err, out)
			}
			steps = steps[1:]
		}
		return true, nil
	})
	c.start(victim)
	c.alive()
}
