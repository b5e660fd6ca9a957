package pack

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// order is a kind of what an operator signs for one host, which it waits for at most UnlearnFor.
type order struct {
	name    string // in errors
	context string // of its signatures
	may     []string
	most    int // bytes of a payload
}

var (
	unlearnOrder     = order{"the order to unlearn", "vedette-unlearn-v1\x00", mayUnlearn, 16 << 10}
	dispositionOrder = order{"the disposition", "vedette-disposition-v1\x00", mayDispose, 16 << 10}
)

// ordered says for which cluster one is, who gave it, and when it counts.
type ordered interface {
	GetClusterId() string
	GetOperator() string
	GetIssuedAt() int64
	GetNotAfter() int64
}

// sign makes the payload of what was checked, and its signature.
func (o order) sign(key crypto.Signer, chain [][]byte, m proto.Message) ([]byte, *sensorv1.Signature, error) {
	payload, err := encode(m, o.most)
	if err != nil {
		return nil, nil, err
	}
	signature, err := grant.SignAs(o.context, key, chain, payload)
	if err != nil {
		return nil, nil, fmt.Errorf("signing %s: %w", o.name, err)
	}
	return payload, signature, nil
}

// verify says who signed what a payload says, with a certificate that is valid now. For which host it
// is, the caller compares.
func (o order) verify(m ordered, payload []byte, signature *sensorv1.Signature, roots *x509.CertPool, cluster string, now time.Time) (link.Peer, error) {
	given, end := time.Unix(0, m.GetIssuedAt()), time.Unix(0, m.GetNotAfter())
	switch {
	case m.GetClusterId() != cluster:
		return link.Peer{}, fmt.Errorf("%s is %w: it is for %q, this is %q", o.name, ErrForeign, m.GetClusterId(), cluster)
	case given.After(now.Add(clockSkew)) || !end.After(now) || end.Sub(given) > UnlearnFor:
		return link.Peer{}, fmt.Errorf("%s is %w: given at %s, good until %s, and it is %s here", o.name, ErrTime, stamp(given), stamp(end), stamp(now))
	}
	signer, err := grant.VerifyAs(o.context, o.may, signature, payload, roots, cluster, now)
	switch {
	case err != nil:
		return link.Peer{}, fmt.Errorf("%s: %w", o.name, err)
	case signer.ID != m.GetOperator():
		return link.Peer{}, fmt.Errorf("%s: %w: it names %q and %q signed it", o.name, grant.ErrForbidden, m.GetOperator(), signer.ID)
	}
	return signer, nil
}
