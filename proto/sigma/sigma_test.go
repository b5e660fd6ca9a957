package sigma

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var testSchema = Schema{
	{
		Of: "process_creation", Category: "process_creation",
		Fields: map[string]int{"Image": 0, "CommandLine": 1, "User": 2, "Ip": 3, "Port": 4, "Kind": 5},
		Values: map[int][]string{5: {"EXECVE", "PATH"}},
	},
	{Of: "line", Service: "syslog", Text: []int{0, 1}},
}

type fields [][]string

func (f fields) Field(n int) []string { return f[n] }

func (f fields) Folded(n int) []string {
	var out []string
	for _, v := range f[n] {
		out = append(out, Fold(v))
	}
	return out
}

func compile(t *testing.T, detection string) *Matcher {
	t.Helper()
	rule, err := Parse("t.yml", []byte("title: T\nlogsource:\n  category: process_creation\ndetection:\n"+detection))
	if err != nil {
		t.Fatalf("parse: %v\n%s", err, detection)
	}
	m, err := Compile(rule, testSchema)
	if err != nil {
		t.Fatalf("compile: %v\n%s", err, detection)
	}
	return m[0]
}

// Ensure values mean what the Sigma specification says.
func TestMatch(t *testing.T) {
	event := fields{{"/usr/bin/Bash"}, {`bash -c "cat C:\temp\a*b 100%"`}, {"root"}, {"10.1.2.3"}, {"22"}, {"EXECVE"}}
	for _, tt := range []struct {
		detection string
		want      bool
	}{
		{"  s:\n    Image: /usr/bin/bash\n  condition: s", true},
		{"  s:\n    Image|cased: /usr/bin/bash\n  condition: s", false},
		{"  s:\n    Image|endswith: '/BASH'\n  condition: s", true},
		{"  s:\n    Image|endswith|cased: '/Bash'\n  condition: s", true},
		{"  s:\n    Image|startswith: '/bin'\n  condition: s", false},
		{"  s:\n    Image: '*/b?sh'\n  condition: s", true},
		{"  s:\n    Image: '*/b?h'\n  condition: s", false},
		{"  s:\n    CommandLine|contains: 'a\\*b'\n  condition: s", true},
		{"  s:\n    CommandLine|contains: 'c\\*t'\n  condition: s", false},
		{"  s:\n    CommandLine|contains: 'c*t'\n  condition: s", true},
		{"  s:\n    CommandLine|contains: 'C:\\temp\\a'\n  condition: s", true},
		{"  s:\n    CommandLine|contains: 'C:\\\\temp'\n  condition: s", true},
		{"  s:\n    CommandLine|contains|all:\n      - bash\n      - cat\n  condition: s", true},
		{"  s:\n    CommandLine|contains|all:\n      - bash\n      - dog\n  condition: s", false},
		{"  s:\n    CommandLine|contains:\n      - bash\n      - dog\n  condition: s", true},
		{"  s:\n    CommandLine|re: '^bash\\s'\n  condition: s", true},
		{"  s:\n    CommandLine|re: '^BASH\\s'\n  condition: s", false},
		{"  s:\n    CommandLine|re|i: '^BASH\\s'\n  condition: s", true},
		{"  s:\n    Ip|cidr: 10.0.0.0/8\n  condition: s", true},
		{"  s:\n    Ip|cidr: 192.168.0.0/16\n  condition: s", false},
		{"  s:\n    User|exists: true\n  condition: s", true},
		{"  s:\n    User|exists: false\n  condition: s", false},
		{"  s:\n    User: null\n  condition: s", false},
		{"  s:\n    - User: nobody\n    - User: root\n  condition: s", true},
		{"  s:\n    User: root\n    Image: x\n  condition: s", false},
		{"  a_1:\n    User: root\n  a_2:\n    User: x\n  condition: 1 of a_*", true},
		{"  a_1:\n    User: root\n  a_2:\n    User: x\n  condition: all of a_*", false},
		{"  a_1:\n    User: root\n  _b:\n    User: x\n  condition: all of them", true},
		{"  a:\n    User: root\n  b:\n    User: x\n  condition: a and not b", true},
		{"  a:\n    User: root\n  b:\n    User: x\n  condition: not (a or b)", false},
		{"  a:\n    User: root\n  b:\n    User: x\n  condition: b or a and a", true},
		{"  a:\n    User: root\n  b:\n    User: x\n  condition:\n    - b\n    - a", true},
	} {
		if got := compile(t, tt.detection).Match(event); got != tt.want {
			t.Errorf("got %v, want %v for\n%s", got, tt.want, tt.detection)
		}
	}
	absent := fields{nil, nil, nil, nil, nil, nil}
	for detection, want := range map[string]bool{
		"  s:\n    User: null\n  condition: s":            true,
		"  s:\n    User: '*'\n  condition: s":             false,
		"  s:\n    User|exists: false\n  condition: s":    true,
		"  s:\n    User|contains: ''\n  condition: not s": true,
	} {
		if got := compile(t, detection).Match(absent); got != want {
			t.Errorf("absent: got %v, want %v for\n%s", got, want, detection)
		}
	}
}

