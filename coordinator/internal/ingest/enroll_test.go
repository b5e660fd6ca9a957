package ingest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// hurried is a log that has nothing to say to who does not wait, as the real one.
type hurried struct {
	*stateLog
	entries, bytes int
	down           bool
	began          func()
}

func (l *hurried) Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	l.entries, l.bytes = l.entries+1, l.bytes+proto.Size(cmd)
	if l.began != nil {
		l.began()
	}
	if ctx.Err() != nil || l.down {
		return nil, errors.Join(consensus.ErrUncertain, ctx.Err())
	}
	return l.stateLog.Propose(ctx, cmd)
}

// Ensure a stranger who hangs up at once, or who was without an answer once, is limited as any
// other, and cannot have the log take what it likes.
func TestStrangersAreLimited(t *testing.T) {
	s, state := hostile(t)
	log := &hurried{stateLog: state}
	s.cfg.Log = log
	s.cfg.CommitTimeout = 1 // ns: a log that is down answers nobody
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	invented := link.NewToken([32]byte{}, [32]byte{})
	request := func() *sensorv1.EnrollRequest {
		return &sensorv1.EnrollRequest{Protocol: frame.ProtocolVersion, Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR,
			TokenId: invented.ID, TokenSecret: invented.Secret[:], Csr: csr}
	}
	ask := func(host byte, ctx context.Context, times int, r *sensorv1.EnrollRequest) (codes []string) {
		for range times {
			enrolled, refused := s.enroll(ctx, &net.UDPAddr{IP: net.IPv4(192, 0, 2, host), Port: 1}, r)
			if enrolled != nil {
				t.Fatalf("a stranger is enrolled as %s", enrolled.GetId())
			}
			codes = append(codes, refused.code)
		}
		return codes
	}
	limited := func(what string, codes []string) {
		t.Helper()
		if last := codes[len(codes)-1]; last != "rate-limited" {
			t.Errorf("%s: %v", what, codes)
		}
	}

	log.down = true
	if codes := ask(1, t.Context(), 1, request()); codes[0] != "no-leader" {
		t.Fatalf("without a leader: %v", codes)
	}
	log.down = false
	s.cfg.CommitTimeout = 4 * time.Second
	limited("one that was without an answer once", ask(1, t.Context(), 2*failureBurst, request()))
	var codes []string
	for range 2 * failureBurst {
		ctx, hangUp := context.WithCancel(t.Context())
		log.began = hangUp
		codes = append(codes, ask(2, ctx, 1, request())...)
		hangUp()
	}
	log.began = nil
	limited("one that hangs up", codes)

	log.entries, log.bytes = 0, 0
	huge := request()
	huge.TokenId = strings.Repeat("a", 500_000)
	limited("a token of half a megabyte", ask(3, t.Context(), 2*failureBurst, huge))
	long := request()
	long.TokenSecret = make([]byte, 500_000)
	limited("a secret of half a megabyte", ask(4, t.Context(), 2*failureBurst, long))
	if log.entries > 0 {
		t.Errorf("tokens that are none made %d entries", log.entries)
	}
	crowd := request()
	crowd.Node = &sensorv1.Node{Id: "n2", Address: strings.Repeat("a", 500_000)}
	ask(5, t.Context(), 1, crowd)
	crowd.Kind = sensorv1.EnrollKind_ENROLL_KIND_NODE
	ask(5, t.Context(), 1, crowd)
	if log.bytes > 10_000 {
		t.Errorf("one that calls itself a node made entries of %d bytes", log.bytes)
	}
}
