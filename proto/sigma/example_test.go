package sigma

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// reference decides a rule as it is written, by other means than the code under test:
// each value becomes a regular expression.
type reference struct {
	t      *testing.T
	rule   *Rule
	source Source
	r      Record
}

func (x reference) match() bool {
	for _, text := range x.rule.condition {
		tree, err := parseCondition(text.text, x.rule)
		if err != nil {
			x.t.Fatal(err)
		}
		if x.condition(tree) {
			return true
		}
	}
	return false
}

func (x reference) condition(c *condition) bool {
	have := 0
	for _, kid := range c.kids {
		if x.condition(kid) {
			have++
		}
	}
	switch c.op {
	case '&':
		return have == len(c.kids)
	case '|':
		return have > 0
	case '!':
		return have == 0
	case '#':
		return have >= c.least
	}
	return slices.ContainsFunc(x.rule.searches[c.name].any, func(items []item) bool {
		return !slices.ContainsFunc(items, func(i item) bool { return !x.item(i) })
	})
}

func (x reference) item(i item) bool {
	fields := x.source.Text
	if i.field != "" {
		fields = []int{x.source.Fields[i.field]}
	}
	holds := func(v value) bool {
		return slices.ContainsFunc(fields, func(n int) bool { return x.value(i, n, v) })
	}
	if slices.Contains(i.modifiers, "neq") {
		return !slices.ContainsFunc(i.values, holds)
	}
	if slices.Contains(i.modifiers, "all") {
		return !slices.ContainsFunc(i.values, func(v value) bool { return !holds(v) })
	}
	return slices.ContainsFunc(i.values, holds)
}

func (x reference) value(i item, field int, v value) bool {
	has := func(m string) bool { return slices.Contains(i.modifiers, m) }
	values := x.r.Field(field)
	switch {
	case has("exists"):
		return (len(values) > 0) == (v.text == "true")
	case v.kind == valueNull:
		return len(values) == 0
	}
	pattern := "^" + globPattern(v.text) + "$"
	if has("contains") || i.field == "" {
		pattern = globPattern(v.text)
	}
	if has("startswith") {
		pattern = "^" + globPattern(v.text)
	}
	if has("endswith") {
		pattern = globPattern(v.text) + "$"
	}
	flags := "(?is)"
	if has("cased") {
		flags = "(?s)"
	}
	if has("re") {
		pattern, flags = v.text, ""
		for _, flag := range []string{"i", "m", "s"} {
			if has(flag) {
				flags += "(?" + flag + ")"
			}
		}
	}
	re, err := regexp.Compile(flags + pattern)
	if err != nil {
		x.t.Fatal(err)
	}
	return slices.ContainsFunc(values, func(text string) bool {
		if has("cidr") {
			_, network, err := net.ParseCIDR(v.text)
			return err == nil && network.Contains(net.ParseIP(text))
		}
		for m, holds := range map[string]func(a, b float64) bool{
			"lt": func(a, b float64) bool { return a < b }, "lte": func(a, b float64) bool { return a <= b },
			"gt": func(a, b float64) bool { return a > b }, "gte": func(a, b float64) bool { return a >= b },
		} {
			if has(m) {
				a, err := strconv.ParseFloat(text, 64)
				b, _ := strconv.ParseFloat(v.text, 64)
				return err == nil && holds(a, b)
			}
		}
		return re.MatchString(text)
	})
}

var globToken = regexp.MustCompile(`(?s)\\[*?\\]|.`)

func globPattern(glob string) string {
	return globToken.ReplaceAllStringFunc(glob, func(token string) string {
		switch {
		case token == "*":
			return ".*"
		case token == "?":
			return "."
		case len(token) == 2 && token[0] == '\\':
			return regexp.QuoteMeta(token[1:])
		}
		return regexp.QuoteMeta(token)
	})
}

// Ensure each rule, built in or of the ecosystem, has a record that it matches and one that
// it does not, that an independent reading of the rule agrees, and that the index does for
// each record and every rule.
func TestExamples(t *testing.T) {
	trees := map[string]fs.FS{"built in": os.DirFS("../../sensor/rules")}
	if dir := os.Getenv("VEDETTE_SIGMA_DIR"); dir != "" {
		trees["ecosystem"] = os.DirFS(dir)
	} else if _, err := os.Stat("../../../shared/eval/sigma"); err == nil {
		trees["ecosystem"] = os.DirFS("../../../shared/eval/sigma")
	}
	for name, tree := range trees {
		t.Run(name, func(t *testing.T) { tryExamples(t, tree) })
	}
	if len(trees) == 1 {
		t.Run("ecosystem", func(t *testing.T) { t.Skip("SKIP: needs the Sigma rules (set VEDETTE_SIGMA_DIR)") })
	}
}

