package sigma

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

var levels = []string{"informational", "low", "medium", "high", "critical"}

// Parse reads one rule. Every error is an *Error. Keys that the format does not
// define are allowed beside the ones it does, as the format says.
func Parse(path string, raw []byte) (rule *Rule, err error) {
	p := &parse{path: path}
	// The YAML library's faults on hostile input must not end the sensor.
	defer func() {
		if r := recover(); r != nil {
			if e, ok := r.(*Error); ok {
				rule, err = nil, e
				return
			}
			rule, err = nil, &Error{Path: path, Msg: fmt.Sprintf("reading YAML: %v", r)}
		}
	}()
	if len(raw) > maxFile {
		p.fail(0, "larger than %d bytes", maxFile)
	}
	if deep(raw) {
		p.fail(0, "nested deeper than %d", maxDepth)
	}
	file, parseErr := parser.ParseBytes(raw, 0)
	if parseErr != nil {
		line := 0
		var syntax yaml.Error
		if errors.As(parseErr, &syntax) && syntax.GetToken() != nil && syntax.GetToken().Position != nil {
			line = syntax.GetToken().Position.Line
		}
		message, _, _ := strings.Cut(parseErr.Error(), "\n")
		p.fail(line, "%s", message)
	}
	var docs []*ast.DocumentNode
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc)
		}
	}
	if len(docs) != 1 {
		p.fail(0, "holds %d documents; want one rule a file", len(docs))
	}
	return p.rule(docs[0].Body), nil
}

// deep bounds what the YAML parser recurses into: flow brackets and indentation.
func deep(raw []byte) bool {
	open, indent, start := 0, 0, true
	for _, c := range raw {
		switch {
		case c == '\n':
			start, indent, open = true, 0, 0
		case start && (c == ' ' || c == '-' || c == '?' || c == ':' || c == '\t'):
			indent++
		default:
			start = false
		}
		if c == '[' || c == '{' {
			open++
		}
		// Block text may be indented freely, but not by so much.
		if open > maxDepth || indent > 16*maxDepth {
			return true
		}
	}
	return false
}

type parse struct {
	path   string
	values int
}

func (p *parse) fail(line int, format string, args ...any) {
	panic(&Error{Path: p.path, Line: line, Msg: fmt.Sprintf(format, args...)})
}

func lineOf(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

// pair is a key with its value, in the order of the file.
type pair struct {
	key  string
	line int
	node ast.Node
}

func (p *parse) mapping(n ast.Node, what string) []pair {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		p.fail(lineOf(n), "%s: want a map", what)
	}
	pairs := make([]pair, 0, len(values))
	for _, v := range values {
		key, ok := v.Key.(ast.Node)
		if !ok {
			p.fail(lineOf(v), "%s: odd key", what)
		}
		name := p.scalar(key, what).text
		if slices.ContainsFunc(pairs, func(q pair) bool { return q.key == name }) {
			p.fail(lineOf(key), "%s: key %q is there twice", what, name)
		}
		pairs = append(pairs, pair{name, lineOf(key), v.Value})
	}
	return pairs
}

func (p *parse) scalar(n ast.Node, what string) value {
	if p.values++; p.values > maxValues {
		p.fail(lineOf(n), "more than %d values", maxValues)
	}
	v := value{line: lineOf(n)}
	switch n := n.(type) {
	case *ast.StringNode:
		v.text = n.Value
	case *ast.LiteralNode:
		v.text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode:
		v.kind, v.text = valueNumber, n.GetToken().Value
	case *ast.BoolNode:
		v.kind, v.text = valueBool, strings.ToLower(n.GetToken().Value)
	case *ast.NullNode:
		v.kind = valueNull
	case *ast.InfinityNode, *ast.NanNode, *ast.MergeKeyNode:
		v.text = n.GetToken().Value
	default:
		p.fail(lineOf(n), "%s: want a plain value", what)
	}
	if len(v.text) > maxValue {
		p.fail(v.line, "%s: value longer than %d bytes", what, maxValue)
	}
	return v
}

func (p *parse) text(n ast.Node, what string) string {
	return strings.TrimSpace(p.scalar(n, what).text)
}

