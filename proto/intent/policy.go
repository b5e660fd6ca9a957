package intent

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of the Cedar text. Evaluation and validation recurse: what they recurse over
// is bounded before they see it.
const (
	MaxPolicyText = 64 << 10
	MaxPolicies   = 256
	// maxOnePolicy bounds one policy, in bytes, and with it the length of its chains.
	maxOnePolicy = 8 << 10
	maxNesting   = 24
)

// InvalidError says all that is wrong with an intent, one sentence each, with what to do.
type InvalidError struct{ Problems []string }

func (e *InvalidError) Error() string {
	return "the intent cannot be used: " + strings.Join(e.Problems, "; ")
}

// Policy is a compiled intent. It is immutable: any number of goroutines may ask it.
type Policy struct {
	intent    *sensorv1.Intent
	rules     []*rule // in the order of their ids
	byAction  map[sensorv1.Action]ruleSet
	protected map[string]bool
}

type ruleSet struct{ permits, forbids []*rule }

// rule is one Cedar policy.
type rule struct {
	id      string
	line    int
	permit  bool
	named   bool              // by an @id of its own
	actions []sensorv1.Action // of its scope; nil: all
	cedar   *cedar.Policy
	about   *mentions
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Compile checks and compiles an intent; a nil one is Defaults. It refuses whatever
// has a typing error: Cedar does not parse, names what does not exist, compares what cannot
// be compared; a group without labels, a cap above its bound. Errors are *InvalidError. Check
// does more, for people who are about to apply one; what passed Check compiles.
func Compile(in *sensorv1.Intent) (*Policy, error) {
	if in == nil {
		in = Defaults()
	}
	problems := validateParts(in)
	rules, more := compileRules(in)
	if problems = append(problems, more...); len(problems) > 0 {
		return nil, &InvalidError{Problems: problems}
	}
	p := &Policy{intent: in, rules: rules, byAction: map[sensorv1.Action]ruleSet{}, protected: map[string]bool{}}
	for _, host := range in.GetGovernor().GetProtectedHosts() {
		p.protected[host] = true
	}
	for _, action := range Actions() {
		var set ruleSet
		for _, r := range rules {
			switch {
			case r.actions != nil && !slices.Contains(r.actions, action):
			case r.permit:
				set.permits = append(set.permits, r)
			default:
				set.forbids = append(set.forbids, r)
			}
		}
		p.byAction[action] = set
	}
	return p, nil
}

// Intent is what was compiled. It must not be changed.
func (p *Policy) Intent() *sensorv1.Intent { return p.intent }

// Version is the intent's; 0 for the defaults.
func (p *Policy) Version() uint64 { return p.intent.GetVersion() }

// PolicyIDs are the ids of the Cedar policies, ascending.
func (p *Policy) PolicyIDs() []string {
	ids := make([]string, len(p.rules))
	for i, r := range p.rules {
		ids[i] = r.id
	}
	return ids
}

// compileRules never panics, whatever the parser below it does: a sensor must not end
// by what an admin wrote.
func compileRules(in *sensorv1.Intent) (rules []*rule, problems []string) {
	defer func() {
		if r := recover(); r != nil {
			rules, problems = nil, []string{fmt.Sprintf("the policy text cannot be read (%v); take out what was added last", r)}
		}
	}()
	text := in.GetPolicy()
	if problem := checkShape(text); problem != "" {
		return nil, []string{problem}
	}
	parsed, err := cedar.NewPolicyListFromBytes("", []byte(text))
	if err != nil {
		return nil, []string{parseProblem(err)}
	}
	if len(parsed) > MaxPolicies {
		return nil, []string{fmt.Sprintf("there are %d policies, at most %d; join some with || or by group", len(parsed), MaxPolicies)}
	}
	check, err := validator()
	if err != nil {
		return nil, []string{err.Error()}
	}
	lines := make(map[string]int)
	for i, policy := range parsed {
		r := &rule{cedar: policy, line: policy.Position().Line, permit: policy.Effect() == cedar.Permit}
		id, named := policy.Annotations()["id"]
		if r.id, r.named = string(id), named; !named {
			r.id = fmt.Sprintf("policy%d", i)
		}
		if earlier, taken := lines[r.id]; taken {
			problems = append(problems, fmt.Sprintf("line %d: the id %q is that of line %d already; give each policy an @id of its own", r.line, r.id, earlier))
			continue
		}
		if !nameForm.MatchString(r.id) {
			problems = append(problems, fmt.Sprintf("line %d: the id %q has other characters than letters, digits, dot, dash and underscore, or not 1 to 63", r.line, r.id))
			continue
		}
		lines[r.id] = r.line
		tree := (*ast.Policy)(policy.AST())
		r.actions, r.about = scopeActions(tree.Action), mentionsOf(tree)
		wrong := r.about.problems(in)
		if len(wrong) == 0 {
			wrong = typeProblems(check.Policy("", tree))
		}
		for _, w := range wrong {
			problems = append(problems, fmt.Sprintf("policy %s, line %d: %s", r.id, r.line, w))
		}
		rules = append(rules, r)
	}
	slices.SortFunc(rules, func(a, b *rule) int { return strings.Compare(a.id, b.id) })
	return rules, problems
}

var (
	parserSaid  = regexp.MustCompile(`^(?:parser error: )?(?:parse error at )?<input>:(\d+):(\d+)(?: ".*")?: (.*)$`)
	wantedToken = regexp.MustCompile(`^exact got (.*) want (.*)$`)
)

func parseProblem(err error) string {
	where, what := "", err.Error()
	if m := parserSaid.FindStringSubmatch(what); m != nil {
		where, what = fmt.Sprintf("line %s, before column %s: ", m[1], m[2]), m[3]
	}
	if m := wantedToken.FindStringSubmatch(what); m != nil {
		if what = fmt.Sprintf("%q is missing before %q", m[2], cut(m[1])); m[1] == "" {
			what = fmt.Sprintf("%q is missing at the end", m[2])
		}
	}
	return fmt.Sprintf("%sthe policy text is no Cedar: %s; each policy reads permit (principal, action, resource) when { … };", where, what)
}

// typeProblems are what the validator says, once each.
func typeProblems(err error) []string {
	if err == nil {
		return nil
	}
	var said []string
	for _, e := range flatten(err) {
		text := strings.ReplaceAll(e.Error(), "`", "")
		if strings.Contains(text, "unable to find an applicable action") && len(said) > 0 {
			continue // follows from what was said
		}
		switch {
		case strings.Contains(text, "decimal"):
			text += `; a confidence is compared as context.confidence.greaterThanOrEqual(decimal("0.9"))`
		case strings.Contains(text, " tag "):
			text += `; a label is read as resource.hasTag("role") && resource.getTag("role") == "web"`
		}
		if !slices.Contains(said, text) {
			said = append(said, text)
		}
	}
	return said
}

func flatten(err error) []error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

func scopeActions(scope ast.IsActionScopeNode) []sensorv1.Action {
	var uids []cedar.EntityUID
	switch s := scope.(type) {
	case ast.ScopeTypeEq:
		uids = []cedar.EntityUID{s.Entity}
	case ast.ScopeTypeIn:
		uids = []cedar.EntityUID{s.Entity}
	case ast.ScopeTypeInSet:
		uids = s.Entities
	default:
		return nil
	}
	actions := []sensorv1.Action{} // not nil: that is all of them
	for _, uid := range uids {
		actions = append(actions, ParseAction(string(uid.ID)))
	}
	return actions
}

// checkShape bounds what the parser will recurse over. It reads Cedar's strings and
// comments and nothing else of its syntax.
func checkShape(text string) string {
	if len(text) > MaxPolicyText {
		return fmt.Sprintf("the policy text has %d bytes, at most %d; put hosts into groups and share conditions", len(text), MaxPolicyText)
	}
	line, depth, start, operators := 1, 0, 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\n':
			line++
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				switch text[i] {
				case '\\':
					i++
				case '\n':
					line++
				}
			}
		case '/':
			if strings.HasPrefix(text[i:], "//") {
				for i+1 < len(text) && text[i+1] != '\n' {
					i++
				}
			}
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth--
		case ';':
			start, operators = i+1, 0
		case '!', '-':
			operators++
		}
		switch {
		case depth > maxNesting:
			return fmt.Sprintf("line %d: more than %d brackets are open; split the policy", line, maxNesting)
		case i-start > maxOnePolicy:
			return fmt.Sprintf("line %d: one policy has more than %d bytes; split it, or put its hosts into a group", line, maxOnePolicy)
		case operators > maxOnePolicy/16:
			return fmt.Sprintf("line %d: one policy has more than %d negations; split it", line, maxOnePolicy/16)
		}
	}
	return ""
}
