package uplink

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// refusedPause is how long a host whose return was refused does not ask again. The refusal
// is a person's to answer, and a node counts those of an address against all behind it.
const refusedPause = 10 * time.Minute

// wrongClock is a node's answer to a host whose certificate is good by the cluster's clock.
const wrongClock = "clock"

// comeBack has the cluster certify this host's key once more: it was off when it should
// have renewed. The node is verified as ever; what it answers is taken as a renewal is.
func (u *Uplink) comeBack(ctx context.Context, node string) error {
	expired := u.id.expired(time.Now())
	if expired == nil {
		return nil
	}
	if time.Now().Before(u.askAgain) {
		return u.notBack
	}
	cert, err := u.id.Certificate()
	if err != nil {
		return err
	}
	key, ok := cert.PrivateKey.(ed25519.PrivateKey)
	if !ok {
		return expired // not of our making
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("asking for a certificate: %w", err)
	}
	enrolled, err := u.askBack(ctx, node, &sensorv1.EnrollRequest{Protocol: frame.ProtocolVersion,
		Kind: sensorv1.EnrollKind_ENROLL_KIND_SENSOR, Csr: csr, Facts: u.cfg.Facts(), Expired: cert.Leaf.Raw})
	var refused *RefusedError
	if errors.As(err, &refused) && refused.RetryAfter == 0 {
		u.askAgain, u.notBack = time.Now().Add(refusedPause), fmt.Errorf("%w (%s)", expired, refused.Message)
		if refused.Code == wrongClock {
			u.notBack = err // it is not expired: another enrolment would not help
		}
		return u.notBack
	}
	if err != nil {
		return err
	}
	if err := u.id.install(&renewal{key: key, csr: csr}, enrolled.GetChain(), time.Now()); err != nil {
		return err
	}
	cert, _ = u.id.Certificate()
	u.cfg.Logger.Info("this host's certificate had expired while it was off; it has another", "not_after", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	return nil
}

func (u *Uplink) askBack(ctx context.Context, node string, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, error) {
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	conn, err := u.reach(ctx, node, link.ALPNEnroll, link.DialConfig{Credentials: link.Credentials{Roots: u.id.Roots}, MaxIdle: enrollTimeout})
	if err != nil {
		return nil, err
	}
	return askEnrolment(ctx, conn, request)
}
