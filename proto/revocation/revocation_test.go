package revocation_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const cluster = "c-test"

type person struct {
	key   crypto.Signer
	chain [][]byte
}

func newPerson(t *testing.T, by *operator.Authority, name, role string) person {
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

func newRoot(t *testing.T) (*operator.Authority, *x509.CertPool) {
	t.Helper()
	root, err := operator.New(cluster)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root.Root())
	return root, pool
}

func list(by string, at time.Time, names ...string) *sensorv1.Revocations {
	l := &sensorv1.Revocations{ClusterId: cluster, Serial: uint64(at.UnixNano()), Operator: by} //nolint:gosec // after 1970
	for _, name := range names {
		l.Operators = append(l.Operators, &sensorv1.RevokedOperator{Name: name, At: at.UnixNano()})
	}
	return l
}

// Ensure a list counts only if an admin of this cluster signed it, who is not on it, nor made by one who is.
func TestVerify(t *testing.T) {
	root, pool := newRoot(t)
	other, _ := newRoot(t)
	bob, err := root.Delegate("bob", 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ann := newPerson(t, root, "ann", operator.RoleAdmin)
	tests := []struct {
		name   string
		signer person
		list   *sensorv1.Revocations
		change func(*sensorv1.SignedRevocations)
		want   error
	}{
		{"an admin", ann, list("ann", now, "eve", "bob"), nil, nil},
		{"made by bob, who is not on it", newPerson(t, bob, "ann", operator.RoleAdmin), list("ann", now, "eve"), nil, nil},
		{"made by bob, who is on it", newPerson(t, bob, "ann", operator.RoleAdmin), list("ann", now, "bob"), nil, revocation.ErrRevoked},
		{"a responder", newPerson(t, root, "rex", operator.RoleResponder), list("rex", now, "ann"), nil, revocation.ErrForbidden},
		{"another's name", ann, list("carl", now, "bob"), nil, revocation.ErrForbidden},
		{"another authority", newPerson(t, other, "ann", operator.RoleAdmin), list("ann", now, "bob"), nil, grant.ErrUntrusted},
		{"another cluster", ann, &sensorv1.Revocations{ClusterId: "c-other", Serial: uint64(now.UnixNano()), Operator: "ann", //nolint:gosec // after 1970
			Operators: []*sensorv1.RevokedOperator{{Name: "bob", At: 1}}}, nil, revocation.ErrForeign},
		{"the future", ann, list("ann", now.Add(time.Hour), "bob"), nil, revocation.ErrTime},
		{"before the certificate", ann, list("ann", now.Add(-3*time.Hour), "bob"), nil, grant.ErrUntrusted},
		{"a changed byte", ann, list("ann", now, "bob"), func(s *sensorv1.SignedRevocations) { s.Signature.Signature[3] ^= 1 }, grant.ErrSignature},
		{"a name added", ann, list("ann", now, "bob"), func(s *sensorv1.SignedRevocations) {
			l, _ := revocation.Decode(s.GetPayload())
			l.Operators = append(l.Operators, &sensorv1.RevokedOperator{Name: "carl", At: 1})
			s.Payload, _ = revocation.Encode(l)
		}, grant.ErrSignature},
		{"another encoding", ann, list("ann", now, "bob"), func(s *sensorv1.SignedRevocations) { s.Payload = append(s.Payload, 0x50, 1) }, revocation.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signed, err := revocation.Sign(tt.signer.key, tt.signer.chain, tt.list)
			if err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				tt.change(signed)
			}
			if _, _, err := revocation.Verify(signed, pool, cluster, now); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	// A year later it is still one: a revocation does not lapse with its signer's certificate.
	signed, err := revocation.Sign(ann.key, ann.chain, list("ann", now, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := revocation.Verify(signed, pool, cluster, now.Add(3*operator.Lifetime)); err != nil {
		t.Errorf("after its signer's certificate: %v", err)
	}
}

// Ensure what breaks a bound is no list, and that nobody revokes themselves.
func TestBounds(t *testing.T) {
	now := time.Now()
	many := make([]string, revocation.MaxNames+1)
	for i := range many {
		many[i] = fmt.Sprintf("o%d", i)
	}
	late := list("ann", now, "bob")
	late.Operators[0].At++
	for name, tt := range map[string]struct {
		list *sensorv1.Revocations
		want error
	}{
		"self": {list("ann", now, "ann", "bob"), revocation.ErrSelf}, "nobody": {list("ann", now), revocation.ErrMalformed},
		"twice": {list("ann", now, "bob", "bob"), revocation.ErrMalformed}, "too many": {list("ann", now, many...), revocation.ErrMalformed},
		"all that may be": {list("ann", now, many[1:]...), nil}, "no name": {list("ann", now, ""), revocation.ErrMalformed},
		"a blank": {list("ann", now, "a b"), revocation.ErrMalformed}, "later than the list": {late, revocation.ErrMalformed},
		"no signer": {list("", now, "bob"), revocation.ErrMalformed}, "no serial": {list("ann", time.Unix(0, 0), "bob"), revocation.ErrMalformed},
	} {
		if _, err := revocation.Encode(tt.list); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

// Ensure who is revoked is so with every certificate, and with everybody that their authority made.
func TestCheck(t *testing.T) {
	root, _ := newRoot(t)
	bob, err := root.Delegate("bob", 0)
	if err != nil {
		t.Fatal(err)
	}
	revoked := revocation.Names(list("ann", time.Now(), "bob", "rex"))
	for _, tt := range []struct {
		who  person
		want error
	}{
		{newPerson(t, root, "bob", operator.RoleAdmin), revocation.ErrRevoked},
		{newPerson(t, root, "bob", operator.RoleViewer), revocation.ErrRevoked},
		{newPerson(t, bob, "eve", operator.RoleResponder), revocation.ErrRevoked},
		{newPerson(t, root, "eve", operator.RoleResponder), nil},
		{newPerson(t, root, "rex", operator.RoleResponder), revocation.ErrRevoked},
	} {
		if err := revoked.Check(tt.who.chain); !errors.Is(err, tt.want) {
			t.Errorf("got %v, want %v", err, tt.want)
		}
		if err := revocation.Revoked(nil).Check(tt.who.chain); err != nil {
			t.Errorf("nobody is revoked: got %v", err)
		}
	}
}

// Ensure no bytes from outside make Decode fail otherwise than by an error.
func FuzzDecode(f *testing.F) {
	payload, err := revocation.Encode(list("ann", time.Now(), "bob", "eve"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := revocation.Decode(raw)
		if err != nil {
			return
		}
		if again, err := revocation.Encode(l); err != nil || string(again) != string(raw) {
			t.Errorf("a list with two encodings: %x and %x, %v", raw, again, err)
		}
	})
}
