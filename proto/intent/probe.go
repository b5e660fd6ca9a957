package intent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxPowerset is the number of strings up to which every set of them is tried.
const maxPowerset = 6

// axis is one thing in which requests differ, with every value that can make a
// difference to the policies it was made for.
type axis struct {
	name   string
	values []choice
}

type choice struct {
	text string
	set  func(*Request)
}

// grid is the product of its axes. Only what the policies mention has an axis: what
// they do not mention cannot change what they say.
type grid struct {
	axes []axis
	// exact: what no point of the grid makes true, nothing does. Not so where a text must
	// match two patterns at once, or a set has many members.
	exact bool
}

func (g *grid) size() int {
	size := 1
	for _, a := range g.axes {
		if size *= len(a.values); size > 1<<30 {
			return 1 << 30
		}
	}
	return size
}

// points visits the grid until visit says no: all of it when it has at most so many
// points, else that many of them, always the same. It reports whether it was all.
func (g *grid) points(most int, visit func(at []int) bool) bool {
	size := g.size()
	at := make([]int, len(g.axes))
	if size <= most {
		for range size {
			if !visit(at) {
				return true
			}
			for i := range at {
				if at[i]++; at[i] < len(g.axes[i].values) {
					break
				}
				at[i] = 0
			}
		}
		return true
	}
	random := rand.New(rand.NewPCG(1, 2)) // nothing secret: the same intent, the same words
	for range most {
		for i := range at {
			at[i] = random.IntN(len(g.axes[i].values))
		}
		if !visit(at) {
			break
		}
	}
	return false
}

// climbs is how often a search begins anew.
const climbs = 6

// climb looks for a point whose score is goal, changing one axis at a time: how a request
// that meets twenty conditions is found among millions.
func (g *grid) climb(goal int, score func(at []int) int) ([]int, bool) {
	random := rand.New(rand.NewPCG(3, 4))
	var top []int
	highest := -1
	for range climbs {
		at := make([]int, len(g.axes))
		for i := range at {
			at[i] = random.IntN(len(g.axes[i].values))
		}
		for best, better := score(at), true; better; {
			better = false
			for i := range at {
				was := at[i]
				for v := range g.axes[i].values {
					at[i] = v
					if s := score(at); s > best {
						best, was, better = s, v, true
					}
				}
				at[i] = was
			}
			if best > highest {
				highest, top = best, slices.Clone(at)
			}
			if best >= goal {
				return top, true
			}
		}
	}
	return top, false
}

// around visits a point and what differs from it in one axis.
func (g *grid) around(at []int, visit func(at []int) bool) {
	if !visit(at) {
		return
	}
	for i := range at {
		was := at[i]
		for v := range g.axes[i].values {
			if at[i] = v; v != was && !visit(at) {
				return
			}
		}
		at[i] = was
	}
}

// request is the point's, for an action.
func (g *grid) request(action sensorv1.Action, at []int) Request {
	r := Request{Action: action, Confidence: 1, Severity: "critical", Kind: "rule", Host: Host{ID: "h-any", Name: "any", Labels: map[string]string{}}}
	for i, a := range g.axes {
		a.values[at[i]].set(&r)
	}
	return r
}

// gridOf makes the grid for some policies of some intents.
func gridOf(rules []*rule, intents ...*sensorv1.Intent) *grid {
	all := joined(rules)
	g := &grid{exact: all.patterns < 2}
	g.groups(all, intents)
	for _, key := range all.labels {
		a := axis{name: "label " + key, values: []choice{{"absent", func(*Request) {}}}}
		for _, value := range slices.Concat(all.strings, []string{patternProbe}) {
			a.values = append(a.values, choice{value, func(r *Request) { r.Host.Labels[key] = value }})
		}
		g.axes = append(g.axes, a)
	}
	var ids []string
	for _, uid := range all.entities {
		if uid.Type == typeHost {
			ids = append(ids, string(uid.ID))
		}
	}
	if ids = sorted(ids); len(ids) > 0 {
		a := axis{name: "host", values: []choice{{"any other", func(*Request) {}}}}
		for _, id := range ids {
			a.values = append(a.values, choice{id, func(r *Request) { r.Host.ID = id }})
		}
		g.axes = append(g.axes, a)
	}
	if all.hostName {
		g.text("host name", all.strings, func(r *Request, v string) { r.Host.Name = v })
	}
	for _, name := range slices.Sorted(maps.Keys(all.attributes)) {
		g.attribute(name, all)
	}
	return g
}

func joined(rules []*rule) *mentions {
	all := &mentions{attributes: map[string]bool{}, literals: map[string][]string{}}
	for _, r := range rules {
		all.entities = append(all.entities, r.about.entities...)
		maps.Copy(all.attributes, r.about.attributes)
		for attribute, values := range r.about.literals {
			all.literals[attribute] = append(all.literals[attribute], values...)
		}
		all.strings = append(all.strings, r.about.strings...)
		all.confidence = append(all.confidence, r.about.confidence...)
		all.labels = append(all.labels, r.about.labels...)
		all.patterns += r.about.patterns
		all.hostName = all.hostName || r.about.hostName
	}
	all.strings, all.labels = sorted(all.strings), sorted(all.labels)
	return all
}

