package ruleset_test

import (
	"bytes"
	"crypto"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// FuzzDecode reads any payload: it is refused, or is the one encoding of a set that breaks no bound.
func FuzzDecode(f *testing.F) {
	payload, err := ruleset.Encode(set(time.Unix(1_700_000_000, 0)))
	if err != nil {
		f.Fatal(err)
	}
	next, err := ruleset.Encode(&sensorv1.RuleSet{ClusterId: "c", Version: 2, Author: "ann", IssuedAt: 1, Previous: ruleset.Digest(payload), Base: 1, BaseDigest: ruleset.Digest(payload)})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{payload, next, payload[:len(payload)/2], append(bytes.Clone(payload), 0x98, 0x1f, 1), nil, {0xff}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := ruleset.Decode(raw)
		if err != nil {
			return
		}
		again, err := ruleset.Encode(got)
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("decoded %x, which is encoded as %x, %v", raw, again, err)
		}
		if ruleset.Soak(got) <= 0 || ruleset.Soak(got) > ruleset.MaxSoak || ruleset.MaxFindings(got) <= 0 || len(got.GetFiles()) > ruleset.MaxFiles {
			t.Errorf("beyond its bounds: %v", got)
		}
		_ = ruleset.Follows(payload, payload, got)
		_ = ruleset.Content(got)
	})
}

// FuzzVerify gives it what a stranger could send: nothing that was not signed is taken.
func FuzzVerify(f *testing.F) {
	now := time.Now()
	ca := linktest.NewCA(f)
	cert := ca.IssueBetween(link.KindOperator, "ann", "admin", now.Add(-time.Hour), now.Add(time.Hour))
	signed, err := ruleset.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, set(now))
	if err != nil {
		f.Fatal(err)
	}
	raw, err := proto.Marshal(signed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add(bytes.Replace(raw, []byte("ann"), []byte("bob"), 1))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := &sensorv1.SignedRules{}
		if proto.Unmarshal(raw, got) != nil {
			return
		}
		if _, _, err := ruleset.Verify(got, ca.Roots(), linktest.Cluster, now); err == nil && !bytes.Equal(got.GetPayload(), signed.GetPayload()) {
			t.Errorf("taken: %x", got.GetPayload())
		}
	})
}
