package intent

import (
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What Check spends: requests that are tried for one policy, and for all together.
const (
	probesOfOne = 20_000
	probesOfAll = 200_000
	leastProbes = 500
)

// Check compiles an intent as Compile does and then asks what its author would want
// to know before it is applied. A policy that can never matter is an *InvalidError: it is an
// error in a permit that will be missed, and in a forbid one that will be found when
// it is too late. Warnings are what is probably, but not certainly, a mistake, one sentence
// each. Check tries thousands of requests for each policy and may take a second; hosts
// need only Compile, for what was checked where it was applied.
func Check(in *sensorv1.Intent) (*Policy, []string, error) {
	p, err := Compile(in)
	if err != nil {
		return nil, nil, err
	}
	var problems, warnings []string
	most := probesOfOne
	if len(p.rules) > 0 {
		most = max(leastProbes, min(most, probesOfAll/len(p.rules)))
	}
	for _, r := range p.rules {
		problem, said := p.probe(r, most)
		if problem != "" {
			problems = append(problems, problem)
		}
		warnings = append(warnings, said...)
	}
	if len(problems) > 0 {
		return nil, nil, &InvalidError{Problems: problems}
	}
	warnings = append(warnings, p.unused()...)
	if p.intent.GetAutomationOff() {
		warnings = append(warnings, "automation_off is set: whatever the policies say, nothing is done by itself")
	}
	return p, warnings, nil
}

// probe asks one rule about every request that could make a difference to it.
func (p *Policy) probe(r *rule, most int) (problem string, warnings []string) {
	warn := func(format string, args ...any) {
		warnings = append(warnings, fmt.Sprintf("policy %s, line %d: ", r.id, r.line)+fmt.Sprintf(format, args...))
	}
	found := p.matches(r, most)
	switch {
	case !found.any && found.whole:
		return fmt.Sprintf("policy %s, line %d: there is no request that it %s; look for conditions that exclude one another, a confidence above 1, or take it out",
			r.id, r.line, r.verb()), nil
	case !found.any:
		warn("no request was found that it %s; look whether its conditions exclude one another", r.verb())
	}
	if !r.named {
		warn(`it has no name; write @id("…") above it, so that the record says what decided`)
	}
	p.hints(r, warn)
	if !r.permit || !found.any {
		return "", warnings
	}
	if found.levels[Act] && !r.about.attributes["confidence"] {
		warn("it permits to act at once whatever the confidence; add context.confidence.greaterThanOrEqual(decimal(\"0.9\"))")
	}
	for level := Approve; level < Act; level++ {
		if found.levels[level+1] && found.gap[level] {
			warn("it permits level %d and not level %d below it; write context.level <= %d, so that a forbid of the higher leaves the lower", level+1, level, level+1)
			break
		}
	}
	if !found.unprotected {
		warn("every host that it permits something on is protected, so it changes nothing")
	}
	if by := p.shadowed(r, most); len(by) > 0 {
		warn("it changes nothing: whatever it permits is forbidden by %s", list(by, ""))
	}
	return "", warnings
}

func (r *rule) verb() string {
	if r.permit {
		return "permits"
	}
	return "forbids"
}

func (r *rule) scope() []sensorv1.Action {
	if r.actions == nil {
		return Actions()
	}
	return r.actions
}

// matched is what a rule matches on its grid.
type matched struct {
	any, whole  bool
	levels      [Act + 1]bool
	gap         [Act + 1]bool // a request at which it matches the level above and not this one
	unprotected bool
}

func (p *Policy) matches(r *rule, most int) matched {
	g := gridOf([]*rule{r}, p.intent)
	found := matched{whole: g.exact}
	for _, action := range r.scope() {
		look := func(at []int) bool { return p.look(r, g.request(action, at), &found) }
		if !g.points(max(leastProbes, most/len(r.scope())), look) {
			found.whole = false
			parts := r.conjuncts()
			if at, ok := g.climb(len(parts), func(at []int) int { return p.met(parts, g.request(action, at)) }); ok {
				g.around(at, look)
			}
		}
	}
	return found
}

// look asks the rule at each level and notes what it says; false when that is enough.
func (p *Policy) look(r *rule, request Request, found *matched) bool {
	lowest := Approve
	if !r.permit {
		lowest = Recommend
	}
	q := p.prepare(request)
	above, here := false, false
	for level := Act; level >= lowest; level-- {
		ids, _ := evaluate([]*rule{r}, q.entities, q.at(level))
		if above && len(ids) == 0 {
			found.gap[level] = true
		}
		if above = len(ids) > 0; above {
			found.any, found.levels[level], here = true, true, true
		}
	}
	if here && !found.unprotected {
		found.unprotected = p.Protected(request.Host) == ""
	}
	// A forbid need only be seen once; of a permit the levels matter.
	return r.permit || !found.any
}

// met is how many of the parts hold at once, at the level where most do.
func (p *Policy) met(parts []*rule, request Request) int {
	q, best := p.prepare(request), 0
	for level := Act; level >= Recommend; level-- {
		ids, _ := evaluate(parts, q.entities, q.at(level))
		best = max(best, len(ids))
	}
	return best
}

// conjuncts are r's conditions as rules of their own: what must all hold.
func (r *rule) conjuncts() []*rule {
	tree := (*ast.Policy)(r.cedar.AST())
	var parts []*rule
	add := func(kind ast.Condition, body ast.IsNode) {
		part := &ast.Policy{
			Effect: ast.EffectPermit, Principal: tree.Principal, Action: tree.Action, Resource: tree.Resource,
			Conditions: []ast.ConditionType{{Condition: kind, Body: body}},
		}
		parts = append(parts, &rule{id: fmt.Sprint(len(parts)), cedar: cedar.NewPolicyFromAST((*cedarast.Policy)(part))})
	}
	var split func(kind ast.Condition, body ast.IsNode)
	split = func(kind ast.Condition, body ast.IsNode) {
		switch n := body.(type) {
		case ast.NodeTypeAnd:
			if kind == ast.ConditionWhen {
				split(kind, n.Left)
				split(kind, n.Right)
				return
			}
		case ast.NodeTypeOr:
			if kind == ast.ConditionUnless {
				split(kind, n.Left)
				split(kind, n.Right)
				return
			}
		}
		add(kind, body)
	}
	for _, condition := range tree.Conditions {
		split(condition.Condition, condition.Body)
	}
	if len(parts) == 0 {
		add(ast.ConditionWhen, ast.NodeValue{Value: cedar.True})
	}
	return parts
}

// shadowed names the forbids that bar whatever r permits; none when something is left.
func (p *Policy) shadowed(r *rule, most int) []string {
	var by []string
	for _, action := range r.scope() {
		forbids, left := p.byAction[action].forbids, false
		g := gridOf(append([]*rule{r}, forbids...), p.intent)
		look := func(at []int) bool {
			barred, open := p.barred(r, forbids, g.request(action, at))
			by, left = append(by, barred...), open
			return !open
		}
		if !g.points(most/len(r.scope()), look) && !left {
			parts := r.conjuncts()
			goal := len(parts) * (len(forbids) + 1)
			at, _ := g.climb(goal, func(at []int) int {
				request := g.request(action, at)
				met := p.met(parts, request) * (len(forbids) + 1)
				if barred, open := p.barred(r, forbids, request); met == goal && !open {
					return met - max(1, len(barred))
				}
				return met
			})
			look(at)
		}
		if left {
			return nil
		}
		by = sorted(by)
	}
	return by
}

// barred are the forbids that bar what r permits; open when it permits something that none bars.
func (p *Policy) barred(r *rule, forbids []*rule, request Request) (by []string, open bool) {
	q := p.prepare(request)
	for level := Act; level >= Approve; level-- {
		if ids, _ := evaluate([]*rule{r}, q.entities, q.at(level)); len(ids) == 0 {
			continue
		}
		barred, broken := evaluate(forbids, q.entities, q.at(level))
		if len(barred)+len(broken) == 0 {
			return nil, true
		}
		if by == nil {
			by = barred
		}
	}
	return by, false
}

// hints are about words that may be right and are probably wrong.
func (p *Policy) hints(r *rule, warn func(string, ...any)) {
	for _, kind := range r.about.literals["kind"] {
		if !slices.Contains(kinds, kind) {
			warn("no finding of today has the kind %q%s; there are %s", kind, meant("", nearest(kind, kinds)), list(kinds, ""))
		}
	}
	for _, technique := range r.about.literals["techniques"] {
		if !techniqueForm.MatchString(technique) {
			warn("%q is no ATT&CK technique; they are written T1059 or T1059.004", technique)
		}
	}
}

// unused are groups that make no difference.
func (p *Policy) unused() []string {
	used := make(map[string]bool)
	for _, r := range p.rules {
		for _, uid := range r.about.entities {
			if uid.Type == typeGroup {
				used[string(uid.ID)] = true
			}
		}
	}
	var warnings []string
	for _, g := range p.intent.GetGroups() {
		if !used[g.GetName()] {
			warnings = append(warnings, fmt.Sprintf("no policy names the group %s; use it or take it out", g.GetName()))
		}
	}
	return warnings
}
