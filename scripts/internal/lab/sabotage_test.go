package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Ensure a sensor that is stopped for a while tells what its rings kept, and
// counts what they could not keep.
func TestStoppedSensor(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	r.run(t, shell, "-c", "true", "before")
	r.untilFound(t, 10*time.Second, shell, "before")
	if err := syscall.Kill(r.sensor.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.run(t, shell, "-c", "true", "while-stopped")
	const runs = 12000
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done", runs)
	began := time.Now()
	r.run(t, "/bin/sh", "-c", script)
	took := time.Since(began)
	if err := syscall.Kill(r.sensor.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.untilFound(t, 10*time.Second, shell, "while-stopped") // the rings are read again, and so have room
	r.run(t, shell, "-c", "true", "after")
	r.untilFound(t, 15*time.Second, shell, "after")
	target, err := filepath.EvalSymlinks("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	var d detail
	var counted uint64
	r.until(t, 20*time.Second, "all to be counted, or counted as lost", func(ctx context.Context) (bool, error) {
		now, err := r.detail(ctx)
		if err != nil {
			return false, err
		}
		d, counted = now, 0
		for _, b := range d.Behaviours {
			if b.Kind == "exec" && b.Object == target {
				counted += b.Count
			}
		}
		return counted+d.lost("ring:critical", "exec") >= runs, nil
	})
	t.Logf("stopped for %s: %d of %d starts counted, %d events lost: %+v", took.Round(time.Millisecond), counted, runs, d.Lost, d.Losses)
	// The shells and the commands of this test may be among the lost.
	const others = 10
	if lost := d.lost("ring:critical", "exec"); counted > runs || counted+lost > runs+others {
		t.Errorf("%d starts are counted and %d told as lost, %d were made", counted, lost, runs)
	}
}

// Ensure a sensor whose state folder is removed under it goes on telling, says
// what is wrong, and does not die of it.
func TestStateFolderRemoved(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	if err := os.RemoveAll(r.state()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		marker := fmt.Sprintf("removed-%d", i)
		r.run(t, shell, "-c", "true", marker)
		if n := r.untilFound(t, 15*time.Second, shell, marker)[marker]; n != 1 {
			t.Errorf("%s is told %d times", marker, n)
		}
	}
	r.untilLogged(t, "level=ERROR", "spool disk fails")
	d, err := r.detail(t.Context())
	if err != nil || d.State != "online" {
		t.Errorf("the host is %q (%v)", d.State, err)
	}
}
