package intent_test

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var testGroups = []*sensorv1.Group{
	{Name: "web", Labels: map[string]string{"role": "web"}},
	{Name: "db", Labels: map[string]string{"role": "db"}},
	{Name: "edge", Labels: map[string]string{"role": "web", "site": "edge"}},
}

func compile(t testing.TB, in *sensorv1.Intent) *intent.Policy {
	t.Helper()
	p, err := intent.Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const ladder = `
@id("web-at-once")
permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
when { context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("0.9")) };
@id("web-veto")
permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
when { context.level <= 3 && context.confidence.greaterThanOrEqual(decimal("0.7")) };
@id("freeze-on-approval")
permit (principal, action == Vedette::Action::"freeze", resource) when { context.level <= 2 };
@id("edge-slow")
forbid (principal, action, resource in Vedette::Group::"edge") when { context.level > 2 };
@id("never-kill")
forbid (principal, action == Vedette::Action::"kill", resource);
@id("not-while-learning")
forbid (principal, action, resource) when { context.level > 1 && context.learning };
@id("labelled")
permit (principal, action == Vedette::Action::"block-image", resource)
when { context.level <= 4 && resource.hasTag("tier") && resource.getTag("tier") == "lab" && context.techniques.contains("T1059") };
`

// Ensure the ladder is climbed as the policies say.
func TestDecide(t *testing.T) {
	in := &sensorv1.Intent{
		Policy: ladder, Groups: testGroups,
		Governor: &sensorv1.Governor{Protected: []*sensorv1.Group{{Name: "vital", Labels: map[string]string{"vital": "yes"}}}, ProtectedHosts: []string{"h-dns"}},
	}
	p := compile(t, in)
	host := func(labels ...string) intent.Host {
		h := intent.Host{ID: "h-1", Name: "one", Labels: map[string]string{}}
		for _, l := range labels {
			key, value, _ := strings.Cut(l, "=")
			h.Labels[key] = value
		}
		return h
	}
	isolate, freeze, kill := sensorv1.Action_ACTION_ISOLATE, sensorv1.Action_ACTION_FREEZE, sensorv1.Action_ACTION_KILL
	block := sensorv1.Action_ACTION_BLOCK_IMAGE
	for _, c := range []struct {
		name     string
		request  intent.Request
		level    int
		policies string
		held     string
	}{
		{"sure", intent.Request{Action: isolate, Host: host("role=web"), Confidence: 0.95}, 4, "web-at-once", ""},
		{"at the limit", intent.Request{Action: isolate, Host: host("role=web"), Confidence: 0.9}, 4, "web-at-once", ""},
		{"rounded to it", intent.Request{Action: isolate, Host: host("role=web"), Confidence: 0.89995}, 4, "web-at-once", ""},
		{"below it", intent.Request{Action: isolate, Host: host("role=web"), Confidence: 0.8999}, 3, "web-veto", ""},
		{"unsure", intent.Request{Action: isolate, Host: host("role=web"), Confidence: 0.5}, 1, "", ""},
		{"no number", intent.Request{Action: isolate, Host: host("role=web"), Confidence: math.NaN()}, 1, "", ""},
		{"more than sure", intent.Request{Action: isolate, Host: host("role=web"), Confidence: 1.01}, 1, "", ""},
		{"infinite", intent.Request{Action: isolate, Host: host("role=web"), Confidence: math.Inf(1)}, 1, "", ""},
		{"another group", intent.Request{Action: isolate, Host: host("role=db"), Confidence: 1}, 1, "", ""},
		{"capped by a forbid", intent.Request{Action: isolate, Host: host("role=web", "site=edge"), Confidence: 1}, 2, "edge-slow web-at-once web-veto", ""},
		{"approval", intent.Request{Action: freeze, Host: host("role=db")}, 2, "freeze-on-approval", ""},
		{"never", intent.Request{Action: kill, Host: host("role=db"), Confidence: 1}, 0, "never-kill", ""},
		{"learning", intent.Request{Action: freeze, Host: host("role=db"), Learning: true}, 1, "not-while-learning", ""},
		{"a label", intent.Request{Action: block, Host: host("tier=lab"), Techniques: []string{"T1059"}}, 4, "labelled", ""},
		{"another label", intent.Request{Action: block, Host: host("tier=x"), Techniques: []string{"T1059"}}, 1, "", ""},
		{"no label", intent.Request{Action: block, Host: host(), Techniques: []string{"T1059"}}, 1, "", ""},
		{"protected group", intent.Request{Action: isolate, Host: host("role=web", "vital=yes"), Confidence: 1}, 1, "web-at-once", "group vital"},
		{"protected label", intent.Request{Action: isolate, Host: host("role=web", "protected=true"), Confidence: 1}, 1, "web-at-once", "label protected=true"},
		{"protected host", intent.Request{Action: freeze, Host: intent.Host{ID: "h-dns"}}, 1, "freeze-on-approval", "h-dns"},
		{"protected by its name", intent.Request{Action: freeze, Host: intent.Host{ID: "h-2", Name: "h-dns"}}, 1, "freeze-on-approval", "h-dns"},
		{"no action", intent.Request{Host: host("role=web"), Confidence: 1}, 0, "", "unknown"},
	} {
		v := p.Decide(c.request)
		if v.Level != c.level || strings.Join(v.Policies, " ") != c.policies || !strings.Contains(v.Held, c.held) || (v.Held == "") != (c.held == "") || v.Errors != nil {
			t.Errorf("%s: got %+v, want level %d by %q, held %q", c.name, v, c.level, c.policies, c.held)
		}
	}
	in.AutomationOff = true
	if v := compile(t, in).Decide(intent.Request{Action: isolate, Host: host("role=web"), Confidence: 1}); v.Level != 1 || v.Wanted != 4 || !strings.Contains(v.Held, "automation_off") {
		t.Errorf("switched off: got %+v", v)
	}
}

// Ensure nothing acts by itself until people raise it.
func TestDefaults(t *testing.T) {
	p := compile(t, nil)
	for _, action := range intent.Actions() {
		if v := p.Decide(intent.Request{Action: action, Host: intent.Host{ID: "h"}, Confidence: 1, Severity: "critical"}); !reflect.DeepEqual(v, intent.Verdict{Level: 1, Wanted: 1}) {
			t.Errorf("%s: got %+v", intent.ActionName(action), v)
		}
	}
}

// Ensure a policy that fails never lets anything through.
func TestDecideFailsClosed(t *testing.T) {
	const overflow = `(if context.tainted then 9223372036854775807 else 1) + context.level > 0`
	for _, c := range []struct {
		name, policy string
		level        int
	}{
		{"a forbid", `@id("all") permit (principal, action, resource); @id("bad") forbid (principal, action, resource) when { ` + overflow + ` && false };`, 1},
		{"a permit", `@id("bad") permit (principal, action, resource) when { ` + overflow + ` };`, 1},
		{"one permit of two", `@id("all") permit (principal, action, resource) when {context.level < 4}; @id("bad") permit (principal, action, resource) when { ` + overflow + ` };`, 3},
	} {
		v := compile(t, &sensorv1.Intent{Policy: c.policy}).Decide(intent.Request{Action: sensorv1.Action_ACTION_KILL, Tainted: true})
		if v.Level != c.level || len(v.Errors) != 1 || !strings.HasPrefix(v.Errors[0], "policy bad: ") {
			t.Errorf("%s: got %+v", c.name, v)
		}
	}
}

// conditions and scopes are what random policies are made of; some of them fail.
var (
	conditions = []string{
		`context.level <= 4`, `context.level <= 3`, `context.level <= 2`, `context.level <= 2`, `context.level > 2`, `context.confidence.greaterThanOrEqual(decimal("0.9"))`,
		`context.confidence.lessThan(decimal("0.5"))`, `context.severity == "critical"`, `["high","critical"].contains(context.severity)`,
		`context.kind != "follow-up"`, `context.techniques.contains("T1059")`, `context.techniques.containsAny(["T1003","T1059.004"])`,
		`context.tainted`, `!context.learning`, `context.losses`, `context.image like "/tmp/*"`, `context.traits.isEmpty()`,
		`context.user == context.account`, `resource.hasTag("site") && resource.getTag("site") == "edge"`, `resource.name like "web*"`,
		`resource in Vedette::Group::"edge"`, `resource == Vedette::Host::"h-1"`,
		`(if context.tainted then 9223372036854775807 else 1) + context.level > 0`,
	}
	scopes = []string{
		`principal, action, resource`, `principal, action == Vedette::Action::"isolate", resource`, `principal, action in [Vedette::Action::"kill", Vedette::Action::"freeze"], resource`,
		`principal == Vedette::Automation::"vedette", action, resource in Vedette::Group::"web"`, `principal, action, resource in Vedette::Group::"db"`,
	}
)

func anyPolicy(t *rapid.T) string { return anyPolicies(t, 12) }

func anyPolicies(t *rapid.T, most int) string {
	var b strings.Builder
	for i := range rapid.IntRange(0, most).Draw(t, "policies") {
		if rapid.Bool().Draw(t, "named") {
			fmt.Fprintf(&b, "@id(\"p-%d\")\n", i)
		}
		fmt.Fprintf(&b, "%s (%s)", rapid.SampledFrom([]string{"permit", "permit", "forbid"}).Draw(t, "effect"), rapid.SampledFrom(scopes).Draw(t, "scope"))
		if all := rapid.SliceOfN(rapid.SampledFrom(conditions), 0, 3).Draw(t, "conditions"); len(all) > 0 {
			fmt.Fprintf(&b, " %s { (%s) }", rapid.SampledFrom([]string{"when", "unless"}).Draw(t, "if"), strings.Join(all, ") "+rapid.SampledFrom([]string{"&&", "||"}).Draw(t, "how")+" ("))
		}
		b.WriteString(";\n")
	}
	return b.String()
}

func anyRequest(t *rapid.T) intent.Request {
	some := func(values ...string) []string {
		return rapid.SliceOfN(rapid.SampledFrom(values), 0, 3).Draw(t, "some")
	}
	pick := func(values ...string) string {
		return rapid.OneOf(rapid.SampledFrom(values), rapid.String()).Draw(t, "pick")
	}
	labels := map[string]string{}
	for _, key := range some("role", "site", "tier", "protected", "vital", "\xff") {
		labels[key] = pick("web", "db", "edge", "true", "yes")
	}
	return intent.Request{
		Action: rapid.SampledFrom(append(intent.Actions(), 0, 99)).Draw(t, "action"), Host: intent.Host{ID: pick("h-1", "h-2", "h-dns"), Name: pick("web-1", "h-dns"), Labels: labels},
		Confidence: rapid.OneOf(rapid.Float64Range(0, 1), rapid.Float64(), rapid.SampledFrom([]float64{0.9, 0.5, 0.89995, 1, math.NaN(), math.Inf(-1)})).Draw(t, "confidence"),
		Severity:   pick("low", "high", "critical"), Kind: pick("rule", "follow-up"), Rule: pick("r-1"), Techniques: some("T1059", "T1003", "T1059.004", "\xff"),
		Tainted: rapid.Bool().Draw(t, "tainted"), Learning: rapid.Bool().Draw(t, "learning"), Losses: rapid.Bool().Draw(t, "losses"),
		Image: pick("/tmp/x", "/bin/sh"), Traits: some("memfd", "deleted"), User: pick("root", "www"), Unit: pick("a.service"), Account: pick("root"),
	}
}

// Ensure the leader and an offline sensor, which hold the same bytes, say the same of 10,000
// requests and more, and say it twice.
func TestSameVerdicts(t *testing.T) {
	requests, levels := 0, map[int]int{}
	rapid.Check(t, func(rt *rapid.T) {
		in := first(testTime)
		in.Policy, in.Groups = anyPolicy(rt), testGroups
		in.Governor = &sensorv1.Governor{ProtectedHosts: []string{"h-dns"}, Protected: []*sensorv1.Group{{Name: "vital", Labels: map[string]string{"vital": "yes"}}}}
		in.AutomationOff = rapid.IntRange(0, 9).Draw(rt, "off") == 0
		payload, err := intent.Encode(in)
		if err != nil {
			rt.Fatal(err)
		}
		var both [2]*intent.Policy
		for i := range both {
			held, err := intent.Decode(slices.Clone(payload))
			if err != nil {
				rt.Fatal(err)
			}
			if both[i], err = intent.Compile(held); err != nil {
				rt.Fatalf("%v of\n%s", err, in.GetPolicy())
			}
		}
		for range 100 {
			r := anyRequest(rt)
			leader, sensor, again := both[0].Decide(r), both[1].Decide(r), both[1].Decide(r)
			if !reflect.DeepEqual(leader, sensor) || !reflect.DeepEqual(sensor, again) {
				rt.Fatalf("leader %+v\nsensor %+v\nagain %+v\nof %+v by\n%s", leader, sensor, again, r, in.GetPolicy())
			}
			requests++
			levels[leader.Level]++
		}
	})
	if requests < 10_000 {
		t.Errorf("only %d requests were compared", requests)
	}
	t.Logf("%d requests, by level %v", requests, levels)
}

// Ensure no policy whatever raises a protected host above a recommendation.
func TestProtected(t *testing.T) {
	requests := 0
	rapid.Check(t, func(rt *rapid.T) {
		p, err := intent.Compile(&sensorv1.Intent{
			Policy: anyPolicy(rt) + "@id(\"everything\") permit (principal, action, resource);", Groups: testGroups,
			Governor: &sensorv1.Governor{ProtectedHosts: []string{"h-dns"}, Protected: []*sensorv1.Group{{Name: "vital", Labels: map[string]string{"vital": "yes"}}}},
		})
		if err != nil {
			rt.Fatal(err)
		}
		for range 100 {
			r := anyRequest(rt)
			switch rapid.IntRange(0, 3).Draw(rt, "protection") {
			case 0:
				r.Host.ID = "h-dns"
			case 1:
				r.Host.Name = "h-dns"
			case 2:
				r.Host.Labels["vital"] = "yes"
			case 3:
				r.Host.Labels["protected"] = "true"
			}
			v := p.Decide(r)
			if v.Level > 1 || (v.Wanted > 1) != (v.Held != "" && intent.ActionName(r.Action) != "") {
				rt.Fatalf("got %+v of %+v", v, r)
			}
			requests++
		}
	})
	if requests < 10_000 {
		t.Errorf("only %d requests were tried", requests)
	}
}

func BenchmarkDecide(b *testing.B) {
	many := func(n int) string {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, `@id("p%d") permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
			when { context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("0.9")) && context.rule == "r-%d" };`, i, i)
		}
		return text.String()
	}
	for _, c := range []struct{ name, policy string }{{"none", ""}, {"7", ladder}, {"256", many(256)}} {
		b.Run("policies="+c.name, func(b *testing.B) {
			p, err := intent.Compile(&sensorv1.Intent{Policy: c.policy, Groups: testGroups})
			if err != nil {
				b.Fatal(err)
			}
			r := intent.Request{
				Action: sensorv1.Action_ACTION_ISOLATE, Host: intent.Host{ID: "h-1", Name: "web-1", Labels: map[string]string{"role": "web", "site": "a"}},
				Confidence: 0.8, Severity: "high", Kind: "rule", Rule: "r-7", Techniques: []string{"T1059", "T1059.004"}, Image: "/bin/sh",
			}
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(r)
			}
		})
	}
}
