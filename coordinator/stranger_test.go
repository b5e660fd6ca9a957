package coordinator_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
)

// signStranger makes a host certificate with the cluster's own authority for a
// host that the cluster never enrolled, or has forgotten.
func signStranger(t *testing.T, c *testCluster) tls.Certificate {
	t.Helper()
	node, err := identity.Load(c.nodes[0].cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	return signHost(t, node.Authority())
}

// signForeign makes one with an authority that only calls itself the cluster's.
func signForeign(t *testing.T, cluster string) tls.Certificate {
	t.Helper()
	authority, err := identity.NewAuthority(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return signHost(t, authority)
}

func signHost(t *testing.T, authority *identity.Authority) tls.Certificate {
	t.Helper()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	csr, err := identity.NewRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := authority.SignHost(csr, identity.NewHostID())
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key}
}