func tryExamples(t *testing.T, tree fs.FS) {
	// All fields of all rules are those of one source, so that one index holds them all.
	all := Source{Of: "any", Fields: map[string]int{}, Text: []int{0}}
	var rules []*Rule
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".yml") {
			return err
		}
		raw, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		file, refused := ParseFile(path, raw)
		if len(refused) > 0 {
			return refused[0]
		}
		for _, r := range file.Rules {
			for field := range Complete(r)[0].Fields {
				if _, known := all.Fields[field]; !known {
					all.Fields[field] = len(all.Fields) + 1
				}
			}
			r.Category, r.Service, r.Product = "", "", "linux"
			rules = append(rules, r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var matchers []*Matcher
	for _, r := range rules {
		m, err := Compile(r, Schema{all})
		if err != nil {
			t.Fatal(err)
		}
		matchers = append(matchers, m...)
	}
	x, s := NewIndex(matchers), &Scratch{}
	made := 0
	var records []Example
	for i, m := range matchers {
		match, miss, err := m.Examples(nil)
		if err != nil {
			t.Errorf("%s: %v", m.Rule.Path, err)
			continue
		}
		for _, e := range []struct {
			record Example
			want   bool
		}{{match, true}, {miss, false}} {
			if got := (reference{t, m.Rule, all, e.record}).match(); got != e.want {
				t.Errorf("%s: %v for %v", m.Rule.Path, got, e.record)
			}
			if got := slices.Contains(x.Match(e.record, s), int32(i)); got != e.want {
				t.Errorf("%s: the index says %v for %v", m.Rule.Path, got, e.record)
			}
			if len(e.record) == 0 && e.want {
				t.Errorf("%s: matches a record without anything", m.Rule.Path)
			}
		}
		made++
		records = append(records, match, miss)
	}
	t.Logf("%d of %d rules have a record that they match and one that they do not", made, len(rules))
	if testing.Short() {
		return
	}
	pairs := 0
	for n, record := range records {
		found := x.Match(record, s)
		for i, m := range matchers {
			if (n+i)%7 != 0 { // the reference is slow
				continue
			}
			pairs++
			if got, want := slices.Contains(found, int32(i)), (reference{t, m.Rule, all, record}).match(); got != want {
				t.Errorf("%s: the index says %v, its text %v, for %v", m.Rule.Path, got, want, record)
			}
		}
	}
	t.Logf("%d pairs of a rule and a record agree with an independent reading", pairs)
}

// Ensure an example is found where fields and negations make it hard, and none where there is none.
func TestHardExamples(t *testing.T) {
	for _, tt := range []struct {
		detection string
		possible  bool
	}{
		{"s: {Image|endswith: /sh, CommandLine|contains|all: [a, b c]}\n  f: {Image|startswith: /usr}\n  condition: s and not f", true},
		{"s: {Image|startswith: /usr/, Image|endswith: /sh}\n  f: {Image: [/usr/sh, '/usr/ /sh']}\n  condition: s and not f", true},
		{"s: {Port|gt: 10, Port|lt: 12}\n  condition: s", true},
		{"s: {Ip|cidr: 10.0.0.0/8}\n  f: {Ip: 10.0.0.0}\n  condition: s and not f", true},
		{"s: {Kind|all: [PATH, EXECVE]}\n  condition: s", true},
		{"s: {CommandLine|re: '^(nc|ncat)\\s+-[el]{2}\\b'}\n  f: {CommandLine|contains: 'nc '}\n  condition: s and not f", true},
		{"s: {Image|fieldref: User}\n  condition: s", true},
		{"s: {Image: a}\n  f: {User: b}\n  g: {Port: 1}\n  condition: 2 of them and not g", true},
		{"s: {Image|exists: false, User: null, Port: 1}\n  condition: s", true},
		{"s: {Image: a}\n  f: {Image|contains: a}\n  condition: s and not f", false},
		{"s: {Image: a}\n  condition: s or not s", false},
	} {
		m := compile(t, "  "+tt.detection)
		match, miss, err := m.Examples(nil)
		if (err == nil) != tt.possible {
			t.Errorf("%s: %v", tt.detection, err)
			continue
		}
		if tt.possible && (!m.Match(match) || m.Match(miss)) {
			t.Errorf("%s: %v, %v", tt.detection, match, miss)
		}
	}
}

func FuzzExamples(f *testing.F) {
	f.Add("s: {Image|endswith: /sh}\n  t: {CommandLine|re: '(a|b)+c'}\n  condition: s and not t")
	f.Fuzz(func(t *testing.T, detection string) {
		file, _ := ParseFile("f.yml", []byte("title: T\nlogsource: {category: process_creation}\ndetection:\n  "+detection))
		for _, rule := range file.Rules {
			all, err := Compile(rule, testSchema)
			if err != nil {
				continue
			}
			for _, m := range all {
				if match, miss, err := m.Examples(nil); err == nil && (!m.Match(match) || m.Match(miss)) {
					t.Error(fmt.Sprint(match, miss))
				}
			}
		}
	})
}
