package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of bpf(2), include/uapi/linux/bpf.h.
const (
	bpfMapUpdate  = 2
	bpfMapDelete  = 3
	bpfMapNextKey = 4
	bpfMapByID    = 14
	bpfInfo       = 15
	bpfLinkByID   = 30
	bpfLinkDetach = 34
)

// bpf is the bare system call: what an intruder who is root has.
func bpf(command int, attributes unsafe.Pointer, size uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attributes), size)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func byID(t *testing.T, command int, id uint32) int {
	t.Helper()
	attributes := [3]uint32{id}
	fd, err := bpf(command, unsafe.Pointer(&attributes), unsafe.Sizeof(attributes))
	if err != nil {
		t.Fatalf("getting object %d: %v", id, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// objects are the ids that a process's descriptors show, by sort: map_id, link_id, …
func objects(t *testing.T, pid int, sort string) (ids []uint32) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			continue // closed meanwhile
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if rest, ok := strings.CutPrefix(lines.Text(), sort+":"); ok {
				if id, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 32); err == nil {
					ids = append(ids, uint32(id))
				}
			}
		}
		_ = f.Close()
	}
	return ids
}

// mapNamed is a descriptor of the sensor's map of this name, and its key's size.
func mapNamed(t *testing.T, pid int, name string) (fd int, keySize uint32) {
	t.Helper()
	for _, id := range objects(t, pid, "map_id") {
		fd := byID(t, bpfMapByID, id)
		var info [128]byte // struct bpf_map_info: type, id, key, value, entries, flags, name
		attributes := struct {
			fd, size uint32
			info     unsafe.Pointer
		}{uint32(fd), uint32(len(info)), unsafe.Pointer(&info)}
		if _, err := bpf(bpfInfo, unsafe.Pointer(&attributes), unsafe.Sizeof(attributes)); err != nil {
			t.Fatal(err)
		}
		if got, _, _ := strings.Cut(string(info[24:40]), "\x00"); got == name {
			return fd, *(*uint32)(unsafe.Pointer(&info[8]))
		}
	}
	t.Fatalf("process %d has no map %s", pid, name)
	return -1, 0
}

type mapElement struct {
	fd, _      uint32
	key, value unsafe.Pointer
	flags      uint64
}

// tampered waits for a finding about the sensor itself whose words hold text, and tells
// how long it took to be seen at the coordinator.
func (r *rig) tampered(t *testing.T, what, text string, began time.Time, most time.Duration) {
	t.Helper()
	r.until(t, 20*time.Second, "the finding of "+what, func(ctx context.Context) (bool, error) {
		var all []struct {
			Time   time.Time `json:"time"`
			Kind   string    `json:"kind"`
			Title  string    `json:"title"`
			Reason string    `json:"reason"`
		}
		if err := r.cluster.JSON(ctx, &all, "finding", "list", "--host", r.spec.Name); err != nil {
			return false, err
		}
		for _, f := range all {
			if f.Time.After(began.Add(-time.Second)) && strings.Contains(f.Title+" "+f.Reason, text) {
				return true, nil
			}
		}
		return false, nil
	})
	took := time.Since(began)
	t.Logf("%s: seen at the coordinator after %s", what, took.Round(10*time.Millisecond))
	if took > most {
		t.Errorf("%s: seen after %s, want at most %s", what, took, most)
	}
}

// Ensure that what root does to the sensor's objects is told off the host within two
// seconds and put back, so that it sees as before.
func TestSelfDefence(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	pid := r.sensor.PID()
	const most = 2 * time.Second

	t.Run("links are detached", func(t *testing.T) {
		began, n := time.Now(), 0
		for _, id := range objects(t, pid, "link_id") {
			attributes := [1]uint32{uint32(byID(t, bpfLinkByID, id))}
			_, err := bpf(bpfLinkDetach, unsafe.Pointer(&attributes), unsafe.Sizeof(attributes))
			switch {
			case err == nil:
				n++
			case !errors.Is(err, syscall.EOPNOTSUPP):
				t.Errorf("detaching link %d: %v", id, err)
			}
		}
		if n == 0 {
			t.Fatal("no link could be detached: nothing was tried")
		}
		t.Logf("%d links detached", n)
		r.tampered(t, "a detached link", "taken off its hook", began, most)
	})
	t.Run("an entry is put into what is known", func(t *testing.T) {
		fd, _ := mapNamed(t, pid, "known")
		began := time.Now()
		set, value := uint32(7), [64]byte{1, 2, 3} // one place of the four gets a key
		e := mapElement{fd: uint32(fd), key: unsafe.Pointer(&set), value: unsafe.Pointer(&value)}
		if _, err := bpf(bpfMapUpdate, unsafe.Pointer(&e), unsafe.Sizeof(e)); err != nil {
			t.Fatal(err)
		}
		r.tampered(t, "a map update", "known behaviours", began, most)
	})
	t.Run("processes are taken out of the table", func(t *testing.T) {
		fd, size := mapNamed(t, pid, "processes")
		began := time.Now()
		key := make([]byte, size)
		e := mapElement{fd: uint32(fd), value: unsafe.Pointer(&key[0])}
		if _, err := bpf(bpfMapNextKey, unsafe.Pointer(&e), unsafe.Sizeof(e)); err != nil {
			t.Fatal(err)
		}
		e = mapElement{fd: uint32(fd), key: unsafe.Pointer(&key[0])}
		if _, err := bpf(bpfMapDelete, unsafe.Pointer(&e), unsafe.Sizeof(e)); err != nil {
			t.Fatal(err)
		}
		r.tampered(t, "a map delete", "map", began, most)
	})
	t.Run("it still sees", func(t *testing.T) {
		r.run(t, shell, "-c", "true", "after-it-all")
		r.untilFound(t, 10*time.Second, shell, "after-it-all")
	})
	t.Run("it is killed", func(t *testing.T) {
		began := time.Now()
		if err := syscall.Kill(r.sensor.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-r.sensor.Exited()
		r.again(t) // as systemd would
		r.tampered(t, "a killed sensor", "was killed", began, 15*time.Second)
	})
}
