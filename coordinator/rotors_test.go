package coordinator_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

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
