package uplink

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

// loadTrust goes by the list of trusted authorities in identity.json, if there is one, as it
// was verified when it was taken. The folder is locked, and nobody else has id yet.
func (id *Identity) loadTrust(roots []byte) error {
	id.enrolledRoots = certificatesOf(roots)
	if len(id.state.Trust) == 0 {
		return nil
	}
	signed := &sensorv1.SignedTrust{}
	if err := proto.Unmarshal(id.state.Trust, signed); err != nil {
		return fmt.Errorf("reading the list of trusted authorities: %w", err)
	}
	t, err := trust.Decode(signed.GetPayload())
	if err != nil {
		return err
	}
	now := time.Now()
	if at := time.Unix(0, t.GetSignedAt()); at.After(now) {
		now = at // it was not taken before it was signed, whatever the clock says now
	}
	return id.goBy(signed, 0, now)
}

// goBy verifies a list with an epoch above held and goes by it, in memory.
func (id *Identity) goBy(signed *sensorv1.SignedTrust, held uint64, now time.Time) error {
	id.mu.Lock()
	der, cluster := id.state.Operators, id.Cluster
	id.mu.Unlock()
	people, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("reading the operators' authority: %w", err)
	}
	t, _, err := trust.Verify(signed, people, cluster, held, now)
	if err != nil {
		return err
	}
	operators := (*x509.CertPool)(nil)
	if len(t.GetOperators()) > 0 {
		if operators, err = operatorsOf(t.GetOperators(), cluster); err != nil {
			return err
		}
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if operators != nil {
		id.operators = operators
	}
	id.roots, id.trusted = trust.Pool(t), t
	return nil
}

// takeTrust takes a newer list of trusted authorities, from whomever: an admin's signature
// makes it one. It is on disk before it is in force, so what this host says that it holds
// it will hold after a crash. It says whether it was news.
func (id *Identity) takeTrust(signed *sensorv1.SignedTrust, revoked func(chain [][]byte) error, now time.Time) (bool, error) {
	id.mu.Lock()
	held, der := id.trusted.GetEpoch(), id.state.Operators
	before := id.state.Trust
	id.mu.Unlock()
	t, err := trust.Decode(signed.GetPayload())
	if err != nil {
		return false, err
	}
	if t.GetEpoch() <= held {
		return false, nil
	}
	if revoked != nil {
		if err := revoked(signed.GetSignature().GetChain()); err != nil {
			return false, fmt.Errorf("the list of trusted authorities: %w", err)
		}
	}
	people, err := x509.ParseCertificate(der)
	if err != nil {
		return false, fmt.Errorf("reading the operators' authority: %w", err)
	}
	if _, _, err := trust.Verify(signed, people, id.Cluster, held, now); err != nil {
		return false, err
	}
	data, err := proto.Marshal(signed)
	if err != nil {
		return false, fmt.Errorf("encoding the list of trusted authorities: %w", err)
	}
	id.mu.Lock()
	id.state.Trust = data
	id.mu.Unlock()
	if err := id.update(id.saveState); err != nil {
		id.mu.Lock()
		id.state.Trust = before
		id.mu.Unlock()
		return false, err
	}
	return true, id.goBy(signed, held, now)
}

// holds is what this host has on disk.
func (id *Identity) holds() *sensorv1.Trusted {
	id.mu.Lock()
	defer id.mu.Unlock()
	return &sensorv1.Trusted{Epoch: id.trusted.GetEpoch(), Root: id.by()}
}

// by names the authority that this host's certificate is by. It needs mu.
func (id *Identity) by() []byte {
	roots := id.trusted.GetRoots()
	if len(roots) == 0 {
		roots = id.enrolledRoots
	}
	return trust.By(id.cert.Leaf, roots)
}

// toRenew is whether another authority signs now than the one that signed this certificate.
func (id *Identity) toRenew() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	t := id.trusted
	return t != nil && !bytes.Equal(id.by(), trust.Key(t.GetRoots()[t.GetIssuer()]))
}

func certificatesOf(text []byte) (ders [][]byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return ders
		}
		ders = append(ders, block.Bytes)
	}
}

// trust takes a list of trusted authorities and tells the node that it is on disk.
func (s *session) trust(signed *sensorv1.SignedTrust) {
	if signed == nil {
		return
	}
	news, err := s.u.id.takeTrust(signed, s.u.cfg.Revoked, time.Now())
	if err != nil {
		s.u.cfg.Logger.Error("list of trusted authorities not taken; this host goes by what it has", "err", err)
		return
	}
	if !news {
		return
	}
	held := s.u.id.holds()
	s.u.cfg.Logger.Info("list of trusted authorities taken", "epoch", held.GetEpoch())
	s.sayTrusted()
	select {
	case s.retrust <- struct{}{}:
	default:
	}
}

// sayTrusted fails only with the session, whose next Hello says the same.
func (s *session) sayTrusted() {
	if held := s.u.id.holds(); held.GetEpoch() > 0 { // an older node does not know the message
		_ = s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Trusted{Trusted: held}})
	}
}
