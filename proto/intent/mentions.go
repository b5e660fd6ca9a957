package intent

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// evidence are the attributes of the context, as the schema has them.
var evidence = []string{
	"level", "confidence", "severity", "kind", "rule", "techniques", "tainted",
	"learning", "losses", "image", "traits", "user", "unit", "account",
}

// mentions are what one policy speaks of: what must exist, and which requests could
// make a difference to it.
type mentions struct {
	entities   []cedar.EntityUID
	attributes map[string]bool     // of the context
	others     map[string]bool     // attributes of principal, action and resource
	literals   map[string][]string // by attribute that they are compared with
	strings    []string            // all of them
	confidence []int64             // decimals, in ten-thousandths
	labels     []string            // keys
	patterns   int                 // how often like is written
	hostName   bool
}

// patternProbe stands for what a wildcard matches.
const patternProbe = "x"

func mentionsOf(p *ast.Policy) *mentions {
	m := &mentions{attributes: map[string]bool{}, others: map[string]bool{}, literals: map[string][]string{}}
	for _, scope := range []any{p.Principal, p.Action, p.Resource} {
		switch s := scope.(type) {
		case ast.ScopeTypeEq:
			m.entities = append(m.entities, s.Entity)
		case ast.ScopeTypeIn:
			m.entities = append(m.entities, s.Entity)
		case ast.ScopeTypeInSet:
			m.entities = append(m.entities, s.Entities...)
		case ast.ScopeTypeIsIn:
			m.entities = append(m.entities, s.Entity)
		}
	}
	for _, condition := range p.Conditions {
		ast.Inspect(ast.NewNode(condition.Body), func(n ast.IsNode) bool { m.node(n); return true })
	}
	for attribute, values := range m.literals {
		m.literals[attribute] = sorted(values)
	}
	m.strings, m.labels = sorted(m.strings), sorted(m.labels)
	slices.Sort(m.confidence)
	m.confidence = slices.Compact(m.confidence)
	return m
}

func sorted(values []string) []string {
	slices.Sort(values)
	return slices.Compact(values)
}

func (m *mentions) node(n ast.IsNode) {
	switch n := n.(type) {
	case ast.NodeValue:
		switch v := n.Value.(type) {
		case cedar.EntityUID:
			m.entities = append(m.entities, v)
		case cedar.String:
			m.strings = append(m.strings, string(v))
		}
	case ast.NodeTypeAccess:
		m.attribute(n.Arg, string(n.Value))
	case ast.NodeTypeHas:
		m.attribute(n.Arg, string(n.Value))
	case ast.NodeTypeHasTag:
		m.labels = append(m.labels, literalsIn(n.Right)...)
	case ast.NodeTypeGetTag:
		m.labels = append(m.labels, literalsIn(n.Right)...)
	case ast.NodeTypeEquals:
		m.compared(n.Left, n.Right)
	case ast.NodeTypeNotEquals:
		m.compared(n.Left, n.Right)
	case ast.NodeTypeContains:
		m.compared(n.Left, n.Right)
	case ast.NodeTypeContainsAll:
		m.compared(n.Left, n.Right)
	case ast.NodeTypeContainsAny:
		m.compared(n.Left, n.Right)
	case ast.NodeTypeLike:
		m.pattern(n)
	case ast.NodeTypeExtensionCall:
		if n.Name == "decimal" && len(n.Args) == 1 {
			for _, text := range literalsIn(n.Args[0]) {
				if d, err := types.ParseDecimal(text); err == nil {
					m.confidence = append(m.confidence, tenThousandths(d.Float()))
				}
			}
		}
	}
}

func (m *mentions) attribute(of ast.IsNode, name string) {
	v, ok := of.(ast.NodeTypeVariable)
	switch {
	case ok && v.Name == "context":
		m.attributes[name] = true
	case ok:
		m.others[string(v.Name)+"."+name] = true
		m.hostName = m.hostName || (v.Name == "resource" && name == "name")
	}
}

// compared notes which literals an attribute is compared with.
func (m *mentions) compared(a, b ast.IsNode) {
	for _, pair := range [][2]ast.IsNode{{a, b}, {b, a}} {
		if attribute := attributeOf(pair[0]); attribute != "" {
			m.literals[attribute] = append(m.literals[attribute], literalsIn(pair[1])...)
		}
	}
}

