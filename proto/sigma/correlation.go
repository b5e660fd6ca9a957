package sigma

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Bounds of a correlation rule.
const (
	maxReferences = 32
	maxGroupBy    = 8
	// maxNeed bounds what a condition counts to: so many entries one group can have.
	maxNeed = 4096
	// maxTimespan: the memory of a sensor does not outlive it, and who waits longer needs the coordinator's.
	maxTimespan = 31 * 24 * time.Hour
)

// Correlation is a parsed rule about what other rules match.
type Correlation struct {
	Header
	Type     string   // event_count, value_count, temporal, temporal_ordered
	Rules    []string // names or ids, as written
	GroupBy  []string
	Timespan time.Duration
	// Generate: what its rules match is told by itself too.
	Generate bool
	// Values are the fields whose different values value_count counts.
	Values []string

	lines   map[string]int // of references
	aliases []alias
	bounds  []bound
	// logic is temporal's condition in words, about which of the rules were seen.
	logic     string
	logicLine int
	tree      *condition
}

// alias is a name for fields that are called differently by different rules.
type alias struct {
	name, rule, field string
	line              int
}

// bound is one comparison of a count.
type bound struct {
	op string // gt gte lt lte eq neq
	n  int
}

func (b bound) holds(count int) bool {
	switch b.op {
	case "gt":
		return count > b.n
	case "gte":
		return count >= b.n
	case "lt":
		return count < b.n
	case "lte":
		return count <= b.n
	case "eq":
		return count == b.n
	}
	return count != b.n
}

// need is the count that fulfils a condition for good: none, when more could refute it.
func (c *Correlation) need() (int, bool) {
	if c.tree != nil {
		return 1, c.tree.grows()
	}
	need := 1
	for _, b := range c.bounds {
		switch b.op {
		case "gte":
			need = max(need, b.n)
		case "gt":
			need = max(need, b.n+1)
		default:
			return 0, false
		}
	}
	return need, true
}

var correlationTypes = []string{"event_count", "value_count", "temporal", "temporal_ordered"}

// laterTypes are those of the specification that are not evaluated here.
var laterTypes = []string{"value_sum", "value_avg", "value_percentile", "value_median"}

func (p *parse) correlation(pairs []pair, line int) *Correlation {
	c := &Correlation{Header: Header{Path: p.path, Line: line, Level: "medium", Unsaid: true}, lines: map[string]int{}}
	var body ast.Node
	for _, f := range pairs {
		switch f.key {
		case "correlation":
			body = f.node
		case "generate":
			c.Generate = p.boolean(f)
		case "detection", "logsource":
			p.fail(f.line, "%s: a correlation has none of its own; put it into a rule of its own, with --- between them", f.key)
		default:
			p.header(&c.Header, f)
		}
	}
	if c.Title == "" {
		p.fail(0, "title is missing")
	}
	at := lineOf(body)
	for _, f := range p.mapping(body, "correlation") {
		switch f.key {
		case "type":
			c.Type = p.text(f.node, f.key)
			switch {
			case slices.Contains(laterTypes, c.Type):
				p.unsupported(f.line, "type: "+c.Type+" is not evaluated here; want one of "+strings.Join(correlationTypes, ", "))
			case !slices.Contains(correlationTypes, c.Type):
				p.fail(f.line, "type %q: want one of %s", c.Type, strings.Join(correlationTypes, ", "))
			}
		case "rules":
			c.Rules = p.texts(f)
			for _, reference := range c.Rules {
				c.lines[reference] = f.line
			}
		case "group-by":
			c.GroupBy = p.texts(f)
		case "timespan":
			c.Timespan = p.timespan(f)
		case "generate":
			c.Generate = p.boolean(f)
		case "aliases":
			p.aliases(c, f)
		case "condition":
			p.bounds(c, f)
		}
	}
	p.complete(c, at)
	return c
}

