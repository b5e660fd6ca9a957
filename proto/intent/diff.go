package intent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// probesOfDiff bounds the verdicts that are compared for one action.
const probesOfDiff = 8_000

// maxChanges bounds the lines about one action.
const maxChanges = 24

// Diff says what changes when next comes into force after old, one sentence each: first
// what would be decided otherwise, found by asking both the same, then what else was
// edited. A nil intent is Defaults. Both must compile.
func Diff(old, next *sensorv1.Intent) ([]string, error) {
	before, err := Compile(old)
	if err != nil {
		return nil, fmt.Errorf("the intent before: %w", err)
	}
	after, err := Compile(next)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, action := range Actions() {
		lines = append(lines, verdictChanges(action, before, after)...)
	}
	return append(lines, edits(before, after)...), nil
}

// span is a range of confidence in which both intents say one thing each.
type span struct {
	from, to   int // indices of confidences
	was, shall int
}

// caseOf is one point of the grid but for its confidence.
type caseOf struct {
	host string
	rest []int // choices of the other axes
}

// verdictChanges asks both policies about every case that either distinguishes.
func verdictChanges(action sensorv1.Action, before, after *Policy) []string {
	was, is := before.byAction[action].all(), after.byAction[action].all()
	if maps.Equal(textsOf(was), textsOf(is)) && maps.Equal(groupsOfRules(was, before.intent), groupsOfRules(is, after.intent)) {
		return nil
	}
	rules := slices.Concat(was, is)
	g := gridOf(rules, before.intent, after.intent)
	g.axes = slices.DeleteFunc(g.axes, func(a axis) bool { return a.name == "confidence" }) // each case is asked at all
	confident := confidences(joined(rules).confidence)
	hosts, rest := g.split()
	changes := make(map[string][]caseOf)
	most := max(leastProbes, probesOfDiff/len(confident))
	whole := g.points(most, func(at []int) bool {
		r := g.request(action, at)
		spans := spansOf(confident, func(c float64) (int, int) {
			r.Confidence = c
			return before.Decide(r).Wanted, after.Decide(r).Wanted
		})
		if text := spansText(confident, spans); text != "" {
			changes[text] = append(changes[text], g.caseAt(at, hosts, rest))
		}
		return true
	})
	var lines []string
	for _, text := range slices.Sorted(maps.Keys(changes)) {
		for _, where := range conditionsText(g, hosts, rest, changes[text]) {
			lines = append(lines, fmt.Sprintf("%s, %s: %s", ActionName(action), where, text))
		}
	}
	if len(lines) > maxChanges {
		lines = append(lines[:maxChanges], fmt.Sprintf("%s: and %d changes more", ActionName(action), len(lines)-maxChanges))
	}
	if !whole {
		lines = append(lines, fmt.Sprintf("%s: the policies tell more cases apart than the %d that were compared; replay findings to see more", ActionName(action), most))
	}
	return lines
}

func (s ruleSet) all() []*rule { return slices.Concat(s.permits, s.forbids) }

// groupsOfRules are the groups that the rules name, with their labels.
func groupsOfRules(rules []*rule, in *sensorv1.Intent) map[string]string {
	texts := groupTexts(slices.Concat(in.GetGroups(), in.GetGovernor().GetProtected()))
	used := make(map[string]string)
	for _, r := range rules {
		for _, uid := range r.about.entities {
			if uid.Type == typeGroup {
				used[string(uid.ID)] = texts[string(uid.ID)]
			}
		}
	}
	return used
}

// hostAxes are the axes that tell hosts apart.
func hostAxis(name string) bool {
	return name == "group" || name == "host" || name == "host name" || strings.HasPrefix(name, "label ")
}

// split returns the indices of the axes of hosts and of the rest.
func (g *grid) split() (hosts, rest []int) {
	for i, a := range g.axes {
		if hostAxis(a.name) {
			hosts = append(hosts, i)
		} else {
			rest = append(rest, i)
		}
	}
	return hosts, rest
}

func (g *grid) caseAt(at, hosts, rest []int) caseOf {
	var c caseOf
	var words []string
	for _, i := range hosts {
		if at[i] > 0 {
			words = append(words, strings.TrimPrefix(g.axes[i].name, "label ")+" "+g.axes[i].values[at[i]].text)
		}
	}
	c.host = "any other host"
	if len(words) > 0 {
		c.host = strings.Join(words, ", ")
	}
	for _, i := range rest {
		c.rest = append(c.rest, at[i])
	}
	return c
}

