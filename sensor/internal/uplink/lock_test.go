package uplink_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// Ensure a host can be enrolled anew beside its running sensor: that one's look for a
// new certificate meets the old files or the new ones, and takes neither half away.
func TestEnrolledBesideARunningSensor(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	running, dir := enrollAt(t, n)
	done, looked := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(looked)
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := running.Reload(); err != nil {
				looked <- err
				return
			}
		}
	}()
	for range 20 {
		if _, err := uplink.Enroll(t.Context(), dir, []string{n.addr()}, n.token(), nil); err != nil {
			t.Error(err)
		}
	}
	close(done)
	if err := <-looked; err != nil {
		t.Error("the running sensor:", err)
	}
	if _, err := uplink.LoadIdentity(dir); err != nil {
		t.Error("afterwards:", err)
	}
}

// Ensure a sensor that still runs as who the host was before writes nothing into the
// identity that has replaced it, and says so.
func TestReplacedIdentity(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	id, dir := enrollAt(t, n)
	path := filepath.Join(dir, "identity.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("h-test"), []byte("h-other"))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	n.set(func(n *node) {
		n.nodes = &sensorv1.NodeList{Nodes: []*sensorv1.Node{{Id: "n1", Address: n.addr()}, {Id: "n2", Address: "127.0.0.1:9"}}}
	})
	h := startHost(t, id, dir, nil)
	until(t, "the log", func() bool { return strings.Contains(h.log.String(), "enrolled anew under another identity") })
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
		t.Errorf("identity.json: %v\n%s\nwas\n%s", err, now, data)
	}
}

// Ensure a sensor whose identity.json was lost or ruined beneath it writes its own again.
func TestLostIdentityIsWrittenAgain(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	n.set(func(n *node) {
		n.nodes = &sensorv1.NodeList{Nodes: []*sensorv1.Node{{Id: "n1", Address: n.addr()}, {Id: "n2", Address: "127.0.0.1:9"}}}
	})
	for name, ruin := range map[string]func(path string) error{
		"lost":   os.Remove,
		"ruined": func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
	} {
		id, dir := enrollAt(t, n)
		if err := ruin(filepath.Join(dir, "identity.json")); err != nil {
			t.Fatal(err)
		}
		startHost(t, id, dir, nil)
		until(t, name+": the identity", func() bool {
			again, err := uplink.LoadIdentity(dir)
			return err == nil && again.HostID == id.HostID && len(again.Nodes()) == 2
		})
	}
}

// Ensure who waits for a stopped sensor's lock is told, and does not wait for ever.
func TestLockIsNotWaitedForForEver(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	_, dir := enrollAt(t, n)
	stopped, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Close()
	if err := unix.Flock(int(stopped.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		if _, err := uplink.LoadIdentity(dir); !errors.Is(err, uplink.ErrLocked) {
			t.Errorf("got %v", err)
		}
	})
}
