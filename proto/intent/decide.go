package intent

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of what a request can bring: its strings come from hosts.
const (
	maxString     = 4096
	maxTechniques = 64
	maxTraits     = 32
	maxHostLabels = 256
)

// protectedLabel and protectedValue protect a host that carries them, whatever the intent says.
const (
	protectedLabel = "protected"
	protectedValue = "true"
)

// Host is what a policy can know of a host.
type Host struct {
	ID     string
	Name   string
	Labels map[string]string
}

// Request asks whether an action may be done to a host because of a finding.
type Request struct {
	Action sensorv1.Action
	Host   Host
	// Confidence is 0…1. It is rounded to four digits, half away from zero, because
	// Cedar compares decimals; whatever is no number in that range counts as 0.
	Confidence float64
	Severity   string // informational low medium high critical
	Kind       string // of the finding
	Rule       string // id; empty when none matched
	Techniques []string
	Tainted    bool // the storyline had a finding before this one
	Learning   bool // the host's baseline is not yet to be relied on
	Losses     bool // events were lost around the finding
	Image      string
	Traits     []string // of the image
	User       string
	Unit       string
	Account    string // what lock-account would lock
}

// Verdict is what the intent says of a request.
type Verdict struct {
	// Level of the autonomy ladder, 0…4, after what holds automation back.
	Level int
	// Wanted is the level that the policies give; above Level when Held.
	Wanted int
	// Policies are the ids of those that made the level, ascending: the permits that reach
	// it, and the forbids that keep it from a higher one which a permit asked for.
	Policies []string
	// Held says why Level is below Wanted.
	Held string
	// Errors are policies that could not be evaluated, one sentence each, ascending by id. A permit
	// that fails does not permit; a forbid that fails forbids from level 2 on.
	Errors []string
}

// Decide is a pure function of the intent and the request.
func (p *Policy) Decide(r Request) Verdict {
	set, known := p.byAction[r.Action]
	if !known {
		return Verdict{Held: fmt.Sprintf("action %d is unknown here; upgrade", r.Action)}
	}
	v := set.judge(p.prepare(r))
	v.Level = v.Wanted
	if held := p.held(r.Host); held != "" && v.Level > Recommend {
		v.Level, v.Held = Recommend, held
	}
	return v
}

// held says why automation keeps its hands off a host.
func (p *Policy) held(h Host) string {
	if why := p.Protected(h); why != "" {
		return why
	}
	if p.intent.GetAutomationOff() {
		return "all automation is switched off in the intent (automation_off)"
	}
	return ""
}

// Protected says why the intent keeps automation from this host; empty when it does not.
func (p *Policy) Protected(h Host) string {
	for _, id := range []string{h.ID, h.Name} {
		if id != "" && p.protected[id] {
			return fmt.Sprintf("the host is protected: %s is one of protected_hosts", id)
		}
	}
	for _, g := range p.intent.GetGovernor().GetProtected() {
		if matches(g, h.Labels) {
			return fmt.Sprintf("the host is protected: it is in the group %s", g.GetName())
		}
	}
	if h.Labels[protectedLabel] == protectedValue {
		return "the host is protected: it has the label protected=true"
	}
	return ""
}

// Groups are the names of the intent's groups that the host is in, ascending.
func (p *Policy) Groups(h Host) []string {
	var names []string
	for _, g := range slices.Concat(p.intent.GetGroups(), p.intent.GetGovernor().GetProtected()) {
		if matches(g, h.Labels) {
			names = append(names, g.GetName())
		}
	}
	slices.Sort(names)
	return names
}

func matches(g *sensorv1.Group, labels map[string]string) bool {
	for key, value := range g.GetLabels() {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return len(g.GetLabels()) > 0
}

// prepared is a request as Cedar takes it, but for the level.
type prepared struct {
	request  cedar.Request
	entities hostEntity
	context  cedar.RecordMap
}

// hostEntity is the only entity that has parents, attributes or tags.
type hostEntity struct{ entity cedar.Entity }

// Get finds the host.
func (h hostEntity) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	return h.entity, uid == h.entity.UID
}