func (m *mentions) pattern(n ast.NodeTypeLike) {
	m.patterns++
	text := strings.Trim(string(n.Value.MarshalCedar()), `"`)
	for _, instead := range []string{"", patternProbe} {
		value := strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(text, `\*`, "\x00"), "*", instead), "\x00", "*")
		m.strings = append(m.strings, value)
		if attribute := attributeOf(n.Arg); attribute != "" && attribute != "severity" {
			m.literals[attribute] = append(m.literals[attribute], value)
		}
	}
}

// attributeOf is the attribute of the context that n is; empty when it is none.
func attributeOf(n ast.IsNode) string {
	access, ok := n.(ast.NodeTypeAccess)
	if !ok {
		return ""
	}
	if v, ok := access.Arg.(ast.NodeTypeVariable); !ok || v.Name != "context" {
		return ""
	}
	return string(access.Value)
}

// literalsIn are the strings of a literal or of a set of literals.
func literalsIn(n ast.IsNode) []string {
	switch n := n.(type) {
	case ast.NodeValue:
		if s, ok := n.Value.(cedar.String); ok {
			return []string{string(s)}
		}
	case ast.NodeTypeSet:
		var all []string
		for _, element := range n.Elements {
			all = append(all, literalsIn(element)...)
		}
		return all
	}
	return nil
}

// problems are names that do not exist, each with the one that was perhaps meant.
func (m *mentions) problems(in *sensorv1.Intent) []string {
	var problems []string
	for _, uid := range m.entities {
		if problem := entityProblem(uid, in); problem != "" && !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.attributes)) {
		if !slices.Contains(evidence, name) {
			problems = append(problems, fmt.Sprintf("context has no attribute %s%s; it has %s", name, meant("context.", nearest(name, evidence)), strings.Join(evidence, ", ")))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.others)) {
		if name != "resource.name" {
			problems = append(problems, fmt.Sprintf(`there is no %s: a host has resource.name, and a label is read as resource.hasTag("role") && resource.getTag("role") == "web"`, name))
		}
	}
	for _, value := range m.literals["severity"] {
		if !slices.Contains(severities, value) {
			problems = append(problems, fmt.Sprintf("no finding has the severity %q%s; there are %s", value, meant("", nearest(value, severities)), strings.Join(severities, ", ")))
		}
	}
	return problems
}

func entityProblem(uid cedar.EntityUID, in *sensorv1.Intent) string {
	id := string(uid.ID)
	switch uid.Type {
	case typeAutomation:
		if uid != principal {
			return fmt.Sprintf("there is no %s: who acts is always %s", uid, principal)
		}
	case typeAction:
		if ParseAction(id) == sensorv1.Action_ACTION_UNSPECIFIED {
			return fmt.Sprintf("there is no action %q%s; there are %s", id, meant("", nearest(id, ActionNames())), strings.Join(ActionNames(), ", "))
		}
	case typeGroup:
		names := groupNames(in)
		if !slices.Contains(names, id) {
			return fmt.Sprintf("there is no group %q%s; the intent has %s", id, meant("", nearest(id, names)), list(names, "none"))
		}
	case typeHost:
	default:
		known := []string{string(typeAutomation), string(typeAction), string(typeGroup), string(typeHost)}
		for _, t := range known {
			if strings.EqualFold("Vedette::"+string(uid.Type), t) || strings.EqualFold(string(uid.Type), t) {
				return fmt.Sprintf("%s is written %s::%q", uid, t, id)
			}
		}
		return fmt.Sprintf("there is no entity type %s; there are %s", uid.Type, strings.Join(known, ", "))
	}
	return ""
}

// groupNames are those of the groups and of the protected ones, ascending.
func groupNames(in *sensorv1.Intent) []string {
	var names []string
	for _, g := range in.GetGroups() {
		names = append(names, g.GetName())
	}
	for _, g := range in.GetGovernor().GetProtected() {
		names = append(names, g.GetName())
	}
	return sorted(names)
}

func meant(prefix, word string) string {
	if word == "" {
		return ""
	}
	return " (" + prefix + word + " is perhaps meant)"
}

func list(words []string, none string) string {
	if len(words) == 0 {
		return none
	}
	return strings.Join(words, ", ")
}

var techniqueForm = regexp.MustCompile(`^T\d{4}(\.\d{3})?$`)
