package coordinator_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
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

// rotor is a sensor with a session of its own that follows lists of trusted authorities as
// a real one does: on "disk" first, then said, then renewed.
type rotor struct {
	fleet *rotors
	id    string
	boot  []byte

	mu       sync.Mutex
	cert     *tls.Certificate
	roots    [][]byte
	epoch    uint64
	issuer   []byte
	sequence uint64
	conn     *link.Conn

	acked   atomic.Uint64
	welcome atomic.Uint64 // sessions that were opened
	held    atomic.Bool   // it is off
}

type rotors struct {
	t         *testing.T
	nodes     []string
	dialers   []*link.Dialer
	operators *x509.Certificate
	cluster   string
	refused   atomic.Int64 // sessions that ended with a word that only an enrolment helps against
	why       sync.Map
	every     time.Duration
}

func (r *rotor) credentials() link.Credentials {
	return link.Credentials{Certificate: func() (*tls.Certificate, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.cert, nil
	}, Roots: func() *x509.CertPool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return trust.Pool(&sensorv1.Trust{Roots: r.roots})
	}}
}

func (r *rotor) run(ctx context.Context, n int) {
	backoff := 250 * time.Millisecond // as a real sensor's
	for at := n; ctx.Err() == nil; at++ {
		if !r.held.Load() {
			before := r.welcome.Load()
			err := r.session(ctx, r.fleet.nodes[at%len(r.fleet.nodes)], n)
			if backoff = min(2*backoff, 10*time.Second); r.welcome.Load() > before {
				backoff = 250 * time.Millisecond
			}
			if errors.Is(err, link.ErrForeignCA) || errors.Is(err, link.ErrCertificateRefused) || errors.Is(err, link.ErrExpired) {
				r.fleet.refused.Add(1)
				r.fleet.why.Store(err.Error(), r.id)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(mathrand.N(backoff)):
		}
	}
}

func (r *rotor) session(ctx context.Context, node string, n int) error {
	dialling, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := r.fleet.dialers[n%len(r.fleet.dialers)].Dial(dialling, node, link.ALPNSensor, link.DialConfig{Credentials: r.credentials()})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	defer context.AfterFunc(ctx, func() { _ = conn.CloseWithReason(link.CodeOK, "") })()
	stream, err := conn.OpenStream(dialling)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.conn = conn
	r.mu.Unlock()
	var writing sync.Mutex
	send := func(m *sensorv1.SensorMessage) error {
		writing.Lock()
		defer writing.Unlock()
		return frame.Write(stream, m)
	}
	if err := send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: frame.ProtocolVersion, SensorVersion: "test",
		Boot: r.boot, Facts: &sensorv1.HostFacts{Name: "web-" + strconv.Itoa(n), MachineIdHash: r.id}, Trusted: r.holds()}}}); err != nil {
		return err
	}
	_ = stream.SetReadDeadline(time.Now().Add(patience))
	var m sensorv1.CoordinatorMessage
	if err := frame.Read(stream, &m); err != nil {
		return errors.Join(err, conn.Err())
	}
	_ = stream.SetReadDeadline(time.Time{})
	if m.GetWelcome() == nil {
		return fmt.Errorf("refused: %v", m.GetRefusal())
	}
	r.acked.Store(m.GetWelcome().GetAcked())
	r.welcome.Add(1)
	var key ed25519.PrivateKey
	if key, err = r.follow(m.GetWelcome().GetNodes().GetTrust(), key, send); err != nil {
		return err
	}
	stop := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() { r.deliver(stop, send) })
	defer sending.Wait()
	defer close(stop)
	for {
		var m sensorv1.CoordinatorMessage
		if err := frame.Read(stream, &m); err != nil {
			return errors.Join(err, conn.Err())
		}
		switch body := m.GetBody().(type) {
		case *sensorv1.CoordinatorMessage_Ack:
			r.acked.Store(body.Ack.GetSequence())
		case *sensorv1.CoordinatorMessage_Resume:
			r.acked.Store(body.Resume.GetSequence())
		case *sensorv1.CoordinatorMessage_Nodes:
			if key, err = r.follow(body.Nodes.GetTrust(), key, send); err != nil {
				return err
			}
		case *sensorv1.CoordinatorMessage_Certificate:
			if err := r.install(key, body.Certificate.GetChain()); err != nil {
				return err
			}
			if err := send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Trusted{Trusted: r.holds()}}); err != nil {
				return err
			}
		}
	}
}

