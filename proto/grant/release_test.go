package grant_test

import (
	"crypto"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// aRelease is a signed release of h-1 that a change was made to before it was signed.
func aRelease(t testing.TB, ca *linktest.CA, now time.Time, change func(*sensorv1.Grant)) *sensorv1.SignedGrant {
	t.Helper()
	g := order(now)
	g.Action, g.LeaseSeconds, g.Operator = sensorv1.Action_ACTION_RELEASE, 0, "alice"
	set, err := grant.Address(g, "h-1")
	if err != nil {
		t.Fatal(err)
	}
	change(g)
	cert := ca.IssueBetween(link.KindOperator, "alice", "responder", now.Add(-time.Hour), now.Add(time.Hour))
	signed, err := grant.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, g)
	if err != nil {
		t.Fatal(err)
	}
	signed.Proof = set.Prove("h-1")
	return signed
}

// Ensure a release survives being carried by people, and that nothing else can be
// carried in that way.
func TestReleaseToken(t *testing.T) {
	now := time.Now()
	ca := linktest.NewCA(t)
	signed := aRelease(t, ca, now, func(*sensorv1.Grant) {})
	text, err := grant.ReleaseToken(signed)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "vdr1.") || strings.ContainsAny(text, " \n+/=") {
		t.Errorf("form: %q", text)
	}
	for _, copied := range []string{text, "\n" + text + "  \n", text[:40] + "\r\n  " + text[40:]} {
		got, err := grant.ParseReleaseToken(copied)
		if err != nil || !proto.Equal(got, signed) {
			t.Errorf("%q: %v", copied, err)
			continue
		}
		if _, _, err := grant.Verify(got, ca.Roots(), linktest.Cluster, now); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "vdr1.", "vdt2" + text[4:], text[:len(text)-40], text + "A", "vdr1." + strings.Repeat("A", grant.MaxReleaseToken)} {
		if _, err := grant.ParseReleaseToken(bad); !errors.Is(err, grant.ErrReleaseToken) && !errors.Is(err, grant.ErrMalformed) {
			t.Errorf("%.20q…: got %v", bad, err)
		}
	}
	for name, signed := range map[string]*sensorv1.SignedGrant{
		"an isolation": aRelease(t, ca, now, func(g *sensorv1.Grant) { g.Action = sensorv1.Action_ACTION_ISOLATE }),
		"two hosts":    aRelease(t, ca, now, func(g *sensorv1.Grant) { _, _ = grant.Address(g, "h-1", "h-2") }),
		"two days":     aRelease(t, ca, now, func(g *sensorv1.Grant) { g.NotAfter = g.GetIssuedAt() + int64(48*time.Hour) }),
		"nobody's":     {Payload: signed.GetPayload(), Proof: signed.GetProof()},
		"not proved":   {Payload: signed.GetPayload(), Signatures: signed.GetSignatures()},
		"nothing":      {},
	} {
		if _, err := grant.ReleaseToken(signed); !errors.Is(err, grant.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseReleaseToken(f *testing.F) {
	ca := linktest.NewCA(f)
	text, err := grant.ReleaseToken(aRelease(f, ca, time.Now(), func(*sensorv1.Grant) {}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("vdr1.")
	f.Fuzz(func(t *testing.T, text string) {
		signed, err := grant.ParseReleaseToken(text)
		if err != nil {
			return
		}
		again, err := grant.ReleaseToken(signed)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := grant.ParseReleaseToken(again); err != nil || !proto.Equal(back, signed) {
			t.Fatalf("written back: %v", err)
		}
	})
}
