package sensor

import (
	"crypto"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
)

// rulesBy signs sets of rules, each after the one before.
type rulesBy struct {
	t     *testing.T
	admin tls.Certificate
	last  []byte
	at    time.Time
}

func (r *rulesBy) sign(version uint64, base *sensorv1.SignedRules, text string) *sensorv1.SignedRules {
	r.t.Helper()
	r.at = r.at.Add(time.Second)
	set := &sensorv1.RuleSet{ClusterId: linktest.Cluster, Version: version, Author: "ann", IssuedAt: r.at.UnixNano(),
		Files: []*sensorv1.RuleFile{{Path: "a.yml", Text: []byte(text)}}}
	if version > 1 {
		set.Previous = ruleset.Digest(r.last)
	}
	if base != nil {
		before, err := ruleset.Decode(base.GetPayload())
		if err != nil {
			r.t.Fatal(err)
		}
		set.Base, set.BaseDigest = before.GetVersion(), ruleset.Digest(base.GetPayload())
	}
	signed, err := ruleset.Sign(r.admin.PrivateKey.(crypto.Signer), r.admin.Certificate, set)
	if err != nil {
		r.t.Fatal(err)
	}
	r.last = signed.GetPayload()
	return signed
}

// Ensure a host uses the newest set that it was ever shown, or the one that this names, and
// nothing else, whatever a node says and across restarts.
func TestRuleBook(t *testing.T) {
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	now := time.Now()
	issue := func(ca *linktest.CA, role string) tls.Certificate {
		return ca.IssueBetween(link.KindOperator, "ann", role, now.Add(-time.Hour), now.Add(time.Hour))
	}
	by := &rulesBy{t: t, admin: issue(ca, "admin"), at: now.Add(-time.Minute)}
	one := by.sign(1, nil, "one")
	two := by.sign(2, one, "two")
	three := by.sign(3, one, "three")
	stranger := &rulesBy{t: t, admin: issue(foreign, "admin"), at: now, last: by.last}
	forged := stranger.sign(4, one, "forged")
	stranger.admin = issue(ca, "responder")
	responder := stranger.sign(4, one, "a responder's")
	twice := &rulesBy{t: t, admin: by.admin, at: now, last: two.GetPayload()}
	other := twice.sign(3, one, "another third")
	path := filepath.Join(t.TempDir(), "rules.json")
	revoked := error(nil)
	open := func() *ruleBook {
		b := openRules(path, linktest.Cluster, ca.Roots, slog.New(slog.DiscardHandler))
		b.revoked = func([][]byte) error { return revoked }
		return b
	}
	book := open()
	obey := func(what string, want string, use uint64, sets ...*sensorv1.SignedRules) {
		t.Helper()
		book.take(&sensorv1.Rules{Sets: sets, Use: use})
		set, due, err := book.next()
		got := "refused"
		switch {
		case err == nil && set.Version == 0:
			got = "none"
		case err == nil:
			got = string(set.Files[0].Raw)
		}
		if got != want {
			t.Errorf("%s: uses %q, want %q (%v)", what, got, want, err)
		}
		if err == nil && due {
			book.used(set.Version, nil, 0, nil)
		}
	}
	obey("nothing is there", "none", 0)
	obey("what is not sent", "refused", 1)
	obey("the first", "one", 1, one)
	obey("a stranger's", "refused", 4, forged)
	obey("a responder's", "refused", 4, responder)
	obey("the third, over two that were missed", "three", 3, three)
	obey("back to what it names", "one", 1)
	obey("the third again", "three", 3, three)
	obey("one between", "refused", 2, two)
	obey("another third", "refused", 3, other)
	obey("none at all", "refused", 0)
	book = open()
	if held := book.held(); held.GetNewest() != 3 {
		t.Errorf("after a start version %d is held", held.GetNewest())
	}
	obey("an older one after a start", "refused", 2, two)
	revoked = errors.New("ann is revoked")
	obey("a revoked operator's", "refused", 4, by.sign(4, one, "four"))
	obey("what is held, whoever signed it", "three", 3)
	revoked = nil

	// A book that was tampered with is set aside.
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(raw), `"newest":"C`, `"newest":"D`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if book = open(); book.held().GetNewest() != 0 {
		t.Error("a changed book is believed")
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Errorf("it was not kept: %v", err)
	}
}