// follow takes a newer list and asks for a certificate when another authority signs.
func (r *rotor) follow(signed *sensorv1.SignedTrust, key ed25519.PrivateKey, send func(*sensorv1.SensorMessage) error) (ed25519.PrivateKey, error) {
	if signed == nil {
		return key, nil
	}
	r.mu.Lock()
	held := r.epoch
	r.mu.Unlock()
	list, _, err := trust.Verify(signed, r.fleet.operators, r.fleet.cluster, held, time.Now())
	if err != nil && !errors.Is(err, trust.ErrStale) {
		return key, err
	}
	if err == nil {
		r.mu.Lock()
		r.epoch, r.roots, r.issuer = list.GetEpoch(), list.GetRoots(), trust.Key(list.GetRoots()[list.GetIssuer()])
		r.mu.Unlock()
		if err := send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Trusted{Trusted: r.holds()}}); err != nil {
			return key, err
		}
	}
	if r.issuer == nil || string(r.holds().GetRoot()) == string(r.issuer) {
		return key, nil
	}
	if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return key, err
	}
	csr, err := identity.NewRequest(key)
	if err != nil {
		return key, err
	}
	// As a node that has not taken the list yet would sign by the old one, not at once.
	time.AfterFunc(1500*time.Millisecond, func() {
		_ = send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Renew{Renew: &sensorv1.Renew{Csr: csr}}})
	})
	return key, nil
}

func (r *rotor) install(key ed25519.PrivateKey, chain [][]byte) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: trust.Pool(&sensorv1.Trust{Roots: r.roots}), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return err
	}
	r.cert = &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
	return nil
}

func (r *rotor) holds() *sensorv1.Trusted {
	r.mu.Lock()
	defer r.mu.Unlock()
	leaf, err := x509.ParseCertificate(r.cert.Certificate[0])
	if err != nil {
		return nil
	}
	return &sensorv1.Trusted{Epoch: r.epoch, Root: trust.By(leaf, r.roots)}
}

// deliver sends one record after another; what was not acknowledged is sent again.
func (r *rotor) deliver(stop chan struct{}, send func(*sensorv1.SensorMessage) error) {
	ticker := time.NewTicker(r.fleet.every)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		acked := r.acked.Load()
		r.mu.Lock()
		if r.sequence == acked {
			r.sequence++
		}
		batch := &sensorv1.Batch{Boot: r.boot, Prev: acked, Records: []*sensorv1.Record{{Sequence: r.sequence, Time: time.Now().UnixNano(),
			Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{WindowStart: 1, WindowEnd: 2}}}}}
		r.mu.Unlock()
		if send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: batch}}) != nil {
			return
		}
	}
}

func (r *rotor) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		_ = r.conn.CloseWithReason(link.CodeOK, "")
	}
}

func (c *testCluster) rotors(ctx context.Context, n int) (all []*rotor, fleet *rotors) {
	c.t.Helper()
	fleet = &rotors{t: c.t, cluster: c.admin.ClusterID, every: max(300*time.Millisecond, time.Duration(n)*5*time.Millisecond)}
	fleet.operators = certificateOf(c.t, c.admin.Operators)
	for _, node := range c.nodes {
		fleet.nodes = append(fleet.nodes, node.cfg.Advertise)
	}
	for range 4 {
		dialer, err := link.NewDialer(netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = dialer.Close() })
		fleet.dialers = append(fleet.dialers, dialer)
	}
	all = make([]*rotor, n)
	var wg sync.WaitGroup
	turns := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range turns {
				s := c.enrol(i % len(c.nodes))
				all[i] = &rotor{fleet: fleet, id: s.id, boot: newBoot(), cert: &s.cert, roots: [][]byte{certificateOf(c.t, c.admin.CA).Raw}}
			}
		})
	}
	for i := range n {
		turns <- i
	}
	close(turns)
	wg.Wait()
	var running sync.WaitGroup
	c.t.Cleanup(running.Wait)
	for i, r := range all {
		running.Go(func() {
			select { // they do not all come in the same moment
			case <-ctx.Done():
			case <-time.After(time.Duration(i) * 10 * time.Millisecond):
				r.run(ctx, i)
			}
		})
	}
	return all, fleet
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
	if err := put([][]byte{added}, 0, false); !rejectedAs(err, "nodes-not-ready") {
		t.Errorf("before all nodes have the list: %v", err)
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
	lost, enrolled := uint64(0), fleet.refused.Load()
	for _, r := range all {
		s := &testSensor{t: t, id: r.id, cert: *r.cert, pool: trust.Pool(&sensorv1.Trust{Roots: r.roots})}
		_, welcome := s.open(c.nodes[0].cfg.Advertise, r.boot)
		if acked := r.acked.Load(); welcome.GetAcked() < acked {
			lost += acked - welcome.GetAcked()
		}
	}
	if enrolled != 0 || lost != 0 {
		t.Errorf("re-enrolments needed: %d, records lost: %d", enrolled, lost)
		fleet.why.Range(func(why, who any) bool { t.Logf("%v: %v", who, why); return true })
	}
	for _, entry := range c.audited() {
		if entry.GetAction() == "trust-sign" {
			t.Logf("audit: %s %s: %s", entry.GetActor(), entry.GetSubject(), entry.GetDetail())
		}
	}
	t.Logf("| roots rotate across %d sensors | re-enrolments %d, records lost %d, all ready after %s | target 0, 0 (at 1,000) |", n, enrolled, lost, ready.Round(100*time.Millisecond))
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