func (p *Policy) prepare(r Request) *prepared {
	var parents []cedar.EntityUID
	for _, name := range p.Groups(r.Host) {
		parents = append(parents, cedar.NewEntityUID(typeGroup, cedar.String(name)))
	}
	tags := make(cedar.RecordMap)
	for _, key := range slices.Sorted(maps.Keys(r.Host.Labels)) {
		if len(tags) == maxHostLabels {
			break
		}
		tags[text(key)] = text(r.Host.Labels[key])
	}
	uid := cedar.NewEntityUID(typeHost, text(r.Host.ID))
	return &prepared{
		request: cedar.Request{Principal: principal, Action: cedar.NewEntityUID(typeAction, cedar.String(ActionName(r.Action))), Resource: uid},
		entities: hostEntity{cedar.Entity{
			UID: uid, Parents: cedar.NewEntityUIDSet(parents...), Tags: cedar.NewRecord(tags),
			Attributes: cedar.NewRecord(cedar.RecordMap{"name": text(r.Host.Name)}),
		}},
		context: cedar.RecordMap{
			"confidence": confidenceOf(r.Confidence),
			"severity":   text(r.Severity), "kind": text(r.Kind), "rule": text(r.Rule),
			"techniques": texts(r.Techniques, maxTechniques),
			"tainted":    cedar.Boolean(r.Tainted), "learning": cedar.Boolean(r.Learning), "losses": cedar.Boolean(r.Losses),
			"image": text(r.Image), "traits": texts(r.Traits, maxTraits),
			"user": text(r.User), "unit": text(r.Unit), "account": text(r.Account),
		},
	}
}

func (q *prepared) at(level int) cedar.Request {
	q.context["level"] = cedar.Long(level)
	request := q.request
	request.Context = cedar.NewRecord(q.context)
	return request
}

// judge looks for the highest level that a permit reaches and no forbid bars.
func (s ruleSet) judge(q *prepared) Verdict {
	var v Verdict
	var failed []failure
	for level := Act; level > Observe; level-- {
		request := q.at(level)
		forbids, broken := evaluate(s.forbids, q.entities, request)
		failed = append(failed, broken...)
		if level == Recommend {
			v.Wanted = Recommend
			if len(forbids) > 0 {
				v.Wanted, v.Policies = Observe, append(v.Policies, forbids...)
			}
			break
		}
		permits, brokenPermits := evaluate(s.permits, q.entities, request)
		failed = append(failed, brokenPermits...)
		if len(permits) == 0 {
			continue
		}
		for _, b := range broken {
			forbids = append(forbids, b.id)
		}
		if len(forbids) == 0 {
			v.Wanted, v.Policies = level, append(v.Policies, permits...)
			break
		}
		v.Policies = append(v.Policies, forbids...)
	}
	v.Policies = sorted(v.Policies)
	slices.SortStableFunc(failed, func(a, b failure) int { return strings.Compare(a.id, b.id) })
	for i, f := range failed {
		if i == 0 || failed[i-1].id != f.id { // what it said at the highest level
			v.Errors = append(v.Errors, fmt.Sprintf("policy %s: %s", f.id, f.why))
		}
	}
	return v
}

type failure struct{ id, why string }

// evaluate returns the ids of the rules that match, and those that cannot be evaluated. All
// are permits or all forbids.
func evaluate(rules []*rule, entities hostEntity, request cedar.Request) (matched []string, failed []failure) {
	if len(rules) == 0 {
		return nil, nil
	}
	// The evaluator is somebody else's code in a process that must not end.
	defer func() {
		if r := recover(); r != nil {
			matched, failed = nil, nil
			for _, each := range rules {
				failed = append(failed, failure{each.id, "the evaluator failed; report this policy"})
			}
		}
	}()
	_, said := cedar.Authorize(inOrder(rules), entities, request)
	for _, reason := range said.Reasons {
		matched = append(matched, string(reason.PolicyID))
	}
	for _, e := range said.Errors {
		failed = append(failed, failure{string(e.PolicyID), e.Message})
	}
	return matched, failed
}

// inOrder gives Cedar its policies in one order; its own set is a map.
type inOrder []*rule

// All are the rules by their ids.
func (rules inOrder) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, r := range rules {
			if !yield(cedar.PolicyID(r.id), r.cedar) {
				return
			}
		}
	}
}

// tenThousandths is the unit of Cedar's decimals.
func tenThousandths(f float64) int64 { return int64(math.Round(f * 10_000)) }

func confidenceOf(f float64) cedar.Decimal {
	if !(f >= 0 && f <= 1) { // NaN too
		f = 0
	}
	d, err := cedar.NewDecimal(tenThousandths(f), -4)
	if err != nil {
		return cedar.Decimal{}
	}
	return d
}

func text(s string) cedar.String {
	if len(s) > maxString {
		s = s[:maxString]
	}
	return cedar.String(strings.ToValidUTF8(s, "\uFFFD"))
}

func texts(values []string, most int) cedar.Set {
	if len(values) > most {
		values = values[:most]
	}
	set := make([]cedar.Value, len(values))
	for i, v := range values {
		set[i] = text(v)
	}
	return cedar.NewSet(set...)
}
