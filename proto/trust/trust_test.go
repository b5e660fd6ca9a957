package trust_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

const cluster = "c-test"

type person struct {
	key   crypto.Signer
	chain [][]byte
}

func newPerson(t testing.TB, by *operator.Authority, name, role string) person {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := by.Sign(public, name, role, 0)
	if err != nil {
		t.Fatal(err)
	}
	return person{key, chain}
}

func newPeople(t testing.TB) *operator.Authority {
	t.Helper()
	people, err := operator.New(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return people
}

// newRoot makes an authority; change may spoil it before it signs itself.
func newRoot(t testing.TB, change func(*x509.Certificate)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x", Organization: []string{cluster}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func list(at time.Time, roots ...[]byte) *sensorv1.Trust {
	return &sensorv1.Trust{ClusterId: cluster, Epoch: 2, SignedAt: at.UnixNano(), Operator: "ann", Roots: roots}
}

// Ensure a list counts only if an admin of this cluster signed exactly it, its epoch is
// above the holder's, and it brings no other operators' authority.
func TestVerify(t *testing.T) {
	people, others := newPeople(t), newPeople(t)
	now := time.Now()
	ann := newPerson(t, people, "ann", operator.RoleAdmin)
	a, b := newRoot(t, nil), newRoot(t, nil)
	with := func(change func(*sensorv1.Trust)) *sensorv1.Trust {
		l := list(now, a, b)
		change(l)
		return l
	}
	tests := []struct {
		name   string
		signer person
		list   *sensorv1.Trust
		held   uint64
		change func(*sensorv1.SignedTrust)
		want   error
	}{
		{"an admin", ann, list(now, a, b), 1, nil, nil},
		{"the same epoch", ann, list(now, a, b), 2, nil, trust.ErrStale},
		{"an older epoch", ann, list(now, a, b), 3, nil, trust.ErrStale},
		{"a responder", newPerson(t, people, "rex", operator.RoleResponder), with(func(l *sensorv1.Trust) { l.Operator = "rex" }), 0, nil, trust.ErrForbidden},
		{"another's name", ann, with(func(l *sensorv1.Trust) { l.Operator = "bob" }), 0, nil, trust.ErrForbidden},
		{"another authority", newPerson(t, others, "ann", operator.RoleAdmin), list(now, a, b), 0, nil, grant.ErrUntrusted},
		{"the future", ann, list(now.Add(time.Hour), a), 0, nil, trust.ErrTime},
		{"before the certificate", ann, list(now.Add(-3*time.Hour), a), 0, nil, grant.ErrUntrusted},
		{"a changed signature", ann, list(now, a, b), 0, func(s *sensorv1.SignedTrust) { s.Signature.Signature[3] ^= 1 }, grant.ErrSignature},
		{"an authority put in its place", ann, list(now, a), 0, func(s *sensorv1.SignedTrust) { s.Payload, _ = trust.Encode(list(now, b)) }, grant.ErrSignature},
		{"signed for another use", ann, list(now, a), 0, func(s *sensorv1.SignedTrust) {
			s.Signature, _ = grant.SignAs("vedette-nodes-v1\x00", ann.key, ann.chain, s.GetPayload())
		}, grant.ErrSignature},
		{"the operators' authority as it is", ann, with(func(l *sensorv1.Trust) { l.Operators = people.Root().Raw }), 0, nil, nil},
		{"another operators' authority", ann, with(func(l *sensorv1.Trust) { l.Operators = others.Root().Raw }), 0, nil, trust.ErrKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signed, err := trust.Sign(tt.signer.key, tt.signer.chain, tt.list)
			if err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				tt.change(signed)
			}
			got, signer, err := trust.Verify(signed, people.Root(), cluster, tt.held, now)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && (signer.ID != "ann" || !proto.Equal(got, tt.list)) {
				t.Errorf("got %v by %s", got, signer.ID)
			}
		})
	}
	signed, err := trust.Sign(ann.key, ann.chain, list(now, a))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := trust.Verify(signed, people.Root(), "c-other", 0, now); !errors.Is(err, trust.ErrForeign) {
		t.Errorf("another cluster: got %v", err)
	}
	// It outlives the one who signed it: whoever was away for long must find back.
	if _, _, err := trust.Verify(signed, people.Root(), cluster, 0, now.Add(3*operator.Lifetime)); err != nil {
		t.Errorf("years later: got %v", err)
	}
}

