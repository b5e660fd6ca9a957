package link

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/quic-go/quic-go"
)

// Tokens are what nodes gave us to prove our address with at the next connection, so that
// a node that is flooded lets us in without a round trip that it may have no time for. A
// nil Tokens keeps none. It lasts as long as the process.
type Tokens struct{ store quic.TokenStore }

// keptTokens are used up one a connection, and every connection brings one.
const keptTokens = 4

// NewTokens makes an empty store.
func NewTokens() *Tokens { return &Tokens{store: quic.NewLRUTokenStore(1, keptTokens)} }

func (t *Tokens) of(cfg *quic.Config) *quic.Config {
	if t != nil {
		cfg.TokenStore = t.store
	}
	return cfg
}

// keys are what a node's answers to strangers depend on. They are the same after a
// restart: peers of the process that died learn of it with their next packet, and what
// proved an address still does.
type keys struct {
	reset quic.StatelessResetKey
	token quic.TokenGeneratorKey
}

func keysOf(cert *tls.Certificate, shared []byte) (k keys, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return keys{}, fmt.Errorf("deriving the keys of resets and tokens: %w", err)
	}
	if len(shared) == 0 {
		shared = der
	}
	k.reset = sha256.Sum256(append([]byte("vedette-stateless-reset-v1\x00"), der...))
	k.token = sha256.Sum256(append([]byte("vedette-address-token-v1\x00"), shared...))
	return k, nil
}
