package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// full fills a file system to its last byte and returns the file that does it.
func full(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Ensure a sensor whose disk is full goes on: it says so once, keeps what it finds
// in memory, reports through it, and writes again when there is room.
func TestFullDisk(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	r.stop(t)
	// The state moves to a small file system of its own.
	state := r.state()
	kept := state + ".kept"
	if err := errors.Join(os.Rename(state, kept), os.Mkdir(state, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Skipf("SKIP: needs the right to mount a tmpfs: %v", err)
	}
	r.lab.OnClose(func() error { return unix.Unmount(state, 0) })
	if err := os.CopyFS(state, os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.state("identity", "host.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.spec.More = "spool_max_bytes: 67108864\n"
	r.again(t)
	find := func(marker string) {
		t.Helper()
		r.run(t, shell, "-c", "true", marker)
		if n := r.untilFound(t, 15*time.Second, shell, marker)[marker]; n != 1 {
			t.Errorf("%s is told %d times", marker, n)
		}
	}
	find("room")

	// Full while the coordinator listens: nothing is late, nothing is lost.
	filler := r.state("filler")
	full(t, filler)
	for i := range 5 {
		find(fmt.Sprintf("full-%d", i))
	}
	// Full while it does not: memory holds what the disk does not take.
	r.cluster.Members["c1"].Kill()
	for i := range 20 {
		r.run(t, shell, "-c", "true", fmt.Sprintf("memory-%d", i))
	}
	if n := r.logged(t, "spool disk fails"); n < 1 || n > 3 {
		t.Errorf("%d lines say that the spool's disk fails, want about one for each time that it was found full", n)
	}
	// Room again, before anybody listens: it goes to the disk and survives a kill.
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.until(t, 15*time.Second, "the spool to be on disk again", func(context.Context) (bool, error) {
		return r.logged(t, "spool disk works again") > 0 && r.spooled(t, "memory-19"), nil
	})
	r.sensor.Kill()
	r.again(t)
	if err := r.cluster.StartNode(t.Context(), r.cluster.Nodes[0]); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("memory-%d", i))
	}
	for marker, n := range r.untilFound(t, 30*time.Second, shell, want...) {
		if n > 1 && marker != shell && marker != "-c" && marker != "true" {
			t.Errorf("%s is told %d times", marker, n)
		}
	}
	find("room-again")
	d, err := r.detail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("losses: %+v", d.Losses)
	if n := d.lost("spool", "disk-error"); n != 0 {
		t.Errorf("%d records were dropped, and memory had room for them", n)
	}

	// A sensor that starts on a full disk sees and reports.
	full(t, filler)
	r.stop(t)
	before := len(r.log(t))
	r.again(t)
	find("started-full")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.until(t, 20*time.Second, "the sensor to be well", func(context.Context) (bool, error) {
		// Of this run alone: the one before ended while its disk was full. All of it: this one may have
		// found it full before it said that it runs.
		run := r.log(t)[before:]
		return strings.Count(run, "spool disk works again") == strings.Count(run, "spool disk fails"), nil
	})
	find("end")
}