// Ensure a bad rule is refused with its line.
func TestRefused(t *testing.T) {
	head := "title: T\nlogsource:\n  category: process_creation\n"
	for _, tt := range []struct {
		name, rule  string
		line        int
		want        string
		unsupported bool
	}{
		{"not yaml", "title: [", 1, "", false},
		{"list", "- a\n", 1, "want a map", false},
		{"no title", "logsource: {category: x}\ndetection: {s: {A: b}, condition: s}\n", 0, "title is missing", false},
		{"no detection", head, 0, "detection is missing", false},
		{"no condition", head + "detection:\n  s:\n    Image: x\n", 0, "condition is missing", false},
		{"unknown search", head + "detection:\n  s:\n    Image: x\n  condition: t\n", 7, `names "t"`, false},
		{"open parenthesis", head + "detection:\n  s:\n    Image: x\n  condition: (s\n", 7, "closing parenthesis", false},
		{"aggregation", head + "detection:\n  s:\n    Image: x\n  condition: s | count() > 5\n", 7, "correlation rule", true},
		{"pipe", head + "detection:\n  s:\n    Image: x\n  condition: s | x\n", 7, `unexpected "|"`, false},
		{"bad level", head + "level: awful\ndetection:\n  s:\n    Image: x\n  condition: s\n", 4, "level", false},
		{"bad id", "id: 12\n" + head + "detection:\n  s:\n    Image: x\n  condition: s\n", 1, "not a UUID", false},
		{"twice", head + "detection:\n  s:\n    Image: x\n    Image: y\n  condition: s\n", 7, "", false},
		{"unknown field", head + "detection:\n  s:\n    Colour: x\n  condition: s\n", 6, `field "Colour"`, true},
		{"unknown modifier", head + "detection:\n  s:\n    Image|containz: x\n  condition: s\n", 6, `modifier "containz"`, false},
		{"placeholder", head + "detection:\n  s:\n    Image|expand: '%x%'\n  condition: s\n", 6, "placeholders", true},
		{"date", head + "detection:\n  s:\n    Image|hour: 3\n  condition: s\n", 6, "date", true},
		{"wide alone", head + "detection:\n  s:\n    Image|wide: x\n  condition: s\n", 6, "before base64", false},
		{"encoded wildcard", head + "detection:\n  s:\n    Image|base64: 'x*'\n  condition: s\n", 6, "cannot be encoded", false},
		{"both encodings", head + "detection:\n  s:\n    Image|base64|base64offset: 'x'\n  condition: s\n", 6, "exclude", false},
		{"cidr and windash", head + "detection:\n  s:\n    Ip|cidr|windash: 10.0.0.0/8\n  condition: s\n", 6, "as they are", false},
		{"many dashes", head + "detection:\n  s:\n    CommandLine|windash: '-a -b -c -d'\n  condition: s\n", 6, "fewer dashes", false},
		{"not a number", head + "detection:\n  s:\n    Port|gt: x\n  condition: s\n", 6, "not a number", false},
		{"nan", head + "detection:\n  s:\n    Port|gt: nan\n  condition: s\n", 6, "not a number", false},
		{"reference", head + "detection:\n  s:\n    Image|fieldref: Colour\n  condition: s\n", 6, `field "Colour"`, true},
		{"flags alone", head + "detection:\n  s:\n    Image|i: x\n  condition: s\n", 6, "belongs after re", false},
		{"null search", head + "detection:\n  s:\n    Image|contains: null\n  condition: s\n", 6, "null", false},
		{"exists what", head + "detection:\n  s:\n    Image|exists: x\n  condition: s\n", 6, "true or false", false},
		{"large regexp", head + "detection:\n  s:\n    Image|re: '(a{900}|b{900}|c{900}).*x'\n  condition: s\n", 6, "fewer or smaller", false},
		{"long regexp", head + "detection:\n  s:\n    Image|re: '" + strings.Repeat("a", maxPattern+1) + "'\n  condition: s\n", 6, "longer than", false},
		{"wildcards", head + "detection:\n  s:\n    Image: '" + strings.Repeat("a*", maxWildcards+1) + "'\n  condition: s\n", 6, "wildcards", false},
		{"never held", head + "detection:\n  s:\n    Kind: USER_TTY\n  condition: s\n", 6, "USER_TTY", true},
		{"more than there is", head + "detection:\n  s:\n    Image: x\n  condition: 2 of s*\n", 7, "of which there are 1", false},
		{"none of", head + "detection:\n  s:\n    Image: x\n  condition: 0 of s*\n", 7, "number from 1 on", false},
		{"alias", head + "detection:\n  s:\n    Image: &a x\n    User: *a\n  condition: s\n", 6, "anchors and aliases", false},
		{"filter", head + "filter: {rules: [a], selection: {Image: x}, condition: selection}\n", 4, "filters", true},
		{"action", "action: global\n" + head, 1, "collections", true},
		{"deep over lines", "a: " + strings.Repeat("[\n", 100), 33, "nested deeper", false},
		{"references a lot", head + "detection:\n  s:\n    Image: [" + strings.Repeat("x,", 4000) + "x]\n  condition: s or s or s or s or s\n", 7, "comparisons", false},
		{"two operators", head + "detection:\n  s:\n    Image|contains|endswith: x\n  condition: s\n", 6, "exclude", false},
		{"bad regexp", head + "detection:\n  s:\n    Image|re: '(?=x)'\n  condition: s\n", 6, "re:", true},
		{"bad network", head + "detection:\n  s:\n    Ip|cidr: ten\n  condition: s\n", 6, "not a network", false},
		{"keywords", head + "detection:\n  s:\n    - x\n  condition: s\n", 5, "bare words", true},
		{"keywords negated", "title: T\nlogsource:\n  service: syslog\ndetection:\n  s:\n    '|cidr':\n      - 10.0.0.0/8\n  condition: s\n", 6, "bare words take no", false},
		{"two documents", head + "detection: {s: {Image: x}, condition: s}\n---\n" + head + "detection: {s: {Image: x}, condition: s}\n", 0, "2 documents", false},
		{"deep", "a: " + strings.Repeat("[", 100), 0, "nested deeper", false},
		{"large", strings.Repeat("#", maxFile+1), 0, "larger than", false},
	} {
		rule, err := Parse("dir/t.yml", []byte(tt.rule))
		if err == nil {
			_, err = Compile(rule, testSchema)
		}
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("%s: got %v, want an *Error", tt.name, err)
			continue
		}
		if refused.Line != tt.line && tt.line != 0 || !strings.Contains(refused.Msg, tt.want) || refused.Unsupported != tt.unsupported {
			t.Errorf("%s: got %v (line %d, unsupported %v), want %q at line %d, unsupported %v",
				tt.name, refused, refused.Line, refused.Unsupported, tt.want, tt.line, tt.unsupported)
		}
		if !strings.HasPrefix(err.Error(), "dir/t.yml") {
			t.Errorf("%s: %q does not name the file", tt.name, err)
		}
	}
}

