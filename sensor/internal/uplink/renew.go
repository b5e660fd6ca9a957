package uplink

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// renew asks for a new certificate from its half-life on.
func (s *session) renew(ctx context.Context) error {
	for {
		cert, err := s.u.id.Certificate()
		if err != nil {
			return err
		}
		half := cert.Leaf.NotBefore.Add(cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore) / 2)
		wait := time.Until(half)
		if s.u.id.toRenew() {
			wait = min(wait, rand.N(s.u.cfg.RenewSpread))
		}
		s.mu.Lock()
		asked := s.renewal != nil
		s.mu.Unlock()
		if asked {
			wait = max(wait, renewRetry)
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				return context.Cause(ctx)
			case <-s.retrust:
				timer.Stop()
				continue
			case <-timer.C:
			}
			if asked {
				s.mu.Lock()
				s.renewal = nil
				s.mu.Unlock()
				continue
			}
		}
		r, err := newRenewal()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.renewal = r
		s.mu.Unlock()
		if err := s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Renew{Renew: &sensorv1.Renew{Csr: r.csr}}}); err != nil {
			return err
		}
	}
}

func (s *session) certificate(c *sensorv1.Certificate) {
	s.mu.Lock()
	r := s.renewal
	s.mu.Unlock()
	if r == nil {
		return
	}
	if err := s.u.id.install(r, c.GetChain(), time.Now()); err != nil {
		s.u.cfg.Logger.Error("certificate not renewed; it is asked for again", "err", err)
		return
	}
	cert, _ := s.u.id.Certificate()
	s.u.cfg.Logger.Info("certificate renewed", "not_after", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	s.sayTrusted()
}