func (p *parse) rule(body ast.Node) *Rule {
	r := &Rule{Path: p.path, Level: "medium", searches: map[string]search{}}
	var logsource, detection ast.Node
	for _, f := range p.mapping(body, "rule") {
		switch f.key {
		case "title":
			r.Title = p.text(f.node, f.key)
		case "id":
			r.ID = strings.ToLower(p.text(f.node, f.key))
			if !uuid.MatchString(r.ID) {
				p.fail(f.line, "id %q is not a UUID", r.ID)
			}
		case "description":
			r.Description = p.text(f.node, f.key)
		case "status":
			r.Status = p.text(f.node, f.key)
		case "level":
			r.Level = strings.ToLower(p.text(f.node, f.key))
			if !slices.Contains(levels, r.Level) {
				p.fail(f.line, "level %q: want one of %s", r.Level, strings.Join(levels, ", "))
			}
		case "tags":
			for _, n := range p.sequence(f.node, f.key) {
				r.Tags = append(r.Tags, p.text(n, f.key))
			}
		case "logsource":
			logsource = f.node
		case "detection":
			detection = f.node
		case "correlation", "action":
			panic(&Error{Path: p.path, Line: f.line, Msg: f.key + ": rules of more than one event are not evaluated here", Unsupported: true})
		}
	}
	switch {
	case r.Title == "":
		p.fail(0, "title is missing")
	case logsource == nil:
		p.fail(0, "logsource is missing")
	case detection == nil:
		p.fail(0, "detection is missing")
	}
	for _, f := range p.mapping(logsource, "logsource") {
		switch f.key {
		case "category":
			r.Category = p.text(f.node, f.key)
		case "product":
			r.Product = p.text(f.node, f.key)
		case "service":
			r.Service = p.text(f.node, f.key)
		}
	}
	p.detection(r, detection)
	return r
}

func (p *parse) sequence(n ast.Node, what string) []ast.Node {
	if _, null := n.(*ast.NullNode); null {
		return nil
	}
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		p.fail(lineOf(n), "%s: want a list", what)
	}
	return s.Values
}

func (p *parse) detection(r *Rule, n ast.Node) {
	for _, f := range p.mapping(n, "detection") {
		switch f.key {
		case "condition":
			nodes := []ast.Node{f.node}
			if s, ok := f.node.(*ast.SequenceNode); ok {
				nodes = s.Values
			}
			for _, c := range nodes {
				r.condition = append(r.condition, conditionText{p.text(c, f.key), max(lineOf(c), f.line)})
			}
		case "timeframe":
			panic(&Error{Path: p.path, Line: f.line, Msg: "timeframe: rules of more than one event are not evaluated here", Unsupported: true})
		default:
			r.searches[f.key] = p.search(f)
			r.order = append(r.order, f.key)
		}
	}
	if len(r.condition) == 0 {
		p.fail(lineOf(n), "detection: condition is missing")
	}
	if len(r.searches) == 0 {
		p.fail(lineOf(n), "detection: has no search")
	}
	// The condition must be well formed and name what is there, whatever else
	// can be evaluated.
	for _, c := range r.condition {
		if _, err := parseCondition(c.text, r); err != nil {
			p.fail(c.line, "condition: %v", err)
		}
	}
}

func (p *parse) search(f pair) search {
	s := search{line: f.line}
	nodes, list := []ast.Node{f.node}, false
	if seq, ok := f.node.(*ast.SequenceNode); ok {
		nodes, list = seq.Values, true
		if len(nodes) == 0 {
			p.fail(f.line, "%s: is empty", f.key)
		}
	}
	for _, n := range nodes {
		switch n.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			var items []item
			for _, i := range p.mapping(n, f.key) {
				items = append(items, p.item(i))
			}
			if len(items) == 0 {
				p.fail(lineOf(n), "%s: is empty", f.key)
			}
			s.any = append(s.any, items)
		default:
			if !list {
				p.fail(max(lineOf(n), f.line), "%s: want a map or a list", f.key)
			}
			p.scalar(n, f.key)
			s.keywords = true
		}
	}
	if s.keywords && len(s.any) > 0 {
		p.fail(f.line, "%s: words and maps in one list", f.key)
	}
	return s
}

func (p *parse) item(f pair) item {
	parts := strings.Split(f.key, "|")
	i := item{line: f.line, field: parts[0], modifiers: parts[1:]}
	if slices.Contains(i.modifiers, "") {
		p.fail(f.line, "%s: empty modifier", f.key)
	}
	if seq, ok := f.node.(*ast.SequenceNode); ok {
		if len(seq.Values) == 0 {
			p.fail(f.line, "%s: has no values", f.key)
		}
		for _, n := range seq.Values {
			i.values = append(i.values, p.scalar(n, f.key))
		}
		return i
	}
	i.values = []value{p.scalar(f.node, f.key)}
	return i
}