// spansOf asks at each confidence and joins neighbours with the same answers.
func spansOf(confident []float64, ask func(float64) (was, shall int)) []span {
	var spans []span
	for i, c := range confident {
		was, shall := ask(c)
		if n := len(spans); n > 0 && spans[n-1].was == was && spans[n-1].shall == shall {
			spans[n-1].to = i
		} else {
			spans = append(spans, span{i, i, was, shall})
		}
	}
	return spans
}

// spansText is empty when nothing changes.
func spansText(confident []float64, spans []span) string {
	var parts []string
	for i, s := range spans {
		if s.was == s.shall {
			continue
		}
		where := ""
		switch first, last := i == 0, i == len(spans)-1; {
		case first && last:
		case first:
			where = fmt.Sprintf(" at a confidence below %v", confident[s.to+1])
		case last:
			where = fmt.Sprintf(" at a confidence from %v", confident[s.from])
		default:
			where = fmt.Sprintf(" at a confidence from %v to below %v", confident[s.from], confident[s.to+1])
		}
		how := "raised"
		if s.shall < s.was {
			how = "lowered"
		}
		parts = append(parts, fmt.Sprintf("%s from level %d (%s) to level %d (%s)%s", how, s.was, LevelText(s.was), s.shall, LevelText(s.shall), where))
	}
	return strings.Join(parts, "; ")
}

// conditionsText says of which hosts and when something is so: hosts of which the same
// is true are named together, and an axis of which every value is there is not named.
func conditionsText(g *grid, hosts, rest []int, cases []caseOf) []string {
	byHost := make(map[string][]caseOf)
	for _, c := range cases {
		byHost[c.host] = append(byHost[c.host], c)
	}
	byWhen := make(map[string][]string)
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		when := whenText(g, rest, byHost[host])
		byWhen[when] = append(byWhen[when], host)
	}
	all := 1
	for _, i := range hosts {
		all *= len(g.axes[i].values)
	}
	var texts []string
	for _, when := range slices.Sorted(maps.Keys(byWhen)) {
		names := simplest(byWhen[when])
		text := strings.Join(names, " or ")
		if len(byWhen[when]) == all {
			text = "every host"
		}
		if when != "" {
			text += " when " + when
		}
		texts = append(texts, text)
	}
	return texts
}

// simplest leaves out hosts in two groups where each of the two is named too.
func simplest(hosts []string) []string {
	var kept []string
	for _, h := range hosts {
		parts := strings.Split(strings.TrimPrefix(h, "group "), " and ")
		if len(parts) > 1 && !slices.ContainsFunc(parts, func(p string) bool { return !slices.Contains(hosts, "group "+p) }) {
			continue
		}
		kept = append(kept, h)
	}
	const most = 6
	if len(kept) > most {
		kept = append(kept[:most], fmt.Sprintf("%d others", len(kept)-most))
	}
	return kept
}

func whenText(g *grid, rest []int, cases []caseOf) string {
	var words []string
	product := 1
	for n, i := range rest {
		there := make(map[int]bool)
		for _, c := range cases {
			there[c.rest[n]] = true
		}
		product *= len(there)
		if len(there) == len(g.axes[i].values) {
			continue
		}
		var values []string
		for _, v := range slices.Sorted(maps.Keys(there)) {
			values = append(values, g.axes[i].values[v].text)
		}
		words = append(words, g.axes[i].name+" is "+strings.Join(values, " or "))
	}
	text := strings.Join(words, " and ")
	if product != len(cases) {
		if text == "" {
			return "some conditions are met"
		}
		text += ", in some of these cases"
	}
	return text
}

// edits are the changes of everything but verdicts.
func edits(before, after *Policy) []string {
	was, is := before.intent, after.intent
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case is.GetAutomationOff() && !was.GetAutomationOff():
		say("automation is switched off: nothing is done by itself any more, whatever the policies say")
	case was.GetAutomationOff() && !is.GetAutomationOff():
		say("automation is switched on: what the policies permit is done")
	}
	if a, b := VetoSeconds(was), VetoSeconds(is); a != b {
		say("people have %d s to veto, before it were %d", b, a)
	}
	if a, b := LeaseSeconds(was), LeaseSeconds(is); a != b {
		say("what automation does lasts %d s, before it were %d", b, a)
	}
	lines = append(lines, named("group", groupTexts(was.GetGroups()), groupTexts(is.GetGroups()))...)
	g, h := was.GetGovernor(), is.GetGovernor()
	lines = append(lines, named("protected group", groupTexts(g.GetProtected()), groupTexts(h.GetProtected()))...)
	lines = append(lines, named("protected host", hostTexts(g), hostTexts(h))...)
	if a, b := governorText(g), governorText(h); a != b {
		say("the governor allows %s; before %s", b, a)
	}
	if a, b := GroupLabel(g), GroupLabel(h); a != b {
		say("the governor's role groups are made by the label %s, before by %s", b, a)
	}
	lines = append(lines, named("jump opening", openingTexts(was), openingTexts(is))...)
	lines = append(lines, named("policy", before.texts(), after.texts())...)
	if was.GetPolicy() != is.GetPolicy() && maps.Equal(before.texts(), after.texts()) {
		say("the policy text changed in its layout or its comments only")
	}
	return lines
}

