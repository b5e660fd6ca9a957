package uplink_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// Ensure an expired certificate is named with the command that helps, at
// loading and while running.
func TestExpired(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	n.validity = 1500 * time.Millisecond // certificates count in seconds
	id, dir := enrollAt(t, n)
	until(t, "expiry", func() bool {
		loaded, err := uplink.LoadIdentity(dir)
		return errors.Is(err, uplink.ErrExpired) && loaded != nil && loaded.HostID == id.HostID &&
			strings.Contains(err.Error(), "sudo vedette-sensor enroll --coordinator "+n.addr()+" --token")
	})
	h := startHost(t, id, dir, nil)
	until(t, "the log", func() bool { return strings.Contains(h.log.String(), "expired-certificate") })
	if len(n.hellos) != 0 {
		t.Error("it says hello all the same")
	}
	// It asked to come back, once: the answer is a person's to change.
	n.set(func(n *node) {
		if n.asked != 1 {
			t.Errorf("it asked %d times", n.asked)
		}
	})
}

// Ensure a host that was off when it should have renewed gets another certificate for its
// key, which it keeps over a restart, and goes on where it was.
func TestComesBack(t *testing.T) {
	st := newStore()
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", st)
	n.validity = 1500 * time.Millisecond
	id, dir := enrollAt(t, n)
	until(t, "expiry", func() bool {
		_, err := uplink.LoadIdentity(dir)
		return errors.Is(err, uplink.ErrExpired)
	})
	n.set(func(n *node) { n.takesBack, n.validity = true, time.Hour })
	h := startHost(t, id, dir, nil)
	h.put(t, "seen while it was off the net")
	until(t, "the record", func() bool { return len(st.taken()) == 1 })
	if !strings.Contains(h.log.String(), "it has another") || strings.Contains(h.log.String(), "level=ERROR") {
		t.Errorf("logged:\n%s", h.log.String())
	}
	before, _ := id.Certificate()
	loaded, err := uplink.LoadIdentity(dir)
	if err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	if after, _ := loaded.Certificate(); !bytes.Equal(after.Leaf.Raw, before.Leaf.Raw) {
		t.Error("the file has another certificate")
	}
}

// Ensure a host whose clock is wrong is told of its clock, and not to enrol again.
func TestComesBackInAnotherTime(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	n.validity = 1500 * time.Millisecond
	id, dir := enrollAt(t, n)
	until(t, "expiry", func() bool {
		_, err := uplink.LoadIdentity(dir)
		return errors.Is(err, uplink.ErrExpired)
	})
	n.set(func(n *node) { n.notBack = &sensorv1.Refusal{Code: "clock", Message: "set the host's clock"} })
	h := startHost(t, id, dir, nil)
	until(t, "the log", func() bool { return strings.Contains(h.log.String(), "set the host's clock") })
	if strings.Contains(h.log.String(), "vedette-sensor enroll") {
		t.Errorf("it is told to enrol:\n%s", h.log.String())
	}
}
