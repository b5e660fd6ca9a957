package coordinator_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/coordinator/internal/clustertest"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

// rotateSensors is how many sensors rotate; the target is for 1000 (VEDETTE_ROTATE_SENSORS).
func rotateSensors(t *testing.T) int {
	t.Helper()
	text := os.Getenv("VEDETTE_ROTATE_SENSORS")
	if text == "" {
		return 50
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 10_000 {
		t.Fatalf("VEDETTE_ROTATE_SENSORS=%q", text)
	}
	return n
}

// Ensure an authority is followed by another one under a fleet at work: nobody enrols
// again, nothing is lost, it is not retired while a host would be cut off, and then
// what it signed is refused.
func TestRotate(t *testing.T) {
	n := rotateSensors(t)
	c := startCluster(t, 3)
	wait := patience + time.Duration(n)*300*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	all, fleet := c.rotors(ctx, n)
	await := func(what string, of func(*rotor) bool) {
		t.Helper()
		eventuallyFor(t, wait, what, func() error {
			lacking := 0
			for _, r := range all {
				if !of(r) {
					lacking++
				}
			}
			if lacking > 0 {
				return fmt.Errorf("%d of %d are not", lacking, n)
			}
			return nil
		})
	}
	await("online", func(r *rotor) bool { return r.acked.Load() > 0 })
	const within = 24 * time.Hour
	first := all[0]
	old := first.cert
	oldRoots := first.roots
	all[1].held.Store(true) // it is off while the rotation begins
	all[1].hangUp()

	began := time.Now()
	var before *sensorv1.Trust
	var res *operatorv1.GetTrustResponse
	var added []byte
	eventuallyFor(t, wait, "an authority", func() (err error) {
		if res, _, err = c.api.Trust(ctx, within); err == nil {
			added, err = c.api.PrepareRoot(ctx, nil)
		}
		return err
	})
	if len(res.GetRoots()) != 1 || res.GetTrust() != nil {
		t.Fatalf("before: %v", res)
	}
	put := func(roots [][]byte, issuer int, force bool) error {
		t.Helper()
		next, err := c.api.NewTrust(before, roots, issuer)
		if err != nil {
			t.Fatal(err)
		}
		for tries := 0; ; tries++ {
			err := c.api.PutTrust(ctx, next, "yearly", within, force)
			switch {
			case err == nil, tries > 0 && rejectedAs(err, "stale-trust"): // the answer was lost
				before = next
				return nil
			case tries > 10 || !errors.Is(err, client.ErrNoLeader) && !errors.Is(err, client.ErrUnreachable):
				return err
			}
		}
	}
	both := [][]byte{res.GetRoots()[0], added}
	if err := put(both, 1, false); !rejectedAs(err, "trust-step") {
		t.Errorf("signing by an authority that nobody knows: %v", err)
	}
	if err := put(both, 0, false); err != nil {
		t.Fatal(err)
	}
	nodesReady := func() {
		t.Helper()
		eventuallyFor(t, wait, "all nodes have the list and its keys", func() error {
			res, _, err := c.api.Trust(ctx, within)
			for _, node := range res.GetNodes() {
				if node.GetEpoch() != before.GetEpoch() {
					err = errors.Join(err, fmt.Errorf("%v", node))
				}
			}
			return err
		})
	}
	nodesReady()
	if err := put(both, 1, false); err != nil {
		t.Fatal(err)
	}
	nodesReady()
	swapped := [][]byte{added, both[0]}
	if err := put(swapped, 0, false); !rejectedAs(err, "hosts-not-ready") {
		t.Errorf("showing what a host does not know: %v", err)
	}
	if err := put([][]byte{added}, 0, true); !rejectedAs(err, "trust-step") {
		t.Errorf("retiring what nodes show: %v", err)
	}
	all[1].held.Store(false)
	eventuallyFor(t, wait, "all hosts ready", func() error {
		res, _, err := c.api.Trust(ctx, within)
		if err == nil && (res.GetUnreadyCount() > 0 || res.GetHosts() != uint64(n)) { //nolint:gosec // a few
			err = fmt.Errorf("%d of %d are not, as %v", res.GetUnreadyCount(), res.GetHosts(), res.GetUnready()[:min(3, len(res.GetUnready()))])
		}
		return err
	})
	ready := time.Since(began)
	// A node that joins now learns both, and gets the key.
	four := newConfig(t, "n4")
	if err := coordinator.Join(ctx, four, c.nodes[0].cfg.Advertise, c.token("node")); err != nil {
		t.Fatalf("joining in the middle: %v", err)
	}
	c.nodes = append(c.nodes, start(t, four))
	nodesReady()
	if err := put(swapped, 0, false); err != nil {
		t.Fatal(err)
	}
	nodesReady()
	count := make(map[*rotor]uint64, n)
	for _, r := range all {
		count[r] = r.welcome.Load()
	}
	if err := put([][]byte{added}, 0, false); err != nil {
		t.Fatal(err)
	}
	// An operator's context that did not follow knows the nodes no more, and finds back.
	stale := *c.admin
	eventuallyFor(t, wait, "the list", func() error {
		var err error
		res, _, err = c.api.Trust(ctx, within)
		return err
	})
	if news, err := c.admin.Follow(res.GetTrust()); err != nil || !news {
		t.Fatalf("following: %v, %v", news, err)
	}
	c.connect()
	nodesReady()
	outdated, err := client.New(&stale, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(outdated.Close)
	if _, err := outdated.Status(ctx); !errors.Is(err, client.ErrUntrusted) {
		t.Errorf("a context that did not follow: %v", err)
	}
	// Sessions that were opened by old certificates end by themselves, and everybody comes
	// again under the new authority alone.
	await("online again", func(r *rotor) bool { return r.welcome.Load() > count[r] })
	eventuallyFor(t, wait, "old certificates refused at every node", func() error {
		for _, node := range c.nodes {
			for what, roots := range map[string][][]byte{"trusting both": both, "trusting the old one": oldRoots} {
				if err := tryOld(t, node.cfg.Advertise, old, roots); err == nil {
					return fmt.Errorf("%s takes one, %s", node.cfg.ID, what)
				}
			}
		}
		return nil
	})
	if s := c.enrol(0); s.id == "" {
		t.Error("enrolling under the new authority")
	}
	eventually(t, "what nodes signed under both to hold", func() error {
		_, err := c.api.Checkpoints(ctx)
		return err
	})
	cancel()
	// What the log has is what a new session is told.
	lost := uint64(0)
	for _, r := range all {
		s := &testSensor{t: t, id: r.id, cert: *r.cert, pool: trust.Pool(&sensorv1.Trust{Roots: r.roots})}
		_, welcome := s.open(c.nodes[0].cfg.Advertise, r.boot)
		if acked := r.acked.Load(); welcome.GetAcked() < acked {
			lost += acked - welcome.GetAcked()
		}
	}
	enrolments := 0
	for _, entry := range c.audited() {
		switch entry.GetAction() {
		case "trust-sign":
			t.Logf("audit: %s %s: %s", entry.GetActor(), entry.GetSubject(), entry.GetDetail())
		case "enroll-sensor":
			enrolments++
		}
	}
	// Those that would have to, and those that did: the record has the first of each, and the newcomer's.
	again := int(fleet.refused.Load()) + enrolments - n - 1
	note := fmt.Sprintf("%d sensors in sessions with three nodes and a fourth", n)
	clustertest.Figure(t, "authority rotated under sensors: enrolments again", float64(again), "", "= 0", again == 0, note)
	clustertest.Figure(t, "authority rotated under sensors: acknowledged lost", float64(lost), "records", "= 0", lost == 0, note)
	clustertest.Figure(t, "authority rotated under sensors: all had the new list and a certificate by it after", ready.Seconds(), "s", "", true, note)
	fleet.why.Range(func(why, who any) bool { t.Logf("%v: %v", who, why); return true })
}

// tryOld is nil when a node takes a certificate by the authority that went.
func tryOld(t *testing.T, node string, cert *tls.Certificate, roots [][]byte) error {
	t.Helper()
	s := &testSensor{t: t, cert: *cert, pool: trust.Pool(&sensorv1.Trust{Roots: roots})}
	session, err := s.dial(node)
	if err != nil {
		return err
	}
	if err := frame.Write(session.stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: frame.ProtocolVersion, Boot: newBoot()}}}); err != nil {
		return err
	}
	var m sensorv1.CoordinatorMessage
	if err := frame.Read(session.stream, &m); err != nil {
		return err
	}
	if m.GetWelcome() == nil {
		return fmt.Errorf("refused: %v", m.GetRefusal())
	}
	return nil
}

func rejectedAs(err error, code string) bool {
	return err != nil && strings.Contains(err.Error(), "("+code+")")
}

func certificateOf(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate: %s", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