// named compares things by their names.
func named(what string, was, is map[string]string) []string {
	var lines []string
	all := maps.Clone(was)
	maps.Copy(all, is)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		a, before := was[name]
		b, after := is[name]
		suffix := func(text string) string {
			if text == "" {
				return ""
			}
			return ": " + text
		}
		switch {
		case !before:
			lines = append(lines, fmt.Sprintf("%s %s added%s", what, name, suffix(b)))
		case !after:
			lines = append(lines, fmt.Sprintf("%s %s taken out%s", what, name, suffix(a)))
		case a != b:
			lines = append(lines, fmt.Sprintf("%s %s changed%s; before: %s", what, name, suffix(b), a))
		}
	}
	return lines
}

func groupTexts(groups []*sensorv1.Group) map[string]string {
	texts := make(map[string]string)
	for _, g := range groups {
		var labels []string
		for _, key := range slices.Sorted(maps.Keys(g.GetLabels())) {
			labels = append(labels, key+"="+g.GetLabels()[key])
		}
		texts[g.GetName()] = strings.Join(labels, ", ")
	}
	return texts
}

func hostTexts(g *sensorv1.Governor) map[string]string {
	texts := make(map[string]string)
	for _, host := range g.GetProtectedHosts() {
		texts[host] = ""
	}
	return texts
}

func openingTexts(in *sensorv1.Intent) map[string]string {
	texts := make(map[string]string)
	for _, o := range in.GetJump() {
		direction := "to"
		if o.GetInbound() {
			direction = "from"
		}
		texts[fmt.Sprintf("%s %s, %s port %d", direction, o.GetPrefix(), protocolName(o.GetProtocol()), o.GetPort())] = o.GetComment()
	}
	return texts
}

func governorText(g *sensorv1.Governor) string {
	short, day := permilles(g)
	return fmt.Sprintf("%d hosts or %d ‰ of the fleet in ten minutes, %d ‰ a day", CapsOf(g, 0).TenMinutes, short, day)
}

// texts are the policies as Cedar writes them, without what is only layout.
func (p *Policy) texts() map[string]string { return textsOf(p.rules) }

func textsOf(rules []*rule) map[string]string {
	texts := make(map[string]string)
	for _, r := range rules {
		texts[r.id] = strings.Join(strings.Fields(string(r.cedar.MarshalCedar())), " ")
	}
	return texts
}

// Shrinks says what next takes away that may have been lost by accident: every policy, or
// more than a fifth of the policies, groups, protected groups or protected hosts, one
// sentence each. Who applies such an intent must say so. A nil old is nothing to lose.
func Shrinks(old, next *sensorv1.Intent) []string {
	var lost []string
	for _, part := range []struct {
		what string
		of   func(*sensorv1.Intent) map[string]string
	}{
		{"policies", policyKeys},
		{"groups", func(in *sensorv1.Intent) map[string]string { return groupTexts(in.GetGroups()) }},
		{"protected groups", func(in *sensorv1.Intent) map[string]string { return groupTexts(in.GetGovernor().GetProtected()) }},
		{"protected hosts", func(in *sensorv1.Intent) map[string]string { return hostTexts(in.GetGovernor()) }},
	} {
		was, is := part.of(old), part.of(next)
		var gone []string
		for _, name := range slices.Sorted(maps.Keys(was)) {
			if _, there := is[name]; !there {
				gone = append(gone, cut(name))
			}
		}
		if len(gone)*5 <= len(was) {
			continue
		}
		of := fmt.Sprintf("%d of %d", len(gone), len(was))
		if len(is) == 0 {
			of = fmt.Sprintf("all %d", len(was))
		}
		const most = 5
		if len(gone) > most {
			gone = append(gone[:most], fmt.Sprintf("%d more", len(gone)-most))
		}
		lost = append(lost, fmt.Sprintf("%s %s are taken out: %s", of, part.what, strings.Join(gone, ", ")))
	}
	return lost
}

// policyKeys are the policies by their ids, those without by their text.
func policyKeys(in *sensorv1.Intent) map[string]string {
	keys := make(map[string]string)
	rules, _ := compileRules(in)
	for _, r := range rules {
		key := r.id
		if !r.named {
			key = strings.Join(strings.Fields(string(r.cedar.MarshalCedar())), " ")
		}
		keys[key] = ""
	}
	return keys
}
