package ingest

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// BackWithin is how long after its certificate's end a host gets another one for the key
	// that it has. A running host renews by itself, so this is for those that were off: over
	// a weekend, or stored for weeks.
	BackWithin = 30 * 24 * time.Hour
	// clockSkew is how far a host's clock may be from the cluster's.
	clockSkew = 5 * time.Minute
	enrolMore = "enrol it again with a new join token"
)

// comeBack answers a host whose certificate has expired while it was off. Its key is proved by
// the request, and is good for what it was good for when the host was heard last: an older one,
// from a backup of the host, is not. Removing the host ends it, as it ends everything else.
func (s *Server) comeBack(ctx context.Context, from net.Addr, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, *refusal) {
	peer, refused := s.expired(request)
	if refused == nil {
		refused = s.mayComeBack(ctx, peer)
	}
	if refused != nil {
		if refused.retry == 0 {
			s.limiter.failed(from)
		}
		return nil, refused
	}
	enrolled, refused := s.welcomeBack(ctx, peer.ID, request.GetCsr())
	if refused == nil {
		s.cfg.Logger.Info("a host has come back after its certificate's end, and gets another", "host", peer.ID,
			"expired", peer.Certificate.NotAfter.UTC().Format(time.RFC3339))
	}
	return enrolled, refused
}

// expired reads the certificate, and holds it to the request's key and the authorities.
func (s *Server) expired(request *sensorv1.EnrollRequest) (link.Peer, *refusal) {
	bad := func(why string) (link.Peer, *refusal) {
		return link.Peer{}, &refusal{code: "bad-certificate", message: "the host's expired certificate " + why + ": " + enrolMore}
	}
	const limit = 4 << 10 // far above any that an authority of ours makes
	if len(request.GetExpired()) > limit {
		return bad(fmt.Sprintf("has %d bytes, the limit is %d", len(request.GetExpired()), limit))
	}
	leaf, err := x509.ParseCertificate(request.GetExpired())
	if err != nil {
		return bad("cannot be read")
	}
	peer, err := link.PeerOf(leaf)
	if err != nil || peer.Kind != link.KindHost || !identity.IsHostID(peer.ID) || peer.Cluster != s.cfg.Authority.Cluster() {
		return bad("is no host's of this cluster")
	}
	if !s.cfg.Authority.HasSigned(leaf) {
		return bad("is not by an authority that is trusted")
	}
	if key, err := identity.RequestedKey(request.GetCsr()); err != nil || !bytes.Equal(key, leaf.RawSubjectPublicKeyInfo) {
		return bad("has another key than the request")
	}
	now := s.cfg.Now()
	switch {
	case now.Before(leaf.NotAfter.Add(-clockSkew)):
		return link.Peer{}, &refusal{code: "clock", message: fmt.Sprintf("the host's certificate is good until %s, and it is %s here: set the host's clock",
			leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))}
	case now.After(leaf.NotAfter.Add(BackWithin)):
		return bad(fmt.Sprintf("ended on %s, more than %d days ago", leaf.NotAfter.UTC().Format(time.RFC3339), BackWithin/(24*time.Hour)))
	}
	return peer, nil
}

// mayComeBack asks the cluster, and not this node's own state, which may be behind a removal.
func (s *Server) mayComeBack(ctx context.Context, peer link.Peer) *refusal {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	if err := s.cfg.Log.ReadBarrier(ctx); err != nil {
		return &refusal{code: noLeader, message: "the cluster has no leader that this node can reach: try another node, or again in a few seconds", retry: 2}
	}
	if !s.known(ctx, peer.ID) {
		return &refusal{code: "unknown-host", message: fmt.Sprintf("host %s is not, or no longer, in this cluster: %s", peer.ID, enrolMore)}
	}
	host, err := s.cfg.Store.Host(ctx, peer.ID)
	if err != nil {
		return &refusal{code: "internal", message: "this node cannot read its state: try another one", retry: 5}
	}
	if heard := time.Unix(0, host.GetLastSeen()); heard.After(peer.Certificate.NotAfter.Add(clockSkew)) {
		return &refusal{code: "bad-certificate", message: fmt.Sprintf("host %s was heard on %s, with a newer certificate than this one, which ended on %s: if this is a copy of it, or its disk from a backup, %s",
			peer.ID, heard.UTC().Format(time.RFC3339), peer.Certificate.NotAfter.UTC().Format(time.RFC3339), enrolMore)}
	}
	return nil
}

func (s *Server) welcomeBack(ctx context.Context, host string, csr []byte) (*sensorv1.Enrolled, *refusal) {
	enrolled := &sensorv1.Enrolled{Id: host, ClusterId: s.cfg.Authority.Cluster(), Roots: [][]byte{s.cfg.Authority.Certificate().Raw},
		OperatorRoots: [][]byte{s.cfg.Operators().Raw}}
	var err error
	if enrolled.Chain, err = s.cfg.Authority.SignHost(csr, host); err != nil {
		return nil, &refusal{code: "bad-request", message: err.Error()}
	}
	if enrolled.Trust, err = s.cfg.Trust.Trust(ctx); err == nil {
		enrolled.Nodes, err = s.cfg.Members.Nodes(ctx)
	}
	if err != nil {
		return nil, &refusal{code: "internal", message: "this node cannot read its state: try another one", retry: 5}
	}
	return enrolled, nil
}
