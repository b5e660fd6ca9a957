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

// SignUnlearn makes the signed form of an order to forget.
func SignUnlearn(key crypto.Signer, chain [][]byte, u *sensorv1.Unlearn) (*sensorv1.SignedUnlearn, error) {
	if err := checkUnlearn(u); err != nil {
		return nil, err
	}
	payload, signature, err := unlearnOrder.sign(key, chain, u)
	if err != nil {
		return nil, err
	}
	return &sensorv1.SignedUnlearn{Payload: payload, Signature: signature}, nil
}

// DecodeUnlearn reads a payload that nobody has verified.
func DecodeUnlearn(payload []byte) (*sensorv1.Unlearn, error) {
	u := new(sensorv1.Unlearn)
	if err := decode(payload, unlearnOrder.most, u); err != nil {
		return nil, err
	}
	return u, checkUnlearn(u)
}

// VerifyUnlearn returns the order and who gave it, whose certificate must be valid now. For
// which host it is, the caller compares.
func VerifyUnlearn(signed *sensorv1.SignedUnlearn, roots *x509.CertPool, cluster string, now time.Time) (*sensorv1.Unlearn, link.Peer, error) {
	u, err := DecodeUnlearn(signed.GetPayload())
	if err != nil {
		return nil, link.Peer{}, err
	}
	if strings.HasPrefix(u.GetId(), DispositionID) {
		return nil, link.Peer{}, fmt.Errorf("%w: the id %.64q is a disposition's", ErrMalformed, u.GetId())
	}
	signer, err := unlearnOrder.verify(u, signed.GetPayload(), signed.GetSignature(), roots, cluster, now)
	if err != nil {
		return nil, link.Peer{}, err
	}
	return u, signer, nil
}

func checkUnlearn(u *sensorv1.Unlearn) error {
	ways := 0
	for _, given := range []bool{len(u.GetKeys()) > 0, len(u.GetSubject()) > 0, u.GetSince() != 0} {
		if given {
			ways++
		}
	}
	switch {
	case !ValidRole(u.GetId()) || u.GetClusterId() == "" || u.GetHost() == "" || u.GetOperator() == "":
		return fmt.Errorf("%w: an order to unlearn says its id, cluster, host and operator", ErrMalformed)
	case ways != 1:
		return fmt.Errorf("%w: an order to unlearn names keys, or a subject, or a time", ErrMalformed)
	case len(u.GetKeys()) > MaxKeys || len(u.GetSubject()) > MaxName || u.GetSince() < 0 || len(u.GetReason()) > maxReason:
		return fmt.Errorf("%w: at most %d keys, a subject of %d bytes, a reason of %d", ErrMalformed, MaxKeys, MaxName, maxReason)
	case u.GetIssuedAt() <= 0 || u.GetNotAfter() <= u.GetIssuedAt():
		return fmt.Errorf("%w: the order to unlearn ends before it was given", ErrMalformed)
	}
	for _, key := range u.GetKeys() {
		if len(key) != KeySize {
			return fmt.Errorf("%w: a behaviour's key has %d bytes, not %d", ErrMalformed, KeySize, len(key))
		}
	}
	return nil
}
