package pack

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// DispositionID begins the id of every disposition, so that none is taken for an order to unlearn.
	DispositionID = "dsp-"
	// MaxDisposed is how many findings of a host one disposition is of: no sensor knows more.
	MaxDisposed = 128
	// maxDispositionID bounds its id, in bytes.
	maxDispositionID = 64
	// maxFindingID bounds a finding's id, in bytes.
	maxFindingID = 64
)

// SignDisposition makes the signed form of what the operator whom it names said of a host's findings.
func SignDisposition(key crypto.Signer, chain [][]byte, d *sensorv1.Disposition) (*sensorv1.SignedDisposition, error) {
	if err := checkDisposition(d); err != nil {
		return nil, err
	}
	payload, signature, err := dispositionOrder.sign(key, chain, d)
	if err != nil {
		return nil, err
	}
	return &sensorv1.SignedDisposition{Payload: payload, Signature: signature}, nil
}

// DecodeDisposition reads a payload that nobody has verified.
func DecodeDisposition(payload []byte) (*sensorv1.Disposition, error) {
	d := new(sensorv1.Disposition)
	if err := decode(payload, dispositionOrder.most, d); err != nil {
		return nil, err
	}
	return d, checkDisposition(d)
}

// VerifyDisposition returns the disposition and whose it is, whose certificate must be valid now. For
// which host it is, the caller compares.
func VerifyDisposition(signed *sensorv1.SignedDisposition, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Disposition, link.Peer, error) {
	d, err := DecodeDisposition(signed.GetPayload())
	if err != nil {
		return nil, link.Peer{}, err
	}
	signer, err := dispositionOrder.verify(d, signed.GetPayload(), signed.GetSignature(), roots, cluster, now)
	if err != nil {
		return nil, link.Peer{}, err
	}
	return d, signer, nil
}

func checkDisposition(d *sensorv1.Disposition) error {
	switch {
	case !ValidRole(d.GetId()) || len(d.GetId()) > maxDispositionID || !strings.HasPrefix(d.GetId(), DispositionID):
		return fmt.Errorf("%w: a disposition's id begins with %s and has at most %d printable characters", ErrMalformed, DispositionID, maxDispositionID)
	case d.GetClusterId() == "" || d.GetHost() == "" || d.GetIncident() == "" || d.GetOperator() == "":
		return fmt.Errorf("%w: a disposition says its cluster, host, incident and operator", ErrMalformed)
	case len(d.GetHost()) > MaxName || len(d.GetIncident()) > MaxName:
		return fmt.Errorf("%w: a disposition's host and incident have at most %d bytes", ErrMalformed, MaxName)
	case len(d.GetFindings()) == 0 || len(d.GetFindings()) > MaxDisposed:
		return fmt.Errorf("%w: a disposition is of 1 to %d findings, not %d", ErrMalformed, MaxDisposed, len(d.GetFindings()))
	case d.GetIssuedAt() <= 0 || d.GetNotAfter() <= d.GetIssuedAt():
		return fmt.Errorf("%w: the disposition ends before it was given", ErrMalformed)
	}
	before := ""
	for _, id := range d.GetFindings() {
		if id <= before || len(id) > maxFindingID {
			return fmt.Errorf("%w: a disposition names findings in ascending order, each once, by ids of at most %d bytes", ErrMalformed, maxFindingID)
		}
		before = id
	}
	return nil
}
