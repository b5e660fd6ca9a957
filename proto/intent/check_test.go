package intent_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure what Cedar would let pass and never match is refused, with the word that was meant.
func TestCompileRefuses(t *testing.T) {
	when := func(condition string) string {
		return `permit (principal, action, resource) when { ` + condition + ` };`
	}
	for _, c := range []struct{ name, policy, want string }{
		{"no end", `permit (principal, action, resource)`, `";" is missing at the end`},
		{"no comma", "\n\npermit (principal action, resource);", `line 3, before column 25: the policy text is no Cedar: "," is missing before "action"`},
		{"no namespace", `permit (principal, action == Action::"kill", resource);`, `is written Vedette::Action::"kill"`},
		{"no such action", `permit (principal, action == Vedette::Action::"isolat", resource);`, `there is no action "isolat" (isolate is perhaps meant)`},
		{"no such action in a condition", when(`action == Vedette::Action::"isolat"`), "isolate is perhaps meant"},
		{"no such action in a list", `forbid (principal, action in [Vedette::Action::"kil"], resource);`, "kill is perhaps meant"},
		{"no such group", `forbid (principal, action, resource in Vedette::Group::"wbe");`, `there is no group "wbe" (web is perhaps meant)`},
		{"no such attribute", when(`context.confidenz == 3`), "context.confidence is perhaps meant"},
		{"no such test", when(`context has confidenz`), "context.confidence is perhaps meant"},
		{"a label as an attribute", when(`resource.labels.role == "web"`), `resource.hasTag("role") && resource.getTag("role") == "web"`},
		{"a label untested", when(`resource.getTag("role") == "web"`), `resource.hasTag("role") && resource.getTag("role") == "web"`},
		{"no such severity", when(`context.severity == "hihg"`), "high is perhaps meant"},
		{"no such severity in a list", when(`["critical", "hihg"].contains(context.severity)`), "high is perhaps meant"},
		{"confidence as a number", when(`context.confidence > 90`), `context.confidence.greaterThanOrEqual(decimal("0.9"))`},
		{"confidence as rubbish", when(`context.confidence.greaterThan(decimal("90%"))`), "90%"},
		{"another principal", `permit (principal == Vedette::Automation::"me", action, resource);`, `who acts is always Vedette::Automation::"vedette"`},
		{"another type", `permit (principal in User::"x", action, resource);`, "there is no entity type User"},
		{"types that do not fit", when(`context.level == "4"`), "not compatible"},
		{"no truth", when(`context.level`), "expected Bool"},
		{"an id twice", `@id("a") permit (principal, action, resource); @id("a") forbid (principal, action, resource);`, `the id "a" is that of line 1 already`},
		{"an id that is given", `permit (principal, action, resource); @id("policy0") forbid (principal, action, resource);`, `the id "policy0" is that of line 1 already`},
		{"an id of spaces", `@id("a b") permit (principal, action, resource);`, "other characters"},
		{"nesting", when(strings.Repeat("(", 3000) + "true" + strings.Repeat(")", 3000)), "brackets are open"},
		{"negations", when(strings.Repeat("!", 2000) + "true"), "negations"},
		{"one that is long", when(strings.Repeat("true || ", 2000) + "true"), "one policy has more than"},
		{"many", strings.Repeat("permit (principal,action,resource);", 300), "300 policies"},
		{"a book", strings.Repeat("// word\n", 10_000), "bytes, at most"},
	} {
		_, err := intent.Compile(&sensorv1.Intent{Policy: c.policy, Groups: testGroups})
		var invalid *intent.InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// Ensure the parts beside the policy are held to their bounds.
func TestPartsRefuse(t *testing.T) {
	label := map[string]string{"a": "b"}
	many := make([]*sensorv1.Group, intent.MaxGroups+1)
	for i := range many {
		many[i] = &sensorv1.Group{Name: fmt.Sprint(i), Labels: label}
	}
	open := func(prefix string, protocol, port uint32) *sensorv1.Intent {
		return &sensorv1.Intent{Jump: []*sensorv1.Opening{{Prefix: prefix, Protocol: protocol, Port: port}}}
	}
	for _, c := range []struct {
		name string
		in   *sensorv1.Intent
		want string
	}{
		{"a short veto", &sensorv1.Intent{VetoSeconds: 5}, "veto_seconds is 5"},
		{"a long veto", &sensorv1.Intent{VetoSeconds: 3601}, "veto_seconds is 3601"},
		{"a long lease", &sensorv1.Intent{LeaseSeconds: 86401}, "lease_seconds is 86401"},
		{"a group of all", &sensorv1.Intent{Groups: []*sensorv1.Group{{Name: "all"}}}, "would match every host"},
		{"a group twice", &sensorv1.Intent{Groups: []*sensorv1.Group{{Name: "a", Labels: label}}, Governor: &sensorv1.Governor{Protected: []*sensorv1.Group{{Name: "a", Labels: label}}}}, "two groups"},
		{"a group without a name", &sensorv1.Intent{Groups: []*sensorv1.Group{{Labels: label}}}, "needs a name"},
		{"an empty label", &sensorv1.Intent{Groups: []*sensorv1.Group{{Name: "a", Labels: map[string]string{"a": ""}}}}, "both sides"},
		{"many groups", &sensorv1.Intent{Groups: many}, "at most 256"},
		{"more than all", &sensorv1.Intent{Governor: &sensorv1.Governor{PermilleDay: 1001}}, "at most 1000"},
		{"a day below its minutes", &sensorv1.Intent{Governor: &sensorv1.Governor{Permille_10M: 100, PermilleDay: 50}}, "make the day's at least as much"},
		{"a host twice", &sensorv1.Intent{Governor: &sensorv1.Governor{ProtectedHosts: []string{"a", "a"}}}, "protected twice"},
		{"no prefix", open("10.0.0.1", 6, 22), "is no prefix"},
		{"bits", open("10.0.0.1/24", 6, 22), "write 10.0.0.0/24"},
		{"everybody", open("0.0.0.0/0", 6, 22), "is everybody"},
		{"no protocol", open("10.0.0.1/32", 1, 22), "6 is TCP"},
		{"no port", open("10.0.0.1/32", 6, 0), "from 1 to 65535"},
	} {
		if _, err := intent.Compile(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// Ensure a policy that can never matter is refused, and what is probably a mistake is said.
func TestCheck(t *testing.T) {
	permit := func(condition string) string {
		return `@id("p") permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web") when { context.confidence.greaterThan(decimal("0.5")) && ` + condition + ` };`
	}
	for _, c := range []struct{ name, policy, refused, warned string }{
		{"as it should be", permit(`context.level <= 4`), "", ""},
		{"all that can be mentioned", permit(`context.level <= 4 && context.severity == "high" && context.kind == "rule" && context.rule == "r" && context.techniques.containsAll(["T1059","T1003"]) && !context.techniques.contains("T1001") &&
			context.tainted && !context.learning && !context.losses && context.image like "/tmp/*.sh" && context.traits.contains("memfd") && context.user == "www" && context.unit != "" && context.account != context.user &&
			resource.hasTag("site") && resource.getTag("site") == "a" && resource.hasTag("tier") && resource.getTag("tier") != "b" && resource.name like "web-*"`), "", ""},
		{"the highest limit", permit(`context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("1.0"))`), "", ""},
		{"only the limit", permit(`context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("0.9")) && context.confidence.lessThanOrEqual(decimal("0.9"))`), "", ""},
		{"only behind it", permit(`context.level <= 4 && context.confidence.greaterThan(decimal("0.9")) && context.confidence.lessThan(decimal("0.9002"))`), "", ""},
		{"above the highest", permit(`context.confidence.greaterThan(decimal("1.0"))`), "policy p, line 1: there is no request that it permits", ""},
		{"no such level", permit(`context.level > 4`), "no request that it permits", ""},
		{"exclusive severities", permit(`context.severity == "high" && context.severity == "low"`), "no request that it permits", ""},
		{"exclusive groups", permit(`resource in Vedette::Group::"db"`), "no request that it permits", ""},
		{"another action", permit(`action == Vedette::Action::"kill"`), "no request that it permits", ""},
		{"a forbid of nothing", `@id("f") forbid (principal, action, resource) when { context.level > 4 };`, "no request that it forbids", ""},
		{"two patterns", permit(`context.level <= 4 && context.image like "/tmp/*" && context.image like "*.sh"`), "", ""},
		{"two patterns that do not fit", permit(`context.level <= 4 && context.image like "/tmp/a" && context.image like "b"`), "", "no request was found"},
		{"no limit", `@id("p") permit (principal, action == Vedette::Action::"kill", resource) when { context.level <= 4 };`, "", "at once whatever the confidence"},
		{"one level", permit(`context.level == 4`), "", "write context.level <= 4"},
		{"no name", `forbid (principal, action == Vedette::Action::"kill", resource);`, "", `write @id("…") above it`},
		{"shadowed", permit(`context.level <= 4`) + `@id("f") forbid (principal, action, resource in Vedette::Group::"web") when { context.level > 1 };`, "", "whatever it permits is forbidden by f"},
		{"shadowed in part", permit(`context.level <= 4`) + `@id("f") forbid (principal, action, resource in Vedette::Group::"web") when { context.level > 2 };`, "", ""},
		{"shadowed but for a flag", permit(`context.level <= 4`) + `@id("f") forbid (principal, action, resource in Vedette::Group::"web") unless { context.tainted };`, "", ""},
		{"a kind", permit(`context.level <= 4 && context.kind == "ruel"`), "", "rule is perhaps meant"},
		{"a technique", permit(`context.level <= 4 && context.techniques.contains("1059")`), "", "is no ATT&CK technique"},
		{"protected", `@id("p") permit (principal, action == Vedette::Action::"freeze", resource in Vedette::Group::"vital") when { context.level <= 2 };`, "", "is protected, so it changes nothing"},
	} {
		in := &sensorv1.Intent{Policy: c.policy, Groups: testGroups[:2], Governor: &sensorv1.Governor{Protected: []*sensorv1.Group{{Name: "vital", Labels: map[string]string{"vital": "yes"}}}}}
		_, warnings, err := intent.Check(in)
		var kept []string
		for _, w := range warnings {
			if !strings.HasPrefix(w, "no policy names the group") {
				kept = append(kept, w)
			}
		}
		said := strings.Join(kept, "\n")
		if (err == nil) != (c.refused == "") || (err != nil && !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.refused)
		}
		if (said == "") != (c.warned == "") || !strings.Contains(said, c.warned) {
			t.Errorf("%s: warned %q, want %q", c.name, said, c.warned)
		}
	}
	_, warnings, err := intent.Check(&sensorv1.Intent{Groups: testGroups[:1], AutomationOff: true})
	if want := "no policy names the group web"; err != nil || len(warnings) != 2 || !strings.HasPrefix(warnings[0], want) || !strings.Contains(warnings[1], "automation_off") {
		t.Errorf("got %q, %v", warnings, err)
	}
}

// Ensure even the largest intent is checked in a time that a person waits for.
func TestCheckLargest(t *testing.T) {
	var policy strings.Builder
	for i := range intent.MaxPolicies {
		fmt.Fprintf(&policy, `@id("p%d") permit (principal, action, resource) when { context.kind == "k%d" && context.tainted && context.severity == "low" };`+"\n", i, i)
	}
	began := time.Now()
	if _, _, err := intent.Check(&sensorv1.Intent{Policy: policy.String()}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d policies in %s", intent.MaxPolicies, time.Since(began).Round(time.Millisecond))
}