// Ensure a set that cannot be put in use at a start is left for the one before, and that one
// under which the sensor ends again and again is too.
func TestRuleBookStart(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	by := &rulesBy{t: t, admin: ca.IssueBetween(link.KindOperator, "ann", "admin", now.Add(-time.Hour), now.Add(time.Hour)), at: now.Add(-time.Minute)}
	one := by.sign(1, nil, "one")
	two := by.sign(2, one, "two")
	path := filepath.Join(t.TempDir(), "rules.json")
	open := func() *ruleBook { return openRules(path, linktest.Cluster, ca.Roots, slog.New(slog.DiscardHandler)) }
	book := open()
	book.take(&sensorv1.Rules{Sets: []*sensorv1.SignedRules{one, two}, Use: 2})
	if set, due, err := book.next(); err != nil || !due || set.Version != 2 {
		t.Fatalf("version %d, %t, %v", set.Version, due, err)
	}
	refuse := uint64(2)
	begin := func() *sensorv1.RulesHeld {
		book = open()
		book.begin(func(set detect.Set) ([]error, time.Duration, error) {
			if set.Version == refuse {
				return nil, 0, errors.New("it cannot be")
			}
			return nil, 0, nil
		})
		return book.held()
	}
	if held := begin(); held.GetVersion() != 1 || held.GetFailedVersion() != 2 || held.GetFailure() == "" {
		t.Errorf("in use is %v", held)
	}
	refuse = 0
	if held := begin(); held.GetVersion() != 2 {
		t.Errorf("in use is %v", held)
	}
	if held := begin(); held.GetVersion() != 1 || !strings.Contains(held.GetFailure(), "ended 3 times") {
		t.Errorf("after a start too many: %v", held)
	}
	// A node that still has the others use it does not bring it back, nor does another start.
	for range 2 {
		book.take(&sensorv1.Rules{Use: 2})
		if set, due, err := book.next(); err == nil || due || set.Version != 2 {
			t.Errorf("what was given up comes back: version %d, %t, %v", set.Version, due, err)
		}
		if held := begin(); held.GetVersion() != 1 || held.GetFailedVersion() != 2 || !strings.Contains(held.GetFailure(), "ended 3 times") {
			t.Errorf("at another start: %v", held)
		}
	}
	book.take(&sensorv1.Rules{Use: 1})
	if set, _, err := book.next(); err != nil || set.Version != 1 {
		t.Errorf("back to version %d, %v", set.Version, err)
	}
	book.take(&sensorv1.Rules{Use: 2})
	if _, _, err := book.next(); err == nil {
		t.Error("what was given up comes back over the one before")
	}
	book.take(&sensorv1.Rules{Sets: []*sensorv1.SignedRules{by.sign(3, one, "three")}, Use: 3})
	if set, due, err := book.next(); err != nil || !due || set.Version != 3 {
		t.Errorf("what comes after: version %d, %t, %v", set.Version, due, err)
	}
}

// Ensure that a set which all sensors live with has a way back from the next release, which
// may not, and that what one release gave up the next one tries.
func TestRuleBookUpgrade(t *testing.T) {
	ca := linktest.NewCA(t)
	now := time.Now()
	by := &rulesBy{t: t, admin: ca.IssueBetween(link.KindOperator, "ann", "admin", now.Add(-time.Hour), now.Add(time.Hour)), at: now.Add(-time.Minute)}
	one := by.sign(1, nil, "one")
	path := filepath.Join(t.TempDir(), "rules.json")
	var book *ruleBook
	begin := func(release string) uint64 {
		book = openRules(path, linktest.Cluster, ca.Roots, slog.New(slog.DiscardHandler))
		book.release = release
		book.begin(func(detect.Set) ([]error, time.Duration, error) { return nil, 0, nil })
		return book.held().GetVersion()
	}
	begin("1.0")
	book.take(&sensorv1.Rules{Sets: []*sensorv1.SignedRules{one, by.sign(2, one, "two")}, Use: 2})
	if _, _, err := book.next(); err != nil {
		t.Fatal(err)
	}
	book.used(2, nil, 0, nil)
	book.settled()
	for range 2 * maxTries { // whoever stops it is no fault of the set's
		if v := begin("1.0"); v != 2 {
			t.Fatalf("after a stop version %d is in use", v)
		}
		book.stopped()
	}
	for range maxTries {
		if v := begin("1.1"); v != 2 {
			t.Fatalf("version %d is in use", v)
		}
	}
	for range 2 {
		if v := begin("1.1"); v != 1 {
			t.Errorf("after %d ends of what had settled version %d is in use", maxTries, v)
		}
		book.settled()
	}
	if v := begin("1.2"); v != 2 {
		t.Errorf("the next release uses version %d", v)
	}
}

// Ensure an order that replaces one which waits does not lose the sets that came with it.
func TestWaitingOrderKeepsItsSets(t *testing.T) {
	ca, now := linktest.NewCA(t), time.Now()
	by := &rulesBy{t: t, admin: ca.IssueBetween(link.KindOperator, "ann", "admin", now.Add(-time.Hour), now.Add(time.Hour)), at: now.Add(-time.Minute)}
	b := openRules(filepath.Join(t.TempDir(), "rules.json"), linktest.Cluster, ca.Roots, slog.New(slog.DiscardHandler))
	b.take(&sensorv1.Rules{Use: 1, Sets: []*sensorv1.SignedRules{by.sign(1, nil, "title: x\n")}})
	b.take(&sensorv1.Rules{Use: 1})
	if set, due, err := b.next(); err != nil || !due || set.Version != 1 {
		t.Errorf("got version %d, %v, %v", set.Version, due, err)
	}
}
