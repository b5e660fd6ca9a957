package clusterlab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// raw is a sensor without a sensor: an enrolled identity and the protocol, so
// that a test decides every message.
type raw struct {
	ns    *lab.Namespace
	nodes []string
	id    string
	link.Credentials
	boot    []byte
	ballast int
	seq     uint64          // last acknowledged
	done    *sensorv1.Batch // what was acknowledged last

	conn   *link.Conn
	stream net.Conn
	node   string // where the session is

	mu     sync.Mutex // guards events
	events []string   // the latest, for who asks why something took long
}

func (r *raw) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const most = 30
	if len(r.events) == most {
		r.events = r.events[1:]
	}
	r.events = append(r.events, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// story is what happened last.
func (r *raw) story() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.events, "\n")
}

// enrolRaw enrols a host that the test plays.
func (c *trio) enrolRaw(t *testing.T, name string) *raw {
	t.Helper()
	text, err := c.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := link.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	var conn *link.Conn
	if err := c.ns.Do(func() (err error) {
		conn, err = link.Dial(t.Context(), c.Nodes[0].Listen, link.ALPNEnroll, link.DialConfig{PinnedCA: token.CA})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	stream, err := conn.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reply := &sensorv1.EnrollReply{}
	err = errors.Join(stream.SetDeadline(time.Now().Add(10*time.Second)), frame.Write(stream, &sensorv1.EnrollRequest{
		Protocol: frame.ProtocolVersion, Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, TokenId: token.ID, TokenSecret: token.Secret[:],
		Csr: csr, Facts: &sensorv1.HostFacts{Name: name},
	}), frame.Read(stream, reply))
	if err != nil || reply.GetEnrolled() == nil {
		t.Fatalf("enrolling %s: %v, %v", name, err, reply.GetRefusal())
	}
	roots := x509.NewCertPool()
	for _, der := range reply.GetEnrolled().GetRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		roots.AddCert(root)
	}
	cert := &tls.Certificate{Certificate: reply.GetEnrolled().GetChain(), PrivateKey: key}
	r := &raw{ns: c.ns, nodes: c.Addresses(), id: reply.GetEnrolled().GetId(), boot: make([]byte, 16), ballast: c.ballast,
		Credentials: link.Credentials{Certificate: func() (*tls.Certificate, error) { return cert, nil }, Roots: func() *x509.CertPool { return roots }}}
	_, _ = rand.Read(r.boot)
	t.Cleanup(r.close)
	return r
}

// perHost is how many connections a node holds of one host (proto/link).
const perHost = 4

// enrolFor enrols as many hosts as so many connections at once need.
func (c *trio) enrolFor(t *testing.T, name string, connections int) (hosts []*raw) {
	t.Helper()
	for i := range (connections + perHost - 1) / perHost {
		hosts = append(hosts, c.enrolRaw(t, fmt.Sprintf("%s-%d", name, i)))
	}
	return hosts
}

// dial makes a connection to one node, without a word on it.
func (r *raw) dial(ctx context.Context, node string) (conn *link.Conn, err error) {
	err = r.ns.Do(func() error {
		conn, err = link.Dial(ctx, node, link.ALPNSensor, link.DialConfig{Credentials: r.Credentials, MaxIdle: 1500 * time.Millisecond, KeepAlive: 400 * time.Millisecond})
		return err
	})
	return conn, err
}

// open opens a session at a node.
func (r *raw) open(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := r.dial(ctx, node)
	if err != nil {
		return err
	}
	stream, err := conn.OpenStream(ctx)
	if err == nil {
		r.conn, r.stream, r.node = conn, stream, node
		// A node waits some seconds for a quorum before it sends a sensor away.
		_ = stream.SetDeadline(time.Now().Add(6 * time.Second))
		err = frame.Write(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
			Protocol: frame.ProtocolVersion, SensorVersion: "raw", Boot: r.boot, Facts: &sensorv1.HostFacts{Name: "raw-" + r.id}}}})
	}
	var m sensorv1.CoordinatorMessage
	if err == nil {
		err = frame.Read(stream, &m)
	}
	if err == nil && m.GetWelcome() == nil {
		err = fmt.Errorf("refused: %s", m.GetRefusal().GetMessage())
	}
	if err != nil {
		_ = conn.CloseWithReason(link.CodeOK, "")
		r.conn = nil
		return err
	}
	acked := m.GetWelcome().GetAcked()
	if acked < r.seq {
		return fmt.Errorf("%w: %s was told %d, node %s has %d", errLost, r.id, r.seq, node, acked)
	}
	r.seq = acked
	return nil
}

