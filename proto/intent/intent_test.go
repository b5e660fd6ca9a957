package intent_test

import (
	"crypto"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func first(now time.Time) *sensorv1.Intent {
	return &sensorv1.Intent{
		ClusterId: linktest.Cluster, Version: 1, Author: "alice", IssuedAt: now.UnixNano(),
		Groups: []*sensorv1.Group{{Name: "web", Labels: map[string]string{"role": "web", "site": "a", "tier": "1"}}},
	}
}

func sign(t *testing.T, cert tls.Certificate, in *sensorv1.Intent) *sensorv1.SignedIntent {
	t.Helper()
	signed, err := intent.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, in)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Ensure an admin's intent is accepted, and nothing else is.
func TestVerify(t *testing.T) {
	now := time.Now()
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	issue := func(ca *linktest.CA, kind, id, role string) tls.Certificate {
		return ca.IssueBetween(kind, id, role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	alice := issue(ca, link.KindOperator, "alice", "admin")
	with := func(change func(*sensorv1.Intent)) *sensorv1.Intent {
		in := first(now)
		change(in)
		return in
	}
	altered := sign(t, alice, first(now))
	altered.Payload, _ = intent.Encode(with(func(in *sensorv1.Intent) { in.AutomationOff = true }))
	appended := sign(t, alice, first(now))
	appended.Payload = append(appended.Payload, 0x98, 0x1f, 1) // field 499
	nested := with(func(in *sensorv1.Intent) { in.Governor = &sensorv1.Governor{} })
	nested.Governor.ProtoReflect().SetUnknown([]byte{0x98, 0x1f, 1})
	asGrant := sign(t, alice, first(now))
	asGrant.Signature, _ = grant.SignPayload(alice.PrivateKey.(crypto.Signer), alice.Certificate, asGrant.GetPayload())

	for _, c := range []struct {
		name   string
		signed *sensorv1.SignedIntent
		want   error
	}{
		{"an admin's", sign(t, alice, first(now)), nil},
		{"a responder's", sign(t, issue(ca, link.KindOperator, "alice", "responder"), first(now)), intent.ErrForbidden},
		{"a node's", sign(t, issue(ca, link.KindNode, "alice", ""), first(now)), intent.ErrForbidden},
		{"under another authority", sign(t, issue(foreign, link.KindOperator, "alice", "admin"), first(now)), intent.ErrUntrusted},
		{"with another author", sign(t, issue(ca, link.KindOperator, "bob", "admin"), first(now)), intent.ErrForbidden},
		{"for another cluster", sign(t, alice, with(func(in *sensorv1.Intent) { in.ClusterId = "c-other" })), intent.ErrForeign},
		{"from the future", sign(t, alice, first(now.Add(6*time.Minute))), intent.ErrTime},
		{"from before the certificate", sign(t, alice, first(now.Add(-3*time.Hour))), intent.ErrUntrusted},
		{"altered", altered, intent.ErrSignature},
		{"signed as a grant", asGrant, intent.ErrSignature},
		{"with an unknown field", appended, intent.ErrMalformed},
		{"with an unknown field inside", sign(t, alice, nested), intent.ErrMalformed},
		{"without a signature", &sensorv1.SignedIntent{Payload: altered.GetPayload()}, intent.ErrMalformed},
		{"nothing", nil, intent.ErrMalformed},
	} {
		in, signer, err := intent.Verify(c.signed, ca.Roots(), linktest.Cluster, now)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if err == nil && (signer.ID != "alice" || !proto.Equal(in, first(now))) {
			t.Errorf("%s: got %v by %q", c.name, in, signer.ID)
		}
	}
}

// Ensure an intent outlives its author's certificate, and that none can be applied by an expired one.
func TestVerifyLater(t *testing.T) {
	now := time.Now()
	ca := linktest.NewCA(t)
	alice := ca.IssueBetween(link.KindOperator, "alice", "admin", now.Add(-40*time.Minute), now.Add(-10*time.Minute))
	signed := sign(t, alice, first(now.Add(-30*time.Minute)))
	if _, _, err := intent.Verify(signed, ca.Roots(), linktest.Cluster, now); err != nil {
		t.Errorf("in force: %v", err)
	}
	if _, _, err := intent.VerifyNew(signed, ca.Roots(), linktest.Cluster, now); !errors.Is(err, intent.ErrUntrusted) {
		t.Errorf("applied by an expired certificate: got %v", err)
	}
	bob := ca.IssueBetween(link.KindOperator, "alice", "admin", now.Add(-4*time.Hour), now.Add(time.Hour))
	if _, _, err := intent.VerifyNew(sign(t, bob, first(now.Add(-2*time.Hour))), ca.Roots(), linktest.Cluster, now); !errors.Is(err, intent.ErrTime) {
		t.Errorf("applied two hours later: got %v", err)
	}
	if _, _, err := intent.VerifyNew(sign(t, bob, first(now)), ca.Roots(), linktest.Cluster, now); err != nil {
		t.Errorf("applied at once: %v", err)
	}
}

// Ensure versions form one chain, and hosts never go back.
func TestFollows(t *testing.T) {
	now := time.Now()
	encode := func(in *sensorv1.Intent) []byte {
		payload, err := intent.Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	one := encode(first(now))
	next := func(change func(*sensorv1.Intent)) *sensorv1.Intent {
		in := first(now)
		in.Version, in.Previous = 2, intent.Digest(one)
		change(in)
		return in
	}
	if err := intent.Follows(nil, first(now)); err != nil {
		t.Error(err)
	}
	if err := intent.Follows(one, next(func(*sensorv1.Intent) {})); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name     string
		previous []byte
		in       *sensorv1.Intent
	}{
		{"a second first", one, first(now)},
		{"a second without a first", nil, next(func(*sensorv1.Intent) {})},
		{"a gap", one, next(func(in *sensorv1.Intent) { in.Version = 3 })},
		{"another past", one, next(func(in *sensorv1.Intent) { in.Previous = make([]byte, 32) })},
		{"an earlier one", one, next(func(in *sensorv1.Intent) { in.IssuedAt-- })},
		{"another cluster", one, next(func(in *sensorv1.Intent) { in.ClusterId = "c-other" })},
	} {
		if err := intent.Follows(c.previous, c.in); !errors.Is(err, intent.ErrSequence) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	five := encode(next(func(in *sensorv1.Intent) { in.Version = 5 }))
	rival := encode(next(func(in *sensorv1.Intent) { in.Version, in.AutomationOff = 5, true }))
	early := encode(next(func(in *sensorv1.Intent) { in.Version = 6; in.IssuedAt-- }))
	for _, c := range []struct {
		name       string
		held, next []byte
		takes      bool
		wrong      bool
	}{
		{"the first", nil, five, true, false}, {"a later", one, five, true, false}, {"an earlier", five, one, false, false},
		{"the same", five, five, false, false}, {"a rival", five, rival, false, true}, {"signed before", five, early, false, true},
		{"rubbish", five, []byte("x"), false, true},
	} {
		takes, err := intent.Replaces(c.held, c.next)
		if takes != c.takes || (err != nil) != c.wrong {
			t.Errorf("%s: got %v, %v", c.name, takes, err)
		}
	}
}

// Ensure an intent that no one could verify is not made.
func TestSignRefuses(t *testing.T) {
	alice := linktest.NewCA(t).IssueBetween(link.KindOperator, "alice", "admin", time.Now(), time.Now().Add(time.Hour))
	for name, change := range map[string]func(*sensorv1.Intent){
		"no cluster": func(in *sensorv1.Intent) { in.ClusterId = "" }, "no version": func(in *sensorv1.Intent) { in.Version = 0 },
		"a past of nothing": func(in *sensorv1.Intent) { in.Previous = make([]byte, 32) }, "no past": func(in *sensorv1.Intent) { in.Version = 2 },
		"no author": func(in *sensorv1.Intent) { in.Author = "" }, "no time": func(in *sensorv1.Intent) { in.IssuedAt = 0 },
		"restores itself": func(in *sensorv1.Intent) { in.Restores = 1 },
		"too long":        func(in *sensorv1.Intent) { in.Policy = strings.Repeat("x", intent.MaxPayload) },
	} {
		in := first(time.Now())
		change(in)
		if _, err := intent.Sign(alice.PrivateKey.(crypto.Signer), alice.Certificate, in); !errors.Is(err, intent.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
