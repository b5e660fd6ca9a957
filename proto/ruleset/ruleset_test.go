package ruleset_test

import (
	"crypto"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func set(at time.Time) *sensorv1.RuleSet {
	return &sensorv1.RuleSet{ClusterId: linktest.Cluster, Version: 1, Author: "ann", IssuedAt: at.UnixNano(), Reason: "test",
		Files: []*sensorv1.RuleFile{{Path: "b/two.yml", Text: []byte("two")}, {Path: "a.yml", Text: []byte("one")}}}
}

// Ensure an admin's set is accepted, in one encoding, and nothing else is.
func TestVerify(t *testing.T) {
	now := time.Now()
	ca, foreign := linktest.NewCA(t), linktest.NewCA(t)
	sign := func(ca *linktest.CA, id, role string, change func(*sensorv1.RuleSet)) *sensorv1.SignedRules {
		t.Helper()
		cert := ca.IssueBetween(link.KindOperator, id, role, now.Add(-2*time.Hour), now.Add(time.Hour))
		s := set(now)
		if change != nil {
			change(s)
		}
		signed, err := ruleset.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, s)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	good := sign(ca, "ann", "admin", nil)
	altered := sign(ca, "ann", "admin", nil)
	altered.Payload, _ = ruleset.Encode(&sensorv1.RuleSet{ClusterId: linktest.Cluster, Version: 1, Author: "ann", IssuedAt: now.UnixNano()})
	unknown := sign(ca, "ann", "admin", nil)
	unknown.Payload = append(unknown.Payload, 0x98, 0x1f, 1) // field 499
	cert := ca.IssueBetween(link.KindOperator, "ann", "admin", now.Add(-time.Hour), now.Add(time.Hour))
	asGrant := sign(ca, "ann", "admin", nil)
	asGrant.Signature, _ = grant.SignPayload(cert.PrivateKey.(crypto.Signer), cert.Certificate, asGrant.GetPayload())
	for _, c := range []struct {
		name   string
		signed *sensorv1.SignedRules
		want   error
	}{
		{"an admin's", good, nil},
		{"nothing", nil, ruleset.ErrMalformed},
		{"another payload", altered, grant.ErrSignature},
		{"an unknown field", unknown, ruleset.ErrMalformed},
		{"signed as a grant", asGrant, grant.ErrSignature},
		{"a responder's", sign(ca, "ann", "responder", nil), ruleset.ErrForbidden},
		{"another's name", sign(ca, "bob", "admin", nil), ruleset.ErrForbidden},
		{"a stranger's", sign(foreign, "ann", "admin", nil), grant.ErrUntrusted},
		{"another cluster's", sign(ca, "ann", "admin", func(s *sensorv1.RuleSet) { s.ClusterId = "c-other" }), ruleset.ErrForeign},
		{"from the future", sign(ca, "ann", "admin", func(s *sensorv1.RuleSet) { s.IssuedAt = now.Add(time.Hour / 2).UnixNano() }), ruleset.ErrTime},
	} {
		got, _, err := ruleset.Verify(c.signed, ca.Roots(), linktest.Cluster, now)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if err == nil && got.GetFiles()[0].GetPath() != "a.yml" {
			t.Errorf("%s: its files are not in order", c.name)
		}
	}
	old := sign(ca, "ann", "admin", func(s *sensorv1.RuleSet) { s.IssuedAt = now.Add(-90 * time.Minute).UnixNano() })
	if _, _, err := ruleset.VerifyNew(old, ca.Roots(), linktest.Cluster, now); !errors.Is(err, ruleset.ErrTime) {
		t.Errorf("an old one is pushed: %v", err)
	}
}

// Ensure what is no set, or is larger than hosts take, is refused before it is signed.
func TestEncodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*sensorv1.RuleSet){
		"no version":         func(s *sensorv1.RuleSet) { s.Version = 0 },
		"a second alone":     func(s *sensorv1.RuleSet) { s.Version = 2 },
		"back to itself":     func(s *sensorv1.RuleSet) { s.Base, s.BaseDigest = 1, make([]byte, 32) },
		"back to a name":     func(s *sensorv1.RuleSet) { s.BaseDigest = make([]byte, 32) },
		"a long soak":        func(s *sensorv1.RuleSet) { s.SoakSeconds = 1 << 31 },
		"above its folder":   func(s *sensorv1.RuleSet) { s.Files[0].Path = "../x.yml" },
		"an absolute path":   func(s *sensorv1.RuleSet) { s.Files[0].Path = "/x.yml" },
		"a path that drives": func(s *sensorv1.RuleSet) { s.Files[0].Path = "a\x1b[31m.yml" },
		"twice":              func(s *sensorv1.RuleSet) { s.Files[0].Path = "a.yml" },
		"too large":          func(s *sensorv1.RuleSet) { s.Files[0].Text = make([]byte, ruleset.MaxBytes+1) },
		"too many": func(s *sensorv1.RuleSet) {
			for i := range ruleset.MaxFiles {
				s.Files = append(s.Files, &sensorv1.RuleFile{Path: fmt.Sprintf("n%d.yml", i)})
			}
		},
	} {
		s := set(time.Now())
		change(s)
		if _, err := ruleset.Encode(s); !errors.Is(err, ruleset.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Ensure a host's place spreads the fleet evenly over the rings, and that rings only grow.
func TestRings(t *testing.T) {
	count := make([]int, len(ruleset.Rings))
	const hosts = 20000
	for i := range hosts {
		id := fmt.Sprintf("h-%d", i)
		ring := ruleset.RingOf(ruleset.Place(id))
		for r := range ruleset.Rings {
			if covered := ruleset.Covers(ruleset.Rolling, r, "", id); covered != (r >= ring) {
				t.Fatalf("%s of ring %d: covered %t at ring %d", id, ring, covered, r)
			} else if covered {
				count[r]++
			}
		}
	}
	for r, percent := range ruleset.Rings {
		if want := hosts * int(percent) / 100; count[r] < want*8/10 || count[r] > want*12/10 {
			t.Errorf("ring %d has %d of %d hosts, want %d %%", r, count[r], hosts, percent)
		}
	}
	if !ruleset.Covers(ruleset.Rolling, 0, "h-1", "h-1") || ruleset.Covers(ruleset.Halted, 3, "h-1", "h-1") {
		t.Error("the first host is not in the first ring, or has what was halted")
	}
}

// Ensure hostile files are told of and nothing more.
func TestLintHostile(t *testing.T) {
	const head = "logsource: {category: process_creation, product: linux}\ndetection: {s: {CommandLine|re: "
	for name, text := range map[string]string{
		"a bomb":   "title: x\n" + head + "'((a{1,100}){1,100}){1,100}'}, condition: s}\n",
		"a cycle":  "title: X\nname: x\ncorrelation: {type: event_count, rules: x, timespan: 1m, condition: {gte: 2}}\n",
		"deep":     strings.Repeat("[", 4096),
		"anchors":  "a: &a [1]\nb: [*a, *a]\n",
		"no rule":  "\x00\xff",
		"too long": "title: " + strings.Repeat("x", 1<<19),
	} {
		report := ruleset.Lint([]ruleset.File{{Path: "x.yml", Raw: []byte(text)}})
		if len(report.Rules) != 0 || report.Worst()[ruleset.Refused]+report.Worst()[ruleset.Unsupported] == 0 {
			t.Errorf("%s: %d rules, notes %v", name, len(report.Rules), report.Notes)
		}
	}
}