func TestTechniques(t *testing.T) {
	r := Header{Tags: []string{"attack.t1059.004", "attack.execution", "attack.T1190", "attack.s0508", "attack.t", "cve.2021-1"}}
	if got := strings.Join(r.Techniques(), " "); got != "T1059.004 T1190" {
		t.Errorf("got %q", got)
	}
}

// Ensure rules as the ecosystem writes them are understood.
func TestEcosystem(t *testing.T) {
	dir := os.Getenv("VEDETTE_SIGMA_DIR")
	if dir == "" {
		dir = "../../../shared/eval/sigma"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIP: needs the Sigma rules at %s (set VEDETTE_SIGMA_DIR)", dir)
	}
	files, parsed, compiled := 0, 0, 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yml" {
			return err
		}
		files++
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rule, err := Parse(path, raw)
		if err != nil {
			t.Error(err)
			return nil
		}
		parsed++
		if _, err := Compile(rule, Complete(rule)); err != nil {
			t.Error(err)
			return nil
		}
		compiled++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("of %d rules %d parse and %d compile", files, parsed, compiled)
	if files == 0 || compiled != files {
		t.Error("not all of them compile")
	}
}

// Ensure a glob that shares nothing with the code under test agrees with it.
func TestGlobAgainstRecursion(t *testing.T) {
	var slow func(g []part, v string) bool
	slow = func(g []part, v string) bool {
		switch {
		case len(g) == 0:
			return v == ""
		case g[0].many:
			for i := 0; i <= len(v); i++ {
				if slow(g[1:], v[i:]) {
					return true
				}
			}
			return false
		case g[0].one:
			return v != "" && slow(g[1:], v[1:])
		}
		return strings.HasPrefix(v, g[0].literal) && slow(g[1:], v[len(g[0].literal):])
	}
	var globs, values []string
	build := func(alphabet string, n int) (out []string) {
		out = []string{""}
		for i, from := 0, 0; i < n; i++ {
			to := len(out)
			for ; from < to; from++ {
				for _, c := range alphabet {
					out = append(out, out[from]+string(c))
				}
			}
		}
		return out
	}
	globs, values = build("ab*?", 5), build("ab", 5)
	for _, g := range globs {
		parts := parseGlob(g)
		test := newText(0, parts, true).(text)
		for _, v := range values {
			if got, want := test.one(v), slow(parts, v); got != want {
				t.Fatalf("glob %q on %q: got %v, want %v", g, v, got, want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("title: T\nid: 5d1f3c0e-6a41-4c0b-9f0e-2a8b1d7c4e91\nlogsource:\n  category: process_creation\ndetection:\n  s:\n    Image|re: 'a.*'\n    User:\n      - x\n      - null\n  condition: 1 of s* and not (s or all of them)\n"))
	f.Add([]byte("title: &a T\nlogsource: *a\n"))
	f.Add([]byte("a: {b: [c, {d: e}]}\n? x\n: y\n"))
	f.Add([]byte("title: |\n  x\nlogsource: {}\ndetection: {condition: [s], s: [{Image: 1.5}, {Image: ~}]}\n"))
	record := fields{{"/bin/sh"}, {"sh -c x"}, {"root"}, {"10.0.0.1"}, {"22"}, {"PATH"}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		rule, err := Parse("f.yml", raw)
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("odd error %T: %v", err, err)
			}
			return
		}
		rule.Category, rule.Product, rule.Service = "process_creation", "", ""
		m, err := Compile(rule, testSchema)
		if err != nil {
			return
		}
		for _, one := range m {
			one.Match(record)
		}
	})
}

