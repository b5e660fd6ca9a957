package grant

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// maxChains is how many operators' chains a Verifier remembers: the few who sign orders.
const maxChains = 8

// Verifier verifies grants as Verify does, and remembers whose certificates it has found
// good: to build and check a chain costs more than the signature under the grant. It is
// safe for concurrent use, and its zero value remembers nothing yet.
//
// Invariant: it accepts what Verify accepts. It takes a chain for good only if it is, byte
// for byte, one that was verified up to the same roots, at a time at which every
// certificate of it, the root's too, is valid. Whatever else is verified anew, and a
// refusal is never remembered.
type Verifier struct {
	mu     sync.Mutex
	chains []goodChain // the one used last comes last
}

// goodChain is one that was verified.
type goodChain struct {
	chain       [][]byte
	roots       *x509.CertPool // a pool only grows
	from, until time.Time      // within which all of it is valid
	signer      link.Peer
}

// signer is verifySigner for those that are not remembered. A nil Verifier never does.
func (v *Verifier) signer(chain [][]byte, roots *x509.CertPool, now time.Time) (link.Peer, error) {
	if v == nil || roots == nil {
		signer, _, err := verifySigner(chain, roots, now)
		return signer, err
	}
	if signer, ok := v.remembered(chain, roots, now); ok {
		return signer, nil
	}
	signer, shown, err := verifySigner(chain, roots, now)
	if err != nil {
		return link.Peer{}, err
	}
	good := goodChain{chain: make([][]byte, len(chain)), roots: roots, signer: signer}
	for i, der := range chain {
		good.chain[i] = bytes.Clone(der)
	}
	good.from, good.until = validity(shown[0])
	v.mu.Lock()
	defer v.mu.Unlock()
	v.chains = append(v.chains, good)
	if len(v.chains) > maxChains {
		v.chains = slices.Delete(v.chains, 0, len(v.chains)-maxChains)
	}
	return signer, nil
}

func (v *Verifier) remembered(chain [][]byte, roots *x509.CertPool, now time.Time) (link.Peer, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, good := range v.chains {
		if slices.EqualFunc(good.chain, chain, bytes.Equal) && good.roots.Equal(roots) && !now.Before(good.from) && !now.After(good.until) {
			v.chains = append(slices.Delete(v.chains, i, i+1), good)
			return good.signer, true
		}
	}
	return link.Peer{}, false
}

// validity is when all certificates are valid, both ends included, as x509 has it.
func validity(chain []*x509.Certificate) (from, until time.Time) {
	from, until = chain[0].NotBefore, chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotBefore.After(from) {
			from = cert.NotBefore
		}
		if cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	return from, until
}

// verifySigner returns who a chain names, and the chains that show it, each up to a root.
func verifySigner(chain [][]byte, roots *x509.CertPool, now time.Time) (link.Peer, [][]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain || len(bytes.Join(chain, nil)) > maxChainSize {
		return link.Peer{}, nil, fmt.Errorf("%w: a chain of %d certificates", ErrMalformed, len(chain))
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return link.Peer{}, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	intermediates := x509.NewCertPool()
	for _, der := range chain[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return link.Peer{}, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		intermediates.AddCert(cert)
	}
	if roots == nil {
		return link.Peer{}, nil, fmt.Errorf("%w: no roots are known here", ErrUntrusted)
	}
	shown, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return link.Peer{}, nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	signer, err := link.PeerOf(leaf)
	if err != nil {
		return link.Peer{}, nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if signer.Kind != link.KindOperator {
		return link.Peer{}, nil, fmt.Errorf("%w: %s %q is no operator", ErrForbidden, signer.Kind, signer.ID)
	}
	return signer, shown, nil
}
