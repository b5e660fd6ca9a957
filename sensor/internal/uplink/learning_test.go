package uplink_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// Ensure a host says which pack it goes by, hands on one that came in parts, answers what it is to
// forget, and leaves a node whose parts make none.
func TestLearning(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	id, dir := enrollAt(t, n)
	packs, held := make(chan *sensorv1.SignedPack, 4), []byte(nil)
	startHost(t, id, dir, func(c *uplink.Config) {
		c.Packs = func() ([]byte, []byte) { return held, []byte("fleet's") }
		c.OnPack = func(signed *sensorv1.SignedPack) { packs <- signed }
		c.OnLearning = func(l *sensorv1.Learning) (out []*sensorv1.Unlearnt) {
			for _, u := range l.GetUnlearn() {
				out = append(out, &sensorv1.Unlearnt{Id: string(u.GetPayload()), Behaviours: 2})
			}
			return out
		}
	})
	if hello := <-n.hellos; !bytes.Equal(hello.GetPack(), []byte{0}) || string(hello.GetFleetPack()) != "fleet's" {
		t.Errorf("without a role's pack it says %x and %x", hello.GetPack(), hello.GetFleetPack())
	}
	until(t, "a session", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.sessions) == 1 })
	parts, err := pack.Parts(&sensorv1.SignedPack{Payload: bytes.Repeat([]byte("x"), 600<<10)})
	if err != nil || len(parts) < 3 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	for _, part := range parts {
		n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Pack{Pack: part}})
	}
	if got := <-packs; len(got.GetPayload()) != 600<<10 {
		t.Errorf("a pack of %d bytes", len(got.GetPayload()))
	}
	n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Learning{Learning: &sensorv1.Learning{
		PauseUntil: time.Now().Add(time.Hour).UnixNano(), Unlearn: []*sensorv1.SignedUnlearn{{Payload: []byte("ul-1")}}}}})
	until(t, "an answer", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.unlearnt) == 1 && n.unlearnt[0].GetId() == "ul-1"
	})
	n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Pack{Pack: parts[1]}})
	<-n.hellos // it broke the protocol, and the host came again
}

// Ensure a grant does not wait behind an order to forget, nor anything behind a pack that came too soon;
// of those that wait the newest counts.
func TestLearningIsBesideTheReader(t *testing.T) {
	n := startNode(t, linktest.NewCA(t), "n1", "127.0.0.1:0", newStore())
	id, dir := enrollAt(t, n)
	packs, grants, free := make(chan *sensorv1.SignedPack, 4), make(chan struct{}, 1), make(chan struct{})
	startHost(t, id, dir, func(c *uplink.Config) {
		c.OnPack = func(signed *sensorv1.SignedPack) { packs <- signed }
		c.OnLearning = func(*sensorv1.Learning) []*sensorv1.Unlearnt { <-free; return nil }
		c.OnGrant = func(context.Context, *sensorv1.SignedGrant) *sensorv1.GrantResult {
			grants <- struct{}{}
			return nil
		}
	})
	until(t, "a session", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.sessions) == 1 })
	for _, name := range []string{"one", "two"} {
		parts, err := pack.Parts(&sensorv1.SignedPack{Payload: []byte(name)})
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Pack{Pack: part}})
		}
		if name == "one" {
			<-packs
		}
	}
	for range 2 * 16 {
		n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Learning{Learning: &sensorv1.Learning{}}})
	}
	n.push(t, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Grant{Grant: &sensorv1.SignedGrant{}}})
	select {
	case <-grants:
	case <-time.After(slow.Deadline(5 * time.Second)):
		t.Error("a grant waits behind an order to forget")
	}
	close(free)
	select {
	case <-packs:
		t.Error("the second pack did not wait")
	default:
	}
}
