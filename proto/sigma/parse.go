package sigma

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

var levels = []string{"informational", "low", "medium", "high", "critical"}

// File is what a file holds.
type File struct {
	Rules        []*Rule
	Correlations []*Correlation
}

// ParseFile reads a file of one or more documents. Each error is an *Error and costs its
// document alone; one of the YAML itself, the file. Keys that the format does not define
// are allowed beside the ones it does, as the format says.
func ParseFile(path string, raw []byte) (*File, []error) {
	file := &File{}
	var docs []*ast.DocumentNode
	if err := guard(path, func(p *parse) { docs = p.documents(raw) }); err != nil {
		return file, []error{err}
	}
	var refused []error
	for _, doc := range docs {
		err := guard(path, func(p *parse) {
			pairs := p.mapping(doc.Body, "rule")
			if i := slices.IndexFunc(pairs, func(f pair) bool { return f.key == "correlation" }); i >= 0 {
				file.Correlations = append(file.Correlations, p.correlation(pairs, lineOf(doc.Body)))
				return
			}
			file.Rules = append(file.Rules, p.rule(pairs, lineOf(doc.Body)))
		})
		if err != nil {
			refused = append(refused, err)
		}
	}
	return file, refused
}

// Parse reads a file that holds one rule about one record.
func Parse(path string, raw []byte) (*Rule, error) {
	file, refused := ParseFile(path, raw)
	switch {
	case len(refused) > 0:
		return nil, refused[0]
	case len(file.Rules) != 1 || len(file.Correlations) > 0:
		return nil, &Error{Path: path, Msg: fmt.Sprintf("holds %d documents; want one rule", len(file.Rules)+len(file.Correlations))}
	}
	return file.Rules[0], nil
}

// guard runs a step of parsing, whose faults are told by panics with an *Error. Those of
// the YAML library on hostile input must not end the sensor either.
func guard(path string, step func(*parse)) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Error:
			err = r
		default:
			err = &Error{Path: path, Msg: fmt.Sprintf("reading YAML: %v", r)}
		}
	}()
	step(&parse{path: path})
	return nil
}

func (p *parse) documents(raw []byte) (docs []*ast.DocumentNode) {
	if len(raw) > maxFile {
		p.fail(0, "larger than %d bytes", maxFile)
	}
	if deep(raw) {
		p.fail(0, "nested deeper than %d", maxDepth)
	}
	tokens := lexer.Tokenize(string(raw))
	open, documents := 0, 1
	for _, t := range tokens {
		switch t.Type {
		case token.DocumentHeaderType:
			documents++ // each costs the library a look at all of the others
		case token.SequenceStartType, token.MappingStartType:
			open++
		case token.SequenceEndType, token.MappingEndType:
			open--
		}
		if open > maxDepth {
			p.fail(t.Position.Line, "nested deeper than %d", maxDepth)
		}
		if documents > maxDocuments+1 {
			p.fail(t.Position.Line, "holds more than %d documents", maxDocuments)
		}
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		// Its Error() draws the place, in time that is quadratic in the file.
		var syntax yaml.Error
		if !errors.As(err, &syntax) {
			p.fail(0, "reading YAML: %v", err)
		}
		line := 0
		if t := syntax.GetToken(); t != nil && t.Position != nil {
			line = t.Position.Line
		}
		p.fail(line, "YAML: %s", syntax.GetMessage())
	}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			docs = append(docs, doc)
		}
	}
	switch {
	case len(docs) == 0:
		p.fail(0, "holds 0 documents; want a rule")
	case len(docs) > maxDocuments:
		p.fail(0, "holds %d documents; want %d at most", len(docs), maxDocuments)
	}
	return docs
}

// deep bounds what the YAML library recurses into: flow brackets in a line, which its lexer
// looks at too, and indentation.
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
		// A value may hold some brackets, and block text may be indented freely, but not so much.
		if open > 16*maxDepth || indent > 16*maxDepth {
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
	case *ast.IntegerNode:
		v.kind, v.text = valueNumber, fmt.Sprint(n.Value)
	case *ast.FloatNode:
		v.kind, v.text = valueNumber, n.GetToken().Value
	case *ast.BoolNode:
		v.kind, v.text = valueBool, strings.ToLower(n.GetToken().Value)
	case *ast.NullNode:
		v.kind = valueNull
	case *ast.InfinityNode, *ast.NanNode, *ast.MergeKeyNode:
		v.text = n.GetToken().Value
	case *ast.AnchorNode, *ast.AliasNode:
		p.fail(lineOf(n), "%s: anchors and aliases are not read; write the value out", what)
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

// header reads the keys that rules of both kinds have, and says whether f is one.
func (p *parse) header(r *Header, f pair) bool {
	switch f.key {
	case "title":
		r.Title = p.text(f.node, f.key)
	case "id":
		r.ID = strings.ToLower(p.text(f.node, f.key))
		if !uuid.MatchString(r.ID) {
			p.fail(f.line, "id %q is not a UUID", r.ID)
		}
	case "name":
		r.Name = p.text(f.node, f.key)
	case "description":
		r.Description = p.text(f.node, f.key)
	case "status":
		r.Status = p.text(f.node, f.key)
	case "level":
		r.Level, r.Unsaid = strings.ToLower(p.text(f.node, f.key)), false
		if !slices.Contains(levels, r.Level) {
			p.fail(f.line, "level %q: want one of %s", r.Level, strings.Join(levels, ", "))
		}
	case "tags":
		for _, n := range p.sequence(f.node, f.key) {
			r.Tags = append(r.Tags, p.text(n, f.key))
		}
	default:
		return false
	}
	return true
}

func (p *parse) rule(pairs []pair, line int) *Rule {
	r := &Rule{Header: Header{Path: p.path, Line: line, Level: "medium", Unsaid: true}, searches: map[string]search{}}
	var logsource, detection ast.Node
	for _, f := range pairs {
		switch f.key {
		case "logsource":
			logsource = f.node
		case "detection":
			detection = f.node
		case "action":
			p.unsupported(f.line, "action: collections are not read; write each rule out, with --- between them")
		case "filter":
			p.unsupported(f.line, "filter: filters for other rules are not applied; put the exception into the rule")
		default:
			p.header(&r.Header, f)
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
			r.Category = strings.ToLower(p.text(f.node, f.key))
		case "product":
			r.Product = strings.ToLower(p.text(f.node, f.key))
		case "service":
			r.Service = strings.ToLower(p.text(f.node, f.key))
		}
	}
	p.detection(r, detection)
	return r
}

func (p *parse) unsupported(line int, msg string) {
	panic(&Error{Path: p.path, Line: line, Msg: msg, Unsupported: true})
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
			p.unsupported(f.line, "timeframe: this form was replaced; write a correlation rule with a timespan")
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
		if aggregates(c.text) {
			p.unsupported(c.line, "condition: aggregations were replaced; write a correlation rule of type event_count or value_count")
		}
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
	words := item{line: f.line}
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
		case *ast.AnchorNode, *ast.AliasNode:
			p.scalar(n, f.key)
		default:
			if !list {
				p.fail(max(lineOf(n), f.line), "%s: want a map or a list", f.key)
			}
			words.values = append(words.values, p.scalar(n, f.key))
		}
	}
	if len(words.values) > 0 {
		s.any = append(s.any, []item{words})
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
