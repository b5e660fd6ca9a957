package pack_test

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func exec(subject, object string) *sensorv1.PackBehaviour {
	return &sensorv1.PackBehaviour{Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte(subject), Object: []byte(object), Hosts: 3, Known: 2}
}

func good(now time.Time) *sensorv1.Pack {
	return &sensorv1.Pack{ClusterId: linktest.Cluster, Role: "web", MadeAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Of: 4, Permille: 500,
		Operator: "alice", Behaviours: []*sensorv1.PackBehaviour{exec("/usr/sbin/cron", "/bin/sh"), exec("/bin/sh", "/usr/bin/ls")}}
}

func sign(t *testing.T, cert tls.Certificate, p *sensorv1.Pack) *sensorv1.SignedPack {
	t.Helper()
	signed, err := pack.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, p)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Ensure a pack is an operator's when one who may signed these bytes, a node's when nobody did and
// it names nobody, and otherwise none.
func TestVerify(t *testing.T) {
	now := time.Now()
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	issue := func(ca *linktest.CA, kind, id, role string) tls.Certificate {
		return ca.IssueBetween(kind, id, role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	alice := issue(ca, link.KindOperator, "alice", "hunter")
	with := func(change func(*sensorv1.Pack)) *sensorv1.Pack {
		p := good(now)
		change(p)
		return p
	}
	forged := sign(t, alice, good(now))
	forged.Payload = sign(t, alice, with(func(p *sensorv1.Pack) { p.Behaviours = append(p.Behaviours, exec("/tmp/x", "/tmp/y")) })).GetPayload()
	asUnlearn, err := grant.SignAs("vedette-unlearn-v1\x00", alice.PrivateKey.(crypto.Signer), alice.Certificate, sign(t, alice, good(now)).GetPayload())
	if err != nil {
		t.Fatal(err)
	}
	// As an older sensor looks for: it would take the fleet's for its role's.
	asRole, err := grant.SignAs("vedette-pack-v1\x00", alice.PrivateKey.(crypto.Signer), alice.Certificate, sign(t, alice, with(func(p *sensorv1.Pack) { p.Role = pack.Fleet })).GetPayload())
	if err != nil {
		t.Fatal(err)
	}
	disordered := good(now)
	raw, _ := proto.MarshalOptions{Deterministic: true}.Marshal(disordered)
	if slices.IsSortedFunc(disordered.GetBehaviours(), pack.Order) {
		t.Fatal("this test needs them in disorder")
	}
	nobody, err := pack.Encode(with(func(p *sensorv1.Pack) { p.Operator, p.NotAfter = "", 0 }))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		signed *sensorv1.SignedPack
		by     string
		want   error
	}{
		{"a hunter", sign(t, alice, good(now)), "alice", nil},
		{"a node", &sensorv1.SignedPack{Payload: nobody}, "", nil},
		{"nobody, naming alice", &sensorv1.SignedPack{Payload: sign(t, alice, good(now)).GetPayload()}, "", grant.ErrForbidden},
		{"nothing", nil, "", pack.ErrMalformed},
		{"another pack's signature", forged, "", grant.ErrSignature},
		{"signed as an order to forget", &sensorv1.SignedPack{Payload: sign(t, alice, good(now)).GetPayload(), Signature: asUnlearn}, "", grant.ErrSignature},
		{"the fleet's", sign(t, alice, with(func(p *sensorv1.Pack) { p.Role = pack.Fleet })), "alice", nil},
		{"the fleet's, signed as a role's", &sensorv1.SignedPack{Payload: sign(t, alice, with(func(p *sensorv1.Pack) { p.Role = pack.Fleet })).GetPayload(), Signature: asRole}, "", grant.ErrSignature},
		{"in disorder", &sensorv1.SignedPack{Payload: raw, Signature: sign(t, alice, good(now)).GetSignature()}, "", pack.ErrMalformed},
		{"a viewer", sign(t, issue(ca, link.KindOperator, "alice", "viewer"), good(now)), "", grant.ErrForbidden},
		{"another's name", sign(t, issue(ca, link.KindOperator, "bob", "admin"), good(now)), "", grant.ErrForbidden},
		{"a node's certificate", sign(t, issue(ca, link.KindNode, "alice", ""), good(now)), "", grant.ErrForbidden},
		{"a foreign authority", sign(t, issue(foreign, link.KindOperator, "alice", "admin"), good(now)), "", grant.ErrUntrusted},
		{"another cluster's", sign(t, alice, with(func(p *sensorv1.Pack) { p.ClusterId = "c-other" })), "", pack.ErrForeign},
		{"ended", sign(t, alice, with(func(p *sensorv1.Pack) {
			p.MadeAt, p.NotAfter = now.Add(-time.Hour).UnixNano(), now.Add(-time.Minute).UnixNano()
		})), "", pack.ErrTime},
		{"of the future", sign(t, alice, with(func(p *sensorv1.Pack) {
			p.MadeAt, p.NotAfter = now.Add(time.Hour).UnixNano(), now.Add(2*time.Hour).UnixNano()
		})), "", pack.ErrTime},
		{"for ever", sign(t, alice, with(func(p *sensorv1.Pack) { p.NotAfter = 0 })), "", pack.ErrTime},
		{"for too long", sign(t, alice, with(func(p *sensorv1.Pack) { p.NotAfter = now.Add(2 * pack.Lifetime).UnixNano() })), "", pack.ErrTime},
	} {
		p, signer, err := pack.Verify(tt.signed, ca.Roots(), linktest.Cluster, now)
		if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			continue
		}
		if err != nil {
			continue
		}
		if (signer == nil) != (tt.by == "") || signer != nil && signer.ID != tt.by || len(p.GetBehaviours()) != 2 {
			t.Errorf("%s: by %v, %v", tt.name, signer, p)
		}
	}
}

