package uplink

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxAddress is the longest DNS name with a port.
const maxAddress = 253 + 6

// enrollTimeout bounds one node's answer, a proposal to the cluster included.
const enrollTimeout = 15 * time.Second

// A roll-out enrols many hosts at once, often from behind one address, and a node takes few
// strangers at a time: who is sent away tries again, for enrollPatience in all, waits up to
// enrollBackoff more than it was asked to, and enrollBusy where it was not told how long.
const (
	enrollPatience = 90 * time.Second
	enrollBackoff  = 8 * time.Second
	enrollBusy     = time.Second
)

// RefusedError is a node's refusal: it says what to do.
type RefusedError struct {
	Code       string
	Message    string
	RetryAfter time.Duration
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused by the coordinator (%s): %s", e.Code, e.Message)
}

func refusal(r *sensorv1.Refusal) *RefusedError {
	return &RefusedError{Code: text(r.GetCode()), Message: text(r.GetMessage()), RetryAfter: time.Duration(min(r.GetRetryAfterSeconds(), 3600)) * time.Second}
}

// Enroll trades a join token for an identity and writes it to dir. The key is
// made here and never leaves; the node is believed because it shows the CA that
// the token pins, and about operators only as far as the token's other pin goes. Nodes are tried in turn, until
// one answers, and again while they are busy.
func Enroll(ctx context.Context, dir string, nodes []string, token link.Token, facts *sensorv1.HostFacts) (*Identity, error) {
	if len(nodes) == 0 {
		return nil, errors.New("enrolling: no coordinator is given; add --coordinator HOST:PORT")
	}
	r, err := newRenewal()
	if err != nil {
		return nil, fmt.Errorf("enrolling: %w", err)
	}
	request := &sensorv1.EnrollRequest{
		Protocol: frame.ProtocolVersion, Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR,
		TokenId: token.ID, TokenSecret: token.Secret[:], Csr: r.csr, Facts: facts,
	}
	began := time.Now()
	for wait := firstBackoff; ; wait = min(2*wait, enrollBackoff) {
		enrolled, later, err := enrolAtAny(ctx, nodes, token, request)
		if err == nil {
			return saveEnrolment(dir, nodes, token, r, enrolled)
		}
		pause := later + mathrand.N(wait) // those that were sent away together come apart
		if later == 0 || time.Since(began)+pause > enrollPatience {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// enrolAtAny asks one node after another. Later is 0 when asking again would not help: no
// node has answered, or one has said no for good.
func enrolAtAny(ctx context.Context, nodes []string, token link.Token, request *sensorv1.EnrollRequest) (_ *sensorv1.Enrolled, later time.Duration, _ error) {
	var failures []error
	for _, node := range nodes {
		enrolled, err := requestEnrolment(ctx, node, token, request)
		if err == nil {
			return enrolled, 0, nil
		}
		failures = append(failures, fmt.Errorf("enrolling at %s: %w", node, err))
		var refused *RefusedError
		switch {
		case errors.As(err, &refused) && refused.RetryAfter == 0: // so would the cluster's other nodes
			return nil, 0, errors.Join(failures...)
		case ctx.Err() != nil:
			return nil, 0, errors.Join(failures...)
		case refused != nil && (later == 0 || refused.RetryAfter < later):
			later = refused.RetryAfter
		case errors.Is(err, link.ErrBusy) && later == 0:
			later = enrollBusy
		}
	}
	return nil, later, errors.Join(failures...)
}

func requestEnrolment(ctx context.Context, node string, token link.Token, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, error) {
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	conn, err := link.Dial(ctx, node, link.ALPNEnroll, link.DialConfig{PinnedCA: token.CA, MaxIdle: enrollTimeout})
	if err != nil {
		return nil, err
	}
	return askEnrolment(ctx, conn, request)
}

// askEnrolment asks, and ends the connection. Ctx has a deadline.
func askEnrolment(ctx context.Context, conn *link.Conn, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, error) {
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := stream.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if err := frame.Write(stream, request); err != nil {
		return nil, err
	}
	reply := new(sensorv1.EnrollReply)
	if err := frame.Read(stream, reply); err != nil {
		return nil, fmt.Errorf("waiting for the answer: %w", err)
	}
	if r := reply.GetRefusal(); r != nil {
		return nil, refusal(r)
	}
	if reply.GetEnrolled() == nil {
		return nil, errors.New("the node's answer is neither yes nor no; does it run the same release?")
	}
	return reply.GetEnrolled(), nil
}

func saveEnrolment(dir string, asked []string, token link.Token, r *renewal, enrolled *sensorv1.Enrolled) (*Identity, error) {
	root, err := link.Pinned(enrolled.GetRoots(), token.CA)
	if err != nil {
		return nil, fmt.Errorf("enrolling: the cluster's authority: %w", err)
	}
	operators, err := link.Pinned(enrolled.GetOperatorRoots(), token.Operators)
	if err != nil {
		return nil, fmt.Errorf("enrolling: the operators' authority: %w; the token serves once, so make a new one, and ask who runs that node", err)
	}
	id := &Identity{dir: dir, HostID: enrolled.GetId(), Cluster: enrolled.GetClusterId(), roots: x509.NewCertPool()}
	id.roots.AddCert(root)
	id.state = identityState{HostID: id.HostID, Cluster: id.Cluster, Nodes: addresses(enrolled.GetNodes()), Operators: operators.Raw}
	if id.operators, err = operatorsOf(operators.Raw, id.Cluster); err != nil {
		return nil, fmt.Errorf("enrolling: %w", err)
	}
	if len(id.state.Nodes) == 0 {
		id.state.Nodes = asked
	}
	id.enrolledRoots = [][]byte{root.Raw}
	if signed := enrolled.GetTrust(); signed != nil {
		if err := id.goBy(signed, 0, time.Now()); err != nil {
			return nil, fmt.Errorf("enrolling: %w", err)
		}
		if id.state.Trust, err = proto.Marshal(signed); err != nil {
			return nil, fmt.Errorf("enrolling: %w", err)
		}
	}
	if id.cert, err = id.verifyChain(r.key, enrolled.GetChain(), time.Now()); err != nil {
		return nil, fmt.Errorf("enrolling: the certificate that came back: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("writing identity: %w", err)
	}
	if err := locked(dir, func() error {
		if err := replaceFile(filepath.Join(dir, rootsFile), encodeChain([][]byte{root.Raw})); err != nil {
			return err
		}
		if err := id.swap(r.key, enrolled.GetChain()); err != nil {
			return err
		}
		// Last: with it, the directory is an identity.
		return id.saveState()
	}); err != nil {
		return nil, fmt.Errorf("writing identity: %w", err)
	}
	return id, nil
}

// newRenewal makes a key and the request to certify it.
func newRenewal() (*renewal, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	return &renewal{key: key, csr: csr}, nil
}

func addresses(nodes []*sensorv1.Node) []string {
	var all []string
	for _, n := range nodes[:min(len(nodes), maxNodes)] {
		if _, _, err := net.SplitHostPort(n.GetAddress()); err == nil && len(n.GetAddress()) <= maxAddress {
			all = append(all, n.GetAddress())
		}
	}
	return all
}
