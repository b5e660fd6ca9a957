package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// enrol makes a sensor's identity over the wire, as `vedette-sensor enroll` does.
func (f *Fleet) enrol(ctx context.Context, s *sensor) (err error) {
	pause := 100 * time.Millisecond
	for range attempts {
		if err = f.enrolOnce(ctx, s); err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
	return err
}

func (f *Fleet) facts(n int) *sensorv1.HostFacts {
	if f.cfg.World != nil {
		return f.cfg.World.Host(n).Facts()
	}
	return &sensorv1.HostFacts{Name: fmt.Sprintf("sim-%05d", n), Os: "linux", Labels: map[string]string{"role": fmt.Sprintf("group-%d", n%7)}}
}

func (f *Fleet) enrolOnce(ctx context.Context, s *sensor) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	text, err := f.cfg.Token(ctx)
	if err != nil {
		return fmt.Errorf("making a token: %w", err)
	}
	token, err := link.ParseToken(text)
	if err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	reply, err := f.ask(ctx, f.cfg.Nodes[s.n%len(f.cfg.Nodes)], s, token, &sensorv1.EnrollRequest{Protocol: frame.ProtocolVersion,
		Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, TokenId: token.ID, TokenSecret: token.Secret[:], Csr: csr, Facts: f.facts(s.n)})
	if err != nil {
		return err
	}
	if err := f.trust(reply, token); err != nil {
		return err
	}
	boot := make([]byte, bootSize)
	if _, err := rand.Read(boot); err != nil {
		return err
	}
	s.mu.Lock()
	s.id, s.boot = reply.GetId(), boot
	s.cert = tls.Certificate{Certificate: reply.GetChain(), PrivateKey: key}
	s.mu.Unlock()
	return nil
}

func (f *Fleet) ask(ctx context.Context, node string, s *sensor, token link.Token, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, error) {
	conn, err := f.dialer(s).Dial(ctx, node, link.ALPNEnroll, link.DialConfig{PinnedCA: token.CA})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseWithReason(link.CodeOK, "") }()
	stream, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(deadline)
	}
	if err := frame.Write(stream, request); err != nil {
		return nil, err
	}
	var reply sensorv1.EnrollReply
	if err := frame.Read(stream, &reply); err != nil {
		return nil, fmt.Errorf("waiting for the answer: %w", err)
	}
	if refusal := reply.GetRefusal(); refusal != nil {
		return nil, fmt.Errorf("refused (%s): %s", refusal.GetCode(), refusal.GetMessage())
	}
	return reply.GetEnrolled(), nil
}

// trust takes the authorities of nodes and of operators from an enrolment: those that
// the token names.
func (f *Fleet) trust(e *sensorv1.Enrolled, token link.Token) (err error) {
	f.trusted.Lock()
	defer f.trusted.Unlock()
	if f.roots != nil {
		return nil
	}
	f.cluster = e.GetClusterId()
	if f.roots, err = pinned(e.GetRoots(), token.CA); err == nil {
		f.signers, err = pinned(e.GetOperatorRoots(), token.Operators)
	}
	return err
}

// dialer is the socket that a sensor shares.
func (f *Fleet) dialer(s *sensor) *link.Dialer { return f.dialers[s.n%len(f.dialers)] }

func pinned(ders [][]byte, pin [32]byte) (*x509.CertPool, error) {
	for _, der := range ders {
		root, err := x509.ParseCertificate(der)
		if err == nil && root.IsCA && link.Pin(root) == pin {
			roots := x509.NewCertPool()
			roots.AddCert(root)
			return roots, nil
		}
	}
	return nil, fmt.Errorf("%w: the answer does not hold the one that the token names", link.ErrForeignCA)
}