// Ensure what breaks a bound cannot be encoded.
func TestBounds(t *testing.T) {
	now := time.Now()
	for name, change := range map[string]func(*sensorv1.Pack){
		"no cluster":        func(p *sensorv1.Pack) { p.ClusterId = "" },
		"no role":           func(p *sensorv1.Pack) { p.Role = "" },
		"a role with space": func(p *sensorv1.Pack) { p.Role = "a b" },
		"of no host":        func(p *sensorv1.Pack) { p.Of = 0 },
		"none":              func(p *sensorv1.Pack) { p.Behaviours = nil },
		"twice":             func(p *sensorv1.Pack) { p.Behaviours = append(p.Behaviours, p.GetBehaviours()[0]) },
		"no kind":           func(p *sensorv1.Pack) { p.Behaviours[0].Kind = 0 },
		"a later kind":      func(p *sensorv1.Pack) { p.Behaviours[0].Kind = 99 },
		"more hosts":        func(p *sensorv1.Pack) { p.Behaviours[0].Hosts = 5 },
		"on no host":        func(p *sensorv1.Pack) { p.Behaviours[0].Hosts = 0 },
		"known on more":     func(p *sensorv1.Pack) { p.Behaviours[0].Known = 4 },
		"long":              func(p *sensorv1.Pack) { p.Behaviours[0].Subject = make([]byte, pack.MaxName+1) },
		"many": func(p *sensorv1.Pack) {
			for i := range pack.MaxBehaviours {
				p.Behaviours = append(p.Behaviours, exec("/x", fmt.Sprint(i)))
			}
		},
		"large": func(p *sensorv1.Pack) {
			for i := range 2000 {
				p.Behaviours = append(p.Behaviours, exec(fmt.Sprintf("%0380d", i), fmt.Sprintf("%0380d", i)))
			}
		},
	} {
		p := good(now)
		change(p)
		if _, err := pack.Encode(p); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Ensure parts come together to what was cut, and anything else is refused and does not harm the next.
func TestParts(t *testing.T) {
	p := good(time.Now())
	for i := range 4000 {
		p.Behaviours = append(p.Behaviours, exec("/usr/sbin/cron", fmt.Sprintf("/usr/bin/%0100d", i)))
	}
	payload, err := pack.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	signed := &sensorv1.SignedPack{Payload: payload}
	parts, err := pack.Parts(signed)
	if err != nil || len(parts) < 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	join := func(j *pack.Joiner, parts []*sensorv1.PackPart) (got *sensorv1.SignedPack, err error) {
		for _, part := range parts {
			if got, err = j.Add(part); err != nil {
				return nil, err
			}
		}
		return got, nil
	}
	var j pack.Joiner
	for name, wrong := range map[string][]*sensorv1.PackPart{
		"no first":  parts[1:],
		"twice":     {parts[0], parts[0], parts[1], parts[1]},
		"a gap":     {parts[0], {Sha256: parts[0].GetSha256(), Index: 2, Count: 3, Data: []byte{1}}},
		"changed":   {parts[0], {Sha256: parts[1].GetSha256(), Index: 1, Count: 2, Data: []byte("x")}},
		"another":   {parts[0], {Sha256: []byte("x"), Index: 1, Count: 2, Data: parts[1].GetData()}},
		"too long":  {{Sha256: []byte("x"), Count: 1, Data: make([]byte, pack.PartSize+1)}},
		"too many":  {{Sha256: []byte("x"), Count: 1 << 30, Data: []byte("x")}},
		"of no one": {{}},
	} {
		if got, err := join(&j, wrong); err == nil && got != nil {
			t.Errorf("%s: taken", name)
		}
	}
	if got, err := join(&j, parts); err != nil || !proto.Equal(got, signed) {
		t.Errorf("got %v, %v", got != nil, err)
	}
}

// Ensure an order to forget is honoured from who may give it, in its time.
func TestVerifyUnlearn(t *testing.T) {
	now := time.Now()
	ca := linktest.NewCA(t)
	issue := func(id, role string) tls.Certificate {
		return ca.IssueBetween(link.KindOperator, id, role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	order := func(change func(*sensorv1.Unlearn)) *sensorv1.Unlearn {
		u := &sensorv1.Unlearn{Id: "ul-1", ClusterId: linktest.Cluster, Host: "h-1", Subject: []byte("/tmp/x"), Operator: "rae",
			IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano()}
		change(u)
		return u
	}
	as := func(cert tls.Certificate, u *sensorv1.Unlearn) *sensorv1.SignedUnlearn {
		signed, err := pack.SignUnlearn(cert.PrivateKey.(crypto.Signer), cert.Certificate, u)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	same := func(*sensorv1.Unlearn) {}
	rae := issue("rae", "responder")
	for _, tt := range []struct {
		name   string
		signed *sensorv1.SignedUnlearn
		want   error
	}{
		{"a responder", as(rae, order(same)), nil},
		{"a hunter", as(issue("rae", "hunter"), order(same)), grant.ErrForbidden},
		{"by a disposition's id", as(rae, order(func(u *sensorv1.Unlearn) { u.Id = "dsp-1" })), pack.ErrMalformed},
		{"another's name", as(issue("bob", "admin"), order(same)), grant.ErrForbidden},
		{"another cluster's", as(rae, order(func(u *sensorv1.Unlearn) { u.ClusterId = "c-other" })), pack.ErrForeign},
		{"ended", as(rae, order(func(u *sensorv1.Unlearn) { u.IssuedAt, u.NotAfter = 1, 2 })), pack.ErrTime},
		{"of the future", as(rae, order(func(u *sensorv1.Unlearn) { u.IssuedAt = now.Add(30 * time.Minute).UnixNano() })), pack.ErrTime},
		{"for too long", as(rae, order(func(u *sensorv1.Unlearn) { u.NotAfter = now.Add(2 * pack.UnlearnFor).UnixNano() })), pack.ErrTime},
		{"nobody", &sensorv1.SignedUnlearn{Payload: as(rae, order(same)).GetPayload()}, grant.ErrMalformed},
		{"nothing", nil, pack.ErrMalformed},
	} {
		if _, _, err := pack.VerifyUnlearn(tt.signed, ca.Roots(), linktest.Cluster, now); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	for name, change := range map[string]func(*sensorv1.Unlearn){
		"two ways":     func(u *sensorv1.Unlearn) { u.Since = 1 },
		"no way":       func(u *sensorv1.Unlearn) { u.Subject = nil },
		"a short key":  func(u *sensorv1.Unlearn) { u.Subject, u.Keys = nil, [][]byte{{1}} },
		"no host":      func(u *sensorv1.Unlearn) { u.Host = "" },
		"a long image": func(u *sensorv1.Unlearn) { u.Subject = make([]byte, pack.MaxName+1) },
	} {
		if _, err := pack.SignUnlearn(rae.PrivateKey.(crypto.Signer), rae.Certificate, order(change)); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	payload, _ := pack.Encode(good(time.Unix(1_700_000_000, 0)))
	f.Add(payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := pack.Decode(payload)
		if err != nil {
			return
		}
		again, err := pack.Encode(p)
		if err != nil || string(again) != string(payload) {
			t.Errorf("two encodings of one pack: %v", err)
		}
	})
}