// complete refuses what lacks something, and fills in what may be left out.
func (p *parse) complete(c *Correlation, line int) {
	switch {
	case c.Type == "":
		p.fail(line, "correlation: type is missing")
	case len(c.Rules) == 0:
		p.fail(line, "correlation: rules is missing; name rules by their name or id")
	case len(c.Rules) > maxReferences:
		p.fail(line, "rules: more than %d", maxReferences)
	case len(c.GroupBy) > maxGroupBy:
		p.fail(line, "group-by: more than %d fields", maxGroupBy)
	case c.Timespan == 0:
		p.fail(line, "correlation: timespan is missing; want 5m or the like")
	}
	temporal := strings.HasPrefix(c.Type, "temporal")
	p.logic(c)
	switch {
	case c.Type == "value_count" && len(c.Values) == 0:
		p.fail(line, "condition: value_count needs field, whose values it counts")
	case c.Type != "value_count" && len(c.Values) > 0:
		p.fail(line, "condition: field belongs to value_count")
	case temporal && len(c.Rules) < 2:
		p.fail(line, "rules: %s needs two at least", c.Type)
	case c.tree != nil:
	case temporal && len(c.bounds) == 0:
		c.bounds = []bound{{"gte", len(c.Rules)}}
	case len(c.bounds) == 0:
		p.fail(line, "condition is missing; want gte: 5 or the like")
	}
	if need, ok := c.need(); c.Type == "temporal_ordered" && (!ok || need != len(c.Rules)) {
		p.fail(line, "condition: temporal_ordered waits for all of its rules; leave the condition out")
	}
	if c.Type == "temporal" {
		for i, reference := range c.Rules {
			if slices.Contains(c.Rules[:i], reference) {
				p.fail(line, "rules: %s is there twice", reference)
			}
		}
	}
}

func (p *parse) texts(f pair) (texts []string) {
	nodes := []ast.Node{f.node}
	if seq, ok := f.node.(*ast.SequenceNode); ok {
		nodes = seq.Values
	}
	for _, n := range nodes {
		text := p.text(n, f.key)
		if text == "" {
			p.fail(f.line, "%s: empty name", f.key)
		}
		texts = append(texts, text)
	}
	return texts
}

func (p *parse) boolean(f pair) bool {
	v := p.scalar(f.node, f.key)
	if v.kind != valueBool {
		p.fail(f.line, "%s: want true or false", f.key)
	}
	return v.text == "true"
}

var units = map[byte]time.Duration{
	's': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour,
	'M': 30 * 24 * time.Hour, 'y': 365 * 24 * time.Hour,
}

func (p *parse) timespan(f pair) time.Duration {
	text := p.text(f.node, f.key)
	if text == "" {
		p.fail(f.line, "timespan is empty")
	}
	n, err := strconv.Atoi(text[:len(text)-1])
	unit := units[text[len(text)-1]]
	switch {
	case err != nil || n <= 0 || unit == 0:
		p.fail(f.line, "timespan %q: want a number and one of s, m, h, d, w, M, y", text)
	case int64(n) > int64(maxTimespan/unit):
		p.unsupported(f.line, fmt.Sprintf("timespan %s: longer than %d days, which a sensor does not remember", text, int(maxTimespan.Hours()/24)))
	}
	return time.Duration(n) * unit
}

func (p *parse) aliases(c *Correlation, f pair) {
	for _, a := range p.mapping(f.node, f.key) {
		for _, to := range p.mapping(a.node, f.key) {
			c.aliases = append(c.aliases, alias{a.key, to.key, p.text(to.node, f.key), to.line})
		}
	}
}

func (p *parse) bounds(c *Correlation, f pair) {
	if _, ok := f.node.(*ast.StringNode); ok {
		c.logic, c.logicLine = p.text(f.node, f.key), f.line
		if c.logic == "" {
			p.fail(f.line, "condition is empty; name rules, or leave it out for all of them")
		}
		return
	}
	low, high := 0, math.MaxInt
	for _, b := range p.mapping(f.node, f.key) {
		switch b.key {
		case "field":
			c.Values = p.texts(b)
			if len(c.Values) > maxGroupBy {
				p.fail(b.line, "field: more than %d", maxGroupBy)
			}
			continue
		case "gt", "gte", "lt", "lte", "eq", "neq":
		default:
			p.fail(b.line, "condition: %q: want gt, gte, lt, lte, eq, neq or field", b.key)
		}
		v := p.scalar(b.node, f.key)
		n, err := strconv.Atoi(v.text)
		if err != nil || n < 0 || n > maxNeed {
			p.fail(b.line, "condition: %s: want a number from 0 to %d", b.key, maxNeed)
		}
		c.bounds = append(c.bounds, bound{b.key, n})
		switch b.key {
		case "gt":
			low = max(low, n+1)
		case "gte":
			low = max(low, n)
		case "lt":
			high = min(high, n-1)
		case "lte":
			high = min(high, n)
		case "eq":
			low, high = max(low, n), min(high, n)
		}
	}
	if high < max(low, 1) {
		p.fail(f.line, "condition: no count from 1 on fulfils it; a group begins with its first event")
	}
}

// Silent says which of the rules that correlations refer to are told by those alone: no
// correlation that names the rule generates. The key is a name or an id.
func Silent(correlations []*Correlation) map[string]bool {
	silent := map[string]bool{}
	for _, c := range correlations {
		for _, reference := range c.Rules {
			if loud, seen := silent[reference]; !seen || loud {
				silent[reference] = !c.Generate
			}
		}
	}
	return silent
}
