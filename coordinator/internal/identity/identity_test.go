package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
)

func newTestAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority(NewClusterID())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Ensure that a request contributes its key and none of its names.
func TestRequestNamesAreIgnored(t *testing.T) {
	a := newTestAuthority(t)
	public, key, _ := ed25519.GenerateKey(rand.Reader)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "admin", OrganizationalUnit: []string{operator.RoleAdmin}},
		DNSNames: []string{NodeServerName}, URIs: []*url.URL{link.PeerURI(a.Cluster(), link.KindOperator, "admin")},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	id := NewHostID()
	chain, err := a.SignHost(csr, id)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	peer, err := link.PeerOf(leaf)
	if err != nil || peer.Kind != KindHost || peer.ID != id || peer.Cluster != a.Cluster() {
		t.Errorf("peer: got %+v, %v", peer, err)
	}
	if leaf.Subject.CommonName != id || len(leaf.Subject.OrganizationalUnit) != 0 || len(leaf.DNSNames) != 0 {
		t.Errorf("names of the request came through: %v %v", leaf.Subject, leaf.DNSNames)
	}
	if !public.Equal(leaf.PublicKey) {
		t.Error("the key is not the requester's")
	}
	if life := time.Until(leaf.NotAfter); life > HostLifetime || life < HostLifetime-time.Minute {
		t.Errorf("lifetime: got %s", life)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Roots(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("verifying: %v", err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Roots(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a host's certificate can serve")
	}
}

func TestBadRequests(t *testing.T) {
	a := newTestAuthority(t)
	request := func(key any) []byte {
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return csr
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	good := request(ed)
	forged := slices.Clone(good)
	forged[len(forged)-1] ^= 1
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"empty": nil, "garbage": []byte("garbage"), "signature": forged, "RSA": request(weak), "P-224": request(p224), "huge": make([]byte, 1<<20),
	} {
		if _, err := a.SignHost(csr, NewHostID()); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: got %v, want ErrBadRequest", name, err)
		}
	}
	for _, id := range []string{"", "h-", "h-AAAAAAAAAAAA", "h-aaaaaaaaaaaa/../x", "n1"} {
		if _, err := a.SignHost(good, id); !errors.Is(err, ErrBadName) {
			t.Errorf("id %q: got %v, want ErrBadName", id, err)
		}
	}
}

func newTestNode(t *testing.T, dir string) *Node {
	t.Helper()
	a := newTestAuthority(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.SignNode(key.Public(), "n1", []string{"10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	n, err := Create(dir, Membership{ClusterID: a.Cluster(), NodeID: "n1"}, a, newTestOperators(t, a.Cluster()), key, chain)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newTestOperators(t *testing.T, cluster string) *x509.Certificate {
	t.Helper()
	operators, err := operator.New(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return operators.Root()
}

// Ensure a node knows the operators' authority by its certificate and takes nothing
// else for it, least of all its own cluster's authority.
func TestOperators(t *testing.T) {
	dir := t.TempDir()
	n := newTestNode(t, dir)
	path := filepath.Join(dir, fileOperators)
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := os.ReadFile(filepath.Join(dir, fileAuthority))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text []byte
		want error
	}{
		"the cluster's authority": {cluster, ErrMismatch},
		"another cluster's":       {encodePEM("CERTIFICATE", newTestOperators(t, "c-other").Raw), ErrMismatch},
		"no certificate":          {encodePEM("CERTIFICATE", []byte("x")), ErrDamaged},
		"nothing":                 {nil, ErrDamaged},
	} {
		if err := os.WriteFile(path, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNoOperators) || errors.Is(err, ErrNotInitialised) {
		t.Errorf("an older release's: got %v", err)
	}
	if err := os.WriteFile(path, right, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Load(dir)
	if err != nil || !again.Operators().Equal(n.Operators()) {
		t.Errorf("loaded: %v", err)
	}
}

func TestNodeFiles(t *testing.T) {
	dir := t.TempDir()
	n := newTestNode(t, dir)
	for _, name := range []string{fileAuthorityKey, fileNodeKey} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := Create(dir, n.membership, n.authority, n.operators, n.key, nil); !errors.Is(err, ErrInitialised) {
		t.Errorf("twice: got %v", err)
	}
	other := t.TempDir()
	newTestNode(t, other)
	for _, name := range []string{fileAuthority, fileAuthorityKey, fileOperators, fileNode, fileNodeKey} {
		mixed := t.TempDir()
		for _, f := range []string{fileAuthority, fileAuthorityKey, fileOperators, fileNode, fileNodeKey, fileCluster} {
			from := dir
			if f == name {
				from = other
			}
			raw, err := os.ReadFile(filepath.Join(from, f))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(mixed, f), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Load(mixed); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s of another cluster: got %v, want ErrMismatch", name, err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, fileNodeKey), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrInsecureKey) {
		t.Errorf("readable key: got %v", err)
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrNotInitialised) {
		t.Errorf("empty directory: got %v", err)
	}
}

// Ensure a node renews its certificate at half-life and when it gets a new name, and keeps it.
func TestNodeRenews(t *testing.T) {
	dir := t.TempDir()
	n := newTestNode(t, dir)
	first, err := n.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := n.Certificate(); again != first {
		t.Error("renewed without need")
	}
	if err := n.SetNames([]string{"10.0.0.1", "node.example", "::1"}); err != nil {
		t.Fatal(err)
	}
	named, _ := n.Certificate()
	if !slices.Contains(named.Leaf.DNSNames, "node.example") || !slices.Contains(named.Leaf.DNSNames, NodeServerName) {
		t.Errorf("names: got %v", named.Leaf.DNSNames)
	}
	if again, _ := n.Certificate(); again != named {
		t.Error("renewed without need")
	}
	later := time.Now().Add(NodeLifetime/2 + time.Hour)
	n.now = func() time.Time { return later }
	n.authority.now = n.now
	renewed, err := n.Certificate()
	if err != nil || renewed == named || !renewed.Leaf.NotAfter.After(named.Leaf.NotAfter) {
		t.Errorf("not renewed at half-life: %v", err)
	}
	kept, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := kept.Certificate(); !got.Leaf.Equal(renewed.Leaf) {
		t.Error("the renewed certificate was not kept")
	}
}

func TestTokens(t *testing.T) {
	secret := []byte("0123456789abcdef")
	hash := HashSecret(secret)
	if !SecretMatches(secret, hash[:]) || SecretMatches([]byte("0123456789abcdeF"), hash[:]) || SecretMatches(secret, nil) {
		t.Error("SecretMatches")
	}
	for _, tt := range []struct {
		ttl, want time.Duration
		ok        bool
	}{{0, time.Hour, true}, {time.Hour, time.Hour, true}, {time.Minute, time.Minute, true}, {time.Second, 0, false}, {time.Hour + 1, 0, false}} {
		if got, err := CheckTokenLifetime(tt.ttl); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%s: got %s, %v", tt.ttl, got, err)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"n1": true, "node-1.example": true, "": false, "-n": false, "n/1": false, "N1": false, "n 1": false, "n\n": false} {
		if err := CheckName("node id", name); (err == nil) != ok {
			t.Errorf("%q: got %v", name, err)
		}
	}
	for range 100 {
		if id := NewHostID(); !IsHostID(id) {
			t.Fatalf("%q is no host id", id)
		}
	}
	for _, id := range []string{"h-short", "h-0123456789ab", "x-aaaaaaaaaaaa", "h-aaaaaaaaaaaaa"} {
		if IsHostID(id) {
			t.Errorf("%q is a host id", id)
		}
	}
}
