package sensor

import (
	"crypto"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure that an intent which is taken is told at once, once, and that one which is not
// taken, or is held already, is not.
func TestIntentIsTold(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	admin := ca.IssueBetween(link.KindOperator, "ann", "admin", now.Add(-time.Hour), now.Add(time.Hour))
	sign := func(version uint64, previous []byte, off bool) *sensorv1.SignedIntent {
		signed, err := intent.Sign(admin.PrivateKey.(crypto.Signer), admin.Certificate, &sensorv1.Intent{
			ClusterId: linktest.Cluster, Version: version, Previous: previous, AutomationOff: off, Author: "ann", IssuedAt: time.Now().UnixNano()})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	path := filepath.Join(t.TempDir(), "intent.json")
	book := openIntent(path, linktest.Cluster, "h-aaaaaaaaaaaa", ca.Roots, nil, slog.New(slog.DiscardHandler))
	want := func(what string, told bool, version uint64) {
		t.Helper()
		select {
		case <-book.took:
			if !told {
				t.Errorf("%s: told", what)
			}
		default:
			if told {
				t.Errorf("%s: not told", what)
			}
		}
		if policy, _ := book.current(); policy.Version() != version {
			t.Errorf("%s: version %d is in force, want %d", what, policy.Version(), version)
		}
	}
	want("at the start", false, 0)
	one := sign(1, nil, false)
	book.take(one, map[string]string{"role": "web"})
	want("the first", true, 1)
	book.take(one, nil)
	want("the same again", false, 1)
	book.take(nil, map[string]string{"role": "db"})
	want("labels alone", false, 1)
	two := sign(2, intent.Digest(one.GetPayload()), true)
	three := sign(3, intent.Digest(two.GetPayload()), false)
	forged := sign(4, intent.Digest(three.GetPayload()), false)
	forged.Signature.Signature[0] ^= 1
	book.take(forged, nil)
	want("a forged one", false, 1)
	book.take(two, nil)
	book.take(three, nil)
	want("two at once", true, 3)
	want("two at once, again", false, 3)
	book.take(two, nil)
	want("an older one", false, 3)
}