// Ensure that a rule is excluded by some fields only if no value of the others
// could make it match.
func TestExcluded(t *testing.T) {
	const image, line = 0, 1
	schema := Schema{{Of: "process_creation", Category: "process_creation", Fields: map[string]int{"Image": image, "CommandLine": line}}}
	for _, c := range []struct {
		name, detection string
		image           string
		excluded        bool
	}{
		{"other image", "s: {Image|endswith: /sh, CommandLine|contains: x}\n  condition: s", "/bin/true", true},
		{"its image", "s: {Image|endswith: /sh, CommandLine|contains: x}\n  condition: s", "/bin/sh", false},
		{"folded", "s: {Image|endswith: /SH, CommandLine|contains: x}\n  condition: s", "/bin/sH", false},
		{"either", "s:\n    - {Image: /a}\n    - {CommandLine: b}\n  condition: s", "/bin/true", false},
		{"neither", "s:\n    - {Image: /a}\n    - {Image: /b, CommandLine: b}\n  condition: s", "/bin/true", true},
		{"negated", "s: {Image: /a}\n  n: {Image: /bin/true}\n  l: {CommandLine: x}\n  condition: l and not n", "/bin/true", true},
		{"negated unknown", "s: {CommandLine: x}\n  condition: not s", "/bin/true", false},
		{"absent", "s: {Image|exists: true, CommandLine: x}\n  condition: s", "", true},
		{"null", "s: {Image: null, CommandLine: x}\n  condition: s", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rule, err := Parse("t.yml", []byte("title: t\nlogsource: {category: process_creation, product: linux}\ndetection:\n  "+c.detection+"\nlevel: low\n"))
			if err != nil {
				t.Fatal(err)
			}
			m, err := Compile(rule, schema)
			if err != nil {
				t.Fatal(err)
			}
			if got := m[0].Excluded(onlyKnown{t, image, c.image}, FieldsOf(image)); got != c.excluded {
				t.Errorf("excluded %v, want %v", got, c.excluded)
			}
		})
	}
}

