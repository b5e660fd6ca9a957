package pack_test

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func disposition(change func(*sensorv1.Disposition)) *sensorv1.Disposition {
	now := time.Now()
	d := &sensorv1.Disposition{Id: "dsp-1", ClusterId: linktest.Cluster, Host: "h-1", Incident: "inc-1", Findings: []string{"a", "b"}, Operator: "hal",
		IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano()}
	change(d)
	return d
}

// Ensure what a person says of findings counts from who may close incidents, in its time, and as nothing else.
func TestVerifyDisposition(t *testing.T) {
	now := time.Now()
	ca := linktest.NewCA(t)
	issue := func(id, role string) tls.Certificate {
		return ca.IssueBetween(link.KindOperator, id, role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	as := func(cert tls.Certificate, d *sensorv1.Disposition) *sensorv1.SignedDisposition {
		signed, err := pack.SignDisposition(cert.PrivateKey.(crypto.Signer), cert.Certificate, d)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	same := func(*sensorv1.Disposition) {}
	hal := issue("hal", "hunter")
	other := as(hal, disposition(func(d *sensorv1.Disposition) { d.Malicious = true }))
	asUnlearn, err := grant.SignAs("vedette-unlearn-v1\x00", hal.PrivateKey.(crypto.Signer), hal.Certificate, as(hal, disposition(same)).GetPayload())
	if err != nil {
		t.Fatal(err)
	}
	good := as(hal, disposition(same))
	for _, tt := range []struct {
		name   string
		signed *sensorv1.SignedDisposition
		want   error
	}{
		{"a hunter", good, nil},
		{"a viewer", as(issue("hal", "viewer"), disposition(same)), grant.ErrForbidden},
		{"another's name", as(issue("bob", "admin"), disposition(same)), grant.ErrForbidden},
		{"another's signature", &sensorv1.SignedDisposition{Payload: good.GetPayload(), Signature: other.GetSignature()}, grant.ErrSignature},
		{"signed as an order to forget", &sensorv1.SignedDisposition{Payload: good.GetPayload(), Signature: asUnlearn}, grant.ErrSignature},
		{"another cluster's", as(hal, disposition(func(d *sensorv1.Disposition) { d.ClusterId = "c-other" })), pack.ErrForeign},
		{"ended", as(hal, disposition(func(d *sensorv1.Disposition) { d.IssuedAt, d.NotAfter = 1, 2 })), pack.ErrTime},
		{"of the future", as(hal, disposition(func(d *sensorv1.Disposition) { d.IssuedAt = now.Add(30 * time.Minute).UnixNano() })), pack.ErrTime},
		{"for too long", as(hal, disposition(func(d *sensorv1.Disposition) { d.NotAfter = now.Add(2 * pack.UnlearnFor).UnixNano() })), pack.ErrTime},
		{"nobody", &sensorv1.SignedDisposition{Payload: good.GetPayload()}, grant.ErrMalformed},
		{"nothing", nil, pack.ErrMalformed},
	} {
		if _, _, err := pack.VerifyDisposition(tt.signed, ca.Roots(), linktest.Cluster, now); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	many := make([]string, pack.MaxDisposed+1)
	for i := range many {
		many[i] = fmt.Sprintf("f-%04d", i)
	}
	for name, change := range map[string]func(*sensorv1.Disposition){
		"another's id":  func(d *sensorv1.Disposition) { d.Id = "ul-1" },
		"a longer id":   func(d *sensorv1.Disposition) { d.Id = pack.DispositionID + strings.Repeat("x", 61) },
		"no findings":   func(d *sensorv1.Disposition) { d.Findings = nil },
		"too many":      func(d *sensorv1.Disposition) { d.Findings = many },
		"one twice":     func(d *sensorv1.Disposition) { d.Findings = []string{"a", "a"} },
		"in disorder":   func(d *sensorv1.Disposition) { d.Findings = []string{"b", "a"} },
		"an empty id":   func(d *sensorv1.Disposition) { d.Findings = []string{""} },
		"a long id":     func(d *sensorv1.Disposition) { d.Findings = []string{strings.Repeat("x", 65)} },
		"no host":       func(d *sensorv1.Disposition) { d.Host = "" },
		"no incident":   func(d *sensorv1.Disposition) { d.Incident = "" },
		"a long host":   func(d *sensorv1.Disposition) { d.Host = strings.Repeat("x", pack.MaxName+1) },
		"ends at first": func(d *sensorv1.Disposition) { d.NotAfter = d.GetIssuedAt() },
	} {
		if _, err := pack.SignDisposition(hal.PrivateKey.(crypto.Signer), hal.Certificate, disposition(change)); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := pack.SignDisposition(hal.PrivateKey.(crypto.Signer), hal.Certificate, disposition(func(d *sensorv1.Disposition) { d.Findings = many[1:] })); err != nil {
		t.Errorf("as many as may be: %v", err)
	}
}

func FuzzDecodeDisposition(f *testing.F) {
	payload, _ := proto.MarshalOptions{Deterministic: true}.Marshal(disposition(func(*sensorv1.Disposition) {}))
	f.Add(payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := pack.DecodeDisposition(payload)
		if err != nil {
			return
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
		if err != nil || string(again) != string(payload) || len(d.GetFindings()) > pack.MaxDisposed {
			t.Errorf("two encodings of one disposition: %v", err)
		}
	})
}