// groups adds an axis of hosts: in no group, in one, in two, in all that are mentioned.
func (g *grid) groups(all *mentions, intents []*sensorv1.Intent) {
	labels := make(map[string]map[string]string)
	for _, uid := range all.entities {
		for _, in := range intents {
			for _, group := range slices.Concat(in.GetGroups(), in.GetGovernor().GetProtected()) {
				if uid.Type == typeGroup && group.GetName() == string(uid.ID) {
					labels[group.GetName()] = group.GetLabels()
				}
			}
		}
	}
	names := slices.Sorted(maps.Keys(labels))
	if len(names) == 0 {
		return
	}
	a := axis{name: "group", values: []choice{{"none", func(*Request) {}}}}
	add := func(members ...string) {
		a.values = append(a.values, choice{strings.Join(members, " and "), func(r *Request) {
			for _, name := range members {
				maps.Copy(r.Host.Labels, labels[name])
			}
		}})
	}
	for i, name := range names {
		add(name)
		for _, other := range names[:i] {
			if len(names) <= maxPowerset {
				add(other, name)
			}
		}
	}
	if len(names) > 2 {
		add(names...)
	}
	g.exact = g.exact && len(names) <= 3
	g.axes = append(g.axes, a)
}

func (g *grid) attribute(name string, all *mentions) {
	switch name {
	case "level": // each question is asked at each level
	case "confidence":
		a := axis{name: name}
		for _, c := range confidences(all.confidence) {
			a.values = append(a.values, choice{fmt.Sprint(c), func(r *Request) { r.Confidence = c }})
		}
		g.axes = append(g.axes, a)
	case "severity":
		a := axis{name: name}
		for _, s := range slices.Backward(severities) {
			a.values = append(a.values, choice{s, func(r *Request) { r.Severity = s }})
		}
		g.axes = append(g.axes, a)
	case "tainted":
		g.flag(name, func(r *Request, v bool) { r.Tainted = v })
	case "learning":
		g.flag(name, func(r *Request, v bool) { r.Learning = v })
	case "losses":
		g.flag(name, func(r *Request, v bool) { r.Losses = v })
	case "techniques":
		g.set(name, all, func(r *Request, v []string) { r.Techniques = v })
	case "traits":
		g.set(name, all, func(r *Request, v []string) { r.Traits = v })
	default:
		values := all.literals[name]
		if all.patterns > 1 {
			// A text may have to match several patterns: begin as one and end as another.
			values = slices.Clone(values)
			for _, a := range all.literals[name] {
				for _, b := range all.literals[name] {
					values = append(values, a+b)
				}
			}
		}
		g.text(name, values, fields[name])
	}
}

// fields are the texts of a request by their attributes.
var fields = map[string]func(*Request, string){
	"kind":    func(r *Request, v string) { r.Kind = v },
	"rule":    func(r *Request, v string) { r.Rule = v },
	"image":   func(r *Request, v string) { r.Image = v },
	"user":    func(r *Request, v string) { r.User = v },
	"unit":    func(r *Request, v string) { r.Unit = v },
	"account": func(r *Request, v string) { r.Account = v },
}

func (g *grid) flag(name string, set func(*Request, bool)) {
	g.axes = append(g.axes, axis{name, []choice{
		{"false", func(r *Request) { set(r, false) }}, {"true", func(r *Request) { set(r, true) }},
	}})
}

func (g *grid) text(name string, values []string, set func(*Request, string)) {
	a := axis{name: name, values: []choice{{"none", func(r *Request) { set(r, "") }}, {"other", func(r *Request) { set(r, patternProbe) }}}}
	for _, v := range sorted(slices.Clone(values)) {
		if v != "" && v != patternProbe {
			a.values = append(a.values, choice{v, func(r *Request) { set(r, v) }})
		}
	}
	g.axes = append(g.axes, a)
}

// set adds an axis of sets of the texts that the attribute is compared with.
func (g *grid) set(name string, all *mentions, set func(*Request, []string)) {
	values := sorted(slices.Clone(all.literals[name]))
	sets := [][]string{nil, {patternProbe}, values}
	if len(values) <= maxPowerset {
		for bits := range 1 << len(values) {
			var some []string
			for i, v := range values {
				if bits&(1<<i) != 0 {
					some = append(some, v)
				}
			}
			sets = append(sets, some)
		}
	} else {
		g.exact = false
		for i, v := range values {
			sets = append(sets, []string{v}, slices.Concat(values[:i], values[i+1:]))
		}
	}
	a := axis{name: name}
	seen := make(map[string]bool)
	for _, members := range sets {
		text := list(members, "none")
		if !seen[text] {
			seen[text] = true
			a.values = append(a.values, choice{text, func(r *Request) { set(r, members) }})
		}
	}
	g.axes = append(g.axes, a)
}

// confidences are the ends, and both sides of each limit that a policy draws; ascending.
func confidences(limits []int64) []float64 {
	points := []int64{0, 10_000}
	for _, limit := range limits {
		points = append(points, limit-1, limit, limit+1)
	}
	slices.Sort(points)
	var all []float64
	for _, p := range slices.Compact(points) {
		if p >= 0 && p <= 10_000 {
			all = append(all, float64(p)/10_000)
		}
	}
	return all
}
