package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// revokedEvery bounds how long this node goes on with what another has revoked when it
// did not see the entry: after a snapshot it only finds what has become of the state.
const revokedEvery = 15 * time.Second

// keySum is what the log knows a host's key by.
func keySum(cert *x509.Certificate) []byte {
	if cert == nil {
		return nil
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return sum[:]
}

// hostRemoved ends the session of a host whose identity counts no more.
func (s *Server) hostRemoved(host string) {
	if n := s.session(host); n != nil {
		s.cfg.Logger.Warn("session closed: the host was removed", "host", host)
		n.end(link.CodeRevoked, "this host was removed from the cluster: enrol it again with a new join token")
	}
}

// tendRevoked does what an entry that this node did not see asked for, until ctx ends.
func (s *Server) tendRevoked(ctx context.Context) {
	ticker := time.NewTicker(revokedEvery)
	defer ticker.Stop()
	var told []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.endRemoved(ctx)
		s.compareSessions(ctx)
		if signed, err := s.cfg.Members.Revocations(ctx); err == nil && signed != nil && !bytes.Equal(signed.GetPayload(), told) {
			told = signed.GetPayload()
			s.pushNodes()
		}
	}
}

func (s *Server) endRemoved(ctx context.Context) {
	removed, err := s.cfg.Members.RemovedHosts(ctx)
	if err != nil {
		s.cfg.Logger.Warn("removed hosts not read", "error", err)
		return
	}
	for _, host := range removed {
		s.hostRemoved(host)
	}
}