// onlyKnown fails when it is asked for more than its one field.
type onlyKnown struct {
	t     *testing.T
	field int
	value string
}

func (r onlyKnown) Field(n int) []string {
	if n != r.field {
		r.t.Errorf("asked for field %d", n)
	}
	if r.value == "" {
		return nil
	}
	return []string{r.value}
}

func (r onlyKnown) Folded(n int) []string {
	out := r.Field(n)
	for i := range out {
		out[i] = Fold(out[i])
	}
	return out
}

// Ensure that what is looked for before an expression is in whatever it matches.
func TestLiterals(t *testing.T) {
	for pattern, want := range map[string][]string{
		`(^|[\s=])/etc/(shadow|group)-?($|\s)`: {"/etc/"},
		`\s-[a-z]*c\s`:                         {"-"},
		`exec\s+\d*<>\s*/dev/(tcp|udp)/.+`:     {"/dev/"},
		`(abc)+`:                               {"abc"},
		`abc|d*`:                               nil,
		`(?i)abc`:                              nil,
		"\ufffd":                               nil,
		`^$`:                                   nil,
		`x(abcdef|ghijkl)/etc/mnopq`:           {"/etc/mnopq"},
		`(falco|falco-x|ossec)d`:               {"falco", "ossec"},
		`(falco|falco-x|ossec\s)d`:             {"falco", "ossec"},
		`base(64|32)\s+-d`:                     {"base64", "base32"},
	} {
		if got := literalsOf(pattern); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
}

func FuzzLiterals(f *testing.F) {
	f.Add(`(^|[\s=])/etc/(shadow|group)-?($|\s)`, "cat /etc/shadow")
	f.Add(`(?i)k+`, "\u212a")
	f.Add("a\ufffd", "a\xff")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		re, err := regexp.Compile(pattern)
		if err != nil || len(pattern) > 200 {
			return
		}
		e := matchesOf(0, re, pattern)
		if re.MatchString(text) && (!e.mayMatch(text) || len(e.folded) > 0 && !holdsOne(Fold(text), e.folded)) {
			t.Errorf("%q matches %q, which has none of %q, %q", pattern, text, e.literals, e.folded)
		}
	})
}
