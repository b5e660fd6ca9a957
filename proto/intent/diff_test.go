package intent_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a person reads what a change does, and not only what was typed.
func TestDiff(t *testing.T) {
	in := func(policy string) *sensorv1.Intent {
		return &sensorv1.Intent{Policy: policy, Groups: testGroups[:2]}
	}
	web := func(level int, confidence string) string {
		return fmt.Sprintf(`@id("web") permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
			when { context.level <= %d && context.confidence.greaterThanOrEqual(decimal("%s")) };`, level, confidence)
	}
	const critical = `@id("web") permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web") when { context.level <= 3 && ["critical", "high"].contains(context.severity) && !context.learning };`
	const all = `@id("all") permit (principal, action == Vedette::Action::"freeze", resource) when { context.level <= 2 };`
	const never = `@id("never") forbid (principal, action == Vedette::Action::"kill", resource);`
	protected := in("")
	protected.AutomationOff, protected.VetoSeconds, protected.LeaseSeconds = true, 90, 600
	protected.Groups = []*sensorv1.Group{{Name: "web", Labels: map[string]string{"role": "web", "site": "a"}}}
	protected.Governor = &sensorv1.Governor{Hosts_10M: 5, GroupLabel: "site", ProtectedHosts: []string{"h-dns"}, Protected: []*sensorv1.Group{{Name: "vital", Labels: map[string]string{"vital": "yes"}}}}
	protected.Jump = []*sensorv1.Opening{{Prefix: "10.0.0.5/32", Protocol: 6, Port: 22, Inbound: true, Comment: "bastion"}}
	for _, c := range []struct {
		name     string
		old, new *sensorv1.Intent
		want     []string
	}{
		{"nothing", in(web(4, "0.9")), in(web(4, "0.9")), nil},
		{"a comment", in(web(4, "0.9")), in("// why\n" + web(4, "0.9")), []string{"the policy text changed in its layout or its comments only"}},
		{"the first", nil, in(web(4, "0.9")), []string{
			"isolate, group web: raised from level 1 (recommend) to level 4 (act at once) at a confidence from 0.9", "group db added: role=db", "group web added: role=web", "policy web added: ",
		}},
		{"raised", in(web(2, "0.9")), in(web(4, "0.9")), []string{"isolate, group web: raised from level 2 (act on approval) to level 4 (act at once) at a confidence from 0.9", "policy web changed: "}},
		{"less sure", in(web(4, "0.9")), in(web(4, "0.75")), []string{"isolate, group web: raised from level 1 (recommend) to level 4 (act at once) at a confidence from 0.75 to below 0.9", "policy web changed"}},
		{"conditions", in(""), in(critical), []string{"isolate, group web when learning is false and severity is critical or high: raised from level 1 (recommend) to level 3 (act unless vetoed)", "policy web added"}},
		{"everywhere", in(""), in(all), []string{"freeze, every host: raised from level 1 (recommend) to level 2 (act on approval)", "policy all added"}},
		{"forbidden", in(""), in(never), []string{"kill, every host: lowered from level 1 (recommend) to level 0 (observe only)", "policy never added"}},
		{"taken out", in(never), in(""), []string{"kill, every host: raised from level 0 (observe only) to level 1 (recommend)", "policy never taken out"}},
		{"all else", in(""), protected, []string{
			"automation is switched off", "people have 90 s to veto, before it were 60", "what automation does lasts 600 s, before it were 14400",
			"group db taken out: role=db", "group web changed: role=web, site=a; before: role=web", "protected group vital added: vital=yes", "protected host h-dns added",
			"the governor allows 5 hosts or 10 ‰ of the fleet in ten minutes, 50 ‰ a day; before 3 hosts or", "role groups are made by the label site, before by role",
			"jump opening from 10.0.0.5/32, tcp port 22 added: bastion",
		}},
	} {
		got, err := intent.Diff(c.old, c.new)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: got\n%s", c.name, strings.Join(got, "\n"))
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], c.want[i]) && !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%s: got %q, want %q", c.name, got[i], c.want[i])
			}
		}
	}
}

// Ensure a diff is not silent about an action of which one of many requests is judged otherwise.
func TestDiffMissesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		policy := anyPolicies(rt, 2)
		old := &sensorv1.Intent{Policy: policy, Groups: testGroups}
		next := &sensorv1.Intent{Policy: policy + anyPolicyNamed(rt), Groups: testGroups}
		if _, err := intent.Compile(next); err != nil {
			rt.Skip()
		}
		before, after := compile(t, old), compile(t, next)
		lines, err := intent.Diff(old, next)
		if err != nil {
			rt.Fatal(err)
		}
		for range 50 {
			r := anyRequest(rt)
			was, is := before.Decide(r).Wanted, after.Decide(r).Wanted
			if was != is && !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, intent.ActionName(r.Action)) }) {
				rt.Fatalf("level %d became %d for %+v and the diff says\n%s", was, is, r, strings.Join(lines, "\n"))
			}
		}
	})
}

// anyPolicyNamed is one policy that can stand behind anyPolicy's.
func anyPolicyNamed(t *rapid.T) string {
	return fmt.Sprintf("@id(\"more\") %s (%s) when { %s };", rapid.SampledFrom([]string{"permit", "forbid"}).Draw(t, "effect"),
		rapid.SampledFrom(scopes).Draw(t, "scope"), rapid.SampledFrom(conditions).Draw(t, "condition"))
}