// errLost: a node does not have what was acknowledged.
var errLost = errors.New("acknowledged records are lost")

func (r *raw) close() {
	if r.conn != nil {
		_ = r.conn.CloseWithReason(link.CodeOK, "")
		r.conn = nil
	}
}

// send sends a batch and waits for the answer, whatever it is.
func (r *raw) send(batch *sensorv1.Batch, most time.Duration) (*sensorv1.CoordinatorMessage, error) {
	_ = r.stream.SetDeadline(time.Now().Add(most))
	if err := frame.Write(r.stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: batch}}); err != nil {
		return nil, err
	}
	for {
		m := &sensorv1.CoordinatorMessage{}
		if err := frame.Read(r.stream, m); err != nil {
			return nil, err
		}
		if m.GetNodes() == nil && m.GetGrant() == nil {
			return m, nil
		}
	}
}

// counted is the key of the behaviour that every batch of count counts once.
var counted = []byte("counted-by-tests")

func (r *raw) batch(records ...*sensorv1.Record) *sensorv1.Batch {
	for i, record := range records {
		record.Sequence = r.seq + 1 + uint64(i)
		record.Time = time.Now().UnixNano()
	}
	return &sensorv1.Batch{Boot: r.boot, Prev: r.seq, Records: records}
}

func count() *sensorv1.Record {
	return &sensorv1.Record{Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
		WindowEnd: time.Now().UnixNano(), Deltas: []*sensorv1.BehaviourDelta{{Key: counted, Count: 1, LastSeen: time.Now().UnixNano()}}}}}
}

func counts(n int) []*sensorv1.Record {
	all := make([]*sensorv1.Record, n)
	for i := range all {
		all[i] = count()
	}
	return all
}

// push gets one summary acknowledged, by whichever node will; it fails over as a
// sensor does. It returns when ctx ends too.
func (r *raw) push(ctx context.Context) error {
	want := r.seq + 1
	for turn := 0; ; turn++ {
		if r.conn == nil {
			node := r.nodes[turn%len(r.nodes)]
			err := r.open(ctx, node)
			r.note("session at %s: %v", node, err)
			if err != nil {
				r.close()
				if errors.Is(err, errLost) || ctx.Err() != nil {
					return err
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(50 * time.Millisecond):
				}
				continue
			}
			// A sensor may send again what is stored already: it must count once.
			if r.done != nil {
				m, err := r.send(r.done, 6*time.Second)
				r.note("batch again at %s: %v, %v", r.node, m, err)
				if err != nil {
					r.close()
					continue
				}
				r.seq = max(r.seq, m.GetAck().GetSequence())
			}
		}
		if r.seq >= want {
			return nil // stored, its answer was lost with the node
		}
		record := count()
		if r.ballast > 0 {
			record.GetSummary().Health = &sensorv1.Health{CoverageGaps: []string{strings.Repeat("x", r.ballast)}}
		}
		batch := r.batch(record)
		m, err := r.send(batch, 6*time.Second)
		if err == nil && m.GetAck() != nil {
			if m.GetAck().GetSequence() < want {
				return fmt.Errorf("%w: acknowledged %d after %d", errLost, m.GetAck().GetSequence(), r.seq)
			}
			r.seq, r.done = m.GetAck().GetSequence(), batch
			return nil
		}
		r.note("batch %d at %s: %v, %v", want, r.node, m, err)
		r.close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
