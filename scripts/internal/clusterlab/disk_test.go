package clusterlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// Ensure a node whose disk is full acknowledges nothing that it has not written,
// that it leads no more within 10 s, that the others go on, that the operator is told, and
// that room is enough to bring it back.
func TestClusterFullDisk(t *testing.T) {
	labtest.NeedRoot(t)
	for _, leads := range []bool{false, true} {
		name := map[bool]string{false: "of a follower", true: "of the leader"}[leads]
		t.Run(name, func(t *testing.T) {
			c := newTrioOn(t, 3, "", func(l *lab.Lab) error {
				var all error
				for _, id := range []string{"n1", "n2", "n3"} {
					dir := l.NodeDir(id)
					err := errors.Join(os.Mkdir(dir, 0o700), syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256m,mode=0700"))
					if err == nil {
						l.OnClose(func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) })
					}
					all = errors.Join(all, err)
				}
				return all
			})
			c.askEach()
			writers, stop := c.write(t, 4, 20*time.Millisecond)
			victim := c.leader()
			if !leads {
				victim = c.followers()[0]
			}
			filler := filepath.Join(c.dir(victim), "filler")
			began := time.Now() // the disk is full at some moment of the filling: all of it is counted
			if err := fill(filler); err != nil {
				t.Fatal(err)
			}
			if leads {
				c.deposed(t, "full disk", victim, began)
			}
			from := written(writers)
			c.until(60*time.Second, "writes with one full disk", func(context.Context) (bool, error) { return written(writers) > from+200, nil })
			labtest.Figure(t, "full disk "+name+": 200 writes after", time.Since(began).Seconds(), "s", "", true, "")
			var s status
			c.until(10*time.Second, "status to say so", func(context.Context) (bool, error) {
				for _, n := range c.Nodes {
					c.asks(c.only(n.ID), &s, "status")
					told := strings.Join(s.Problems, "\n")
					if n.ID == victim && strings.Contains(told, "make room") || n.ID != victim && strings.Contains(told, "Node "+victim+" ") {
						return true, nil
					}
				}
				return false, fmt.Errorf("%q", s.Problems)
			})
			t.Logf("status says %q", s.Problems)
			select {
			case <-c.Members[victim].Exited():
				t.Logf("%s ended:\n%s", victim, c.Members[victim].Tail())
			default:
				c.said(victim, "disk is full", 30*time.Second)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			select {
			case <-c.Members[victim].Exited(): // as systemd would
				c.start(victim)
			default:
			}
			c.alive()
			stop()
			c.countedOnce(t, writers)
		})
	}
}

// fill writes until there is no room.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		if _, err = f.Write(block[:size]); err != nil {
			size /= 16
		}
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, io.ErrShortWrite) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