// Ensure an intent that lost much is noticed, and an edited one is not.
func TestShrinks(t *testing.T) {
	many := func(n int) *sensorv1.Intent {
		in := &sensorv1.Intent{Governor: &sensorv1.Governor{}}
		for i := range n {
			in.Policy += fmt.Sprintf("@id(\"p%d\") permit (principal, action, resource) when { context.kind == \"%d\" };\n", i, i)
			in.Groups = append(in.Groups, &sensorv1.Group{Name: fmt.Sprintf("g%d", i), Labels: map[string]string{"a": "b"}})
			in.Governor.Protected = append(in.Governor.Protected, &sensorv1.Group{Name: fmt.Sprintf("q%d", i), Labels: map[string]string{"a": "b"}})
			in.Governor.ProtectedHosts = append(in.Governor.ProtectedHosts, fmt.Sprintf("h%d", i))
		}
		return in
	}
	unnamed := &sensorv1.Intent{Policy: "permit (principal, action, resource);forbid (principal, action == Vedette::Action::\"kill\", resource);"}
	reordered := &sensorv1.Intent{Policy: "forbid (principal, action == Vedette::Action::\"kill\", resource);\npermit (principal,action,resource);"}
	for _, c := range []struct {
		name     string
		old, new *sensorv1.Intent
		want     []string
	}{
		{"the first", nil, many(3), nil}, {"nothing", nil, nil, nil}, {"more", many(3), many(5), nil}, {"a fifth", many(10), many(8), nil},
		{"reordered", unnamed, reordered, nil},
		{"more than a fifth", many(10), many(7), []string{"3 of 10 policies are taken out: p7, p8, p9", "3 of 10 groups", "3 of 10 protected groups", "3 of 10 protected hosts"}},
		{"all", many(10), &sensorv1.Intent{}, []string{"all 10 policies are taken out: p0, p1, p2, p3, p4, 5 more", "all 10 groups", "all 10 protected groups", "all 10 protected hosts"}},
	} {
		got := intent.Shrinks(c.old, c.new)
		if len(got) != len(c.want) {
			t.Errorf("%s: got %q", c.name, got)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], c.want[i]) {
				t.Errorf("%s: got %q, want %q", c.name, got[i], c.want[i])
			}
		}
	}
}

// Ensure the governor's figures are those that are written down.
func TestCaps(t *testing.T) {
	own := &sensorv1.Governor{Hosts_10M: 10, Permille_10M: 25, PermilleDay: 100}
	for _, c := range []struct {
		governor *sensorv1.Governor
		hosts    int
		want     intent.Caps
	}{
		{nil, 0, intent.Caps{TenMinutes: 3, Day: 3}}, {nil, -1, intent.Caps{TenMinutes: 3, Day: 3}}, {nil, 79, intent.Caps{TenMinutes: 3, Day: 3}},
		{nil, 80, intent.Caps{TenMinutes: 3, Day: 4}}, {nil, 399, intent.Caps{TenMinutes: 3, Day: 19}}, {nil, 400, intent.Caps{TenMinutes: 4, Day: 20}},
		{nil, 10_000, intent.Caps{TenMinutes: 100, Day: 500}}, {own, 100, intent.Caps{TenMinutes: 10, Day: 10}}, {own, 1000, intent.Caps{TenMinutes: 25, Day: 100}},
		{&sensorv1.Governor{Permille_10M: 200}, 100, intent.Caps{TenMinutes: 20, Day: 20}},
		{&sensorv1.Governor{Permille_10M: 1000, PermilleDay: 1000}, 1 << 40, intent.Caps{TenMinutes: 1 << 40, Day: 1 << 40}},
	} {
		if got := intent.CapsOf(c.governor, c.hosts); got != c.want {
			t.Errorf("%v of %d: got %+v, want %+v", c.governor, c.hosts, got, c.want)
		}
	}
	caps, approvals := intent.Exceeds(nil, intent.Extent{Hosts: 240, TenMinutes: 2, Day: 11, New: 1}, map[string]intent.Extent{"web": {Hosts: 40, TenMinutes: 2, Day: 2, New: 1}})
	if len(caps) != 0 || approvals != 1 {
		t.Errorf("at the caps: got %q, %d", caps, approvals)
	}
	caps, approvals = intent.Exceeds(nil, intent.Extent{Hosts: 1000, TenMinutes: 2, Day: 49, New: 4}, map[string]intent.Extent{"web": {Hosts: 40, TenMinutes: 2, Day: 2, New: 4}, "db": {Hosts: 4, TenMinutes: 9, Day: 9}})
	want := []string{
		"53 of the 1000 hosts of the fleet would be contained within a day (49 are, 4 more); one operator or automation may contain 50",
		"6 of the 40 hosts with role=web would be contained within ten minutes (2 are, 4 more); one operator or automation may contain 3",
		"6 of the 40 hosts with role=web would be contained within a day (2 are, 4 more); one operator or automation may contain 3",
	}
	if !slices.Equal(caps, want) || approvals != 2 {
		t.Errorf("above the caps: got %q, %d", caps, approvals)
	}
	if caps, approvals = intent.Exceeds(nil, intent.Extent{Hosts: 1000, Day: 50, New: 1}, nil); len(caps) != 1 || approvals != 2 {
		t.Errorf("above one: got %q, %d", caps, approvals)
	}
}