// Ensure what breaks a bound, or has two readings, is no list.
func TestMalformed(t *testing.T) {
	a, b := newRoot(t, nil), newRoot(t, nil)
	good := func() *sensorv1.Trust { return list(time.Now(), a, b) }
	for name, change := range map[string]func(*sensorv1.Trust){
		"no cluster":        func(l *sensorv1.Trust) { l.ClusterId = "" },
		"nobody":            func(l *sensorv1.Trust) { l.Operator = "" },
		"no epoch":          func(l *sensorv1.Trust) { l.Epoch = 0 },
		"an epoch too high": func(l *sensorv1.Trust) { l.Epoch = 1 << 33 },
		"no time":           func(l *sensorv1.Trust) { l.SignedAt = 0 },
		"no authority":      func(l *sensorv1.Trust) { l.Roots = nil },
		"five":              func(l *sensorv1.Trust) { l.Roots = append(l.Roots, newRoot(t, nil), newRoot(t, nil), newRoot(t, nil)) },
		"twice":             func(l *sensorv1.Trust) { l.Roots = append(l.Roots, a) },
		"an issuer too far": func(l *sensorv1.Trust) { l.Issuer = 2 },
		"no certificate":    func(l *sensorv1.Trust) { l.Roots[0] = []byte("x") },
		"no authority's":    func(l *sensorv1.Trust) { l.Roots[0] = newRoot(t, func(c *x509.Certificate) { c.IsCA = false }) },
		"another cluster's": func(l *sensorv1.Trust) {
			l.Roots[0] = newRoot(t, func(c *x509.Certificate) { c.Subject.Organization = []string{"c-x"} })
		},
		"a huge one": func(l *sensorv1.Trust) {
			l.Roots[0] = newRoot(t, func(c *x509.Certificate) { c.DNSNames = []string{string(bytes.Repeat([]byte("a"), 8<<10))} })
		},
		"an unsigned one":    func(l *sensorv1.Trust) { l.Roots[0] = append(bytes.Clone(a[:len(a)-1]), a[len(a)-1]^1) },
		"operators: nothing": func(l *sensorv1.Trust) { l.Operators = a },
	} {
		l := good()
		change(l)
		if _, err := trust.Encode(l); !errors.Is(err, trust.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	payload, err := trust.Encode(good())
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"an unknown field": append(bytes.Clone(payload), 0xa0, 0x06, 1), "twice the same field": append(bytes.Clone(payload), 0x10, 2), "too long": make([]byte, trust.MaxPayload+1)} {
		if _, err := trust.Decode(raw); !errors.Is(err, trust.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzVerify gives it what a stranger could send: nothing that was not signed is taken.
func FuzzVerify(f *testing.F) {
	people := newPeople(f)
	ann := newPerson(f, people, "ann", operator.RoleAdmin)
	now := time.Now()
	signed, err := trust.Sign(ann.key, ann.chain, list(now, newRoot(f, nil), newRoot(f, nil)))
	if err != nil {
		f.Fatal(err)
	}
	raw, err := proto.Marshal(signed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		got := &sensorv1.SignedTrust{}
		if proto.Unmarshal(data, got) != nil {
			return
		}
		if _, _, err := trust.Verify(got, people.Root(), cluster, 0, now); err == nil && !bytes.Equal(got.GetPayload(), signed.GetPayload()) {
			t.Errorf("taken: %x", got.GetPayload())
		}
		_ = trust.Key(data)
		_, _ = trust.Root(data, cluster)
	})
}
