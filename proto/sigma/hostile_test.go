package sigma

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostileTime is what one file or value may take of a processor: what is quadratic takes minutes.
const hostileTime = 5 * time.Second

func used(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Ensure a hostile file is refused, or taken, in time that is linear in its size.
func TestHostileFiles(t *testing.T) {
	head := "title: T\nlogsource: {category: process_creation}\ndetection:\n"
	var anchors strings.Builder
	anchors.WriteString("a0: &a0 [x, x]\n")
	for i := range 40 {
		fmt.Fprintf(&anchors, "a%d: &a%d [*a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i)
	}
	full := func(head, unit string) string { return head + strings.Repeat(unit, (maxFile-len(head))/len(unit)) }
	for name, text := range map[string]string{
		"an open list":      full("detection: [", "a,"),
		"anchors":           full("detection: [", "&a "),
		"tags":              full("", "!t "),
		"colons":            full("detection: [", ": "),
		"explicit keys":     full("detection: [", "- ? - "),
		"quotes":            full("a: '", "''"),
		"maps":              full("", "a: {b: c}\n"),
		"documents":         full("", "a: b\n---\n"),
		"aliases of many":   anchors.String(),
		"values":            full(head+"  s:\n    Image:\n", "      - x\n"),
		"searches":          full(head, "  s: {Image: x}\n"),
		"nothing":           full("", "\n"),
		"nul bytes":         full("a: ", "\x00"),
		"deep":              full("", "["),
		"deep over lines":   full("", "[\n"),
		"deep by indent":    full("", "- - - - - - - -\n"),
		"names of searches": head + "  s: {Image: x}\n  condition: " + strings.Repeat("s or ", maxTokens*4) + "s\n",
		"parentheses":       head + "  s: {Image: x}\n  condition: " + strings.Repeat("(", 300) + "s" + strings.Repeat(")", 300) + "\n",
		"negations":         head + "  s: {Image: x}\n  condition: " + strings.Repeat("not ", 400) + "s\n",
	} {
		began := used(t)
		_, refused := ParseFile("h.yml", []byte(text))
		took := used(t) - began
		t.Logf("%v: %s", took.Round(time.Millisecond), name)
		if took > hostileTime {
			t.Errorf("%s: took %v", name, took)
		}
		if len(refused) == 0 {
			t.Errorf("%s: was taken", name)
		}
	}
}

// Ensure no rule that compiles makes a hostile value cost more than its length is worth.
func TestHostileValues(t *testing.T) {
	long := strings.Repeat("a", 64<<10)
	for name, detection := range map[string]string{
		"stars":       "s: {Image: '" + strings.Repeat("*a", maxWildcards-1) + "*b'}",
		"marks":       "s: {Image: '*" + strings.Repeat("?", maxWildcards-1) + "b'}",
		"both":        "s: {Image: '*" + strings.Repeat("a?", maxWildcards-1) + "b'}",
		"expression":  "s: {Image|re: '^(a+)+(a|aa)+(a*)*b$'}",
		"repetitions": "s: {Image|re: '(a{1,100}){2}b'}",
		"literal":     "s: {Image: '*" + strings.Repeat("a", 4000) + "?" + strings.Repeat("a", 50) + "b'}",
		"lists":       "s: {Image|contains: [" + strings.Repeat("aaab,", 1000) + "b]}",
	} {
		m := compile(t, "  "+detection+"\n  condition: s")
		x, s := NewIndex([]*Matcher{m}), &Scratch{}
		r := folded{fields{{long}, nil, nil, nil, nil, nil}}
		began := used(t)
		if m.Match(r) || len(x.Match(r, s)) > 0 {
			t.Errorf("%s: matched", name)
		}
		took := used(t) - began
		t.Logf("%v: %s", took.Round(time.Millisecond), name)
		if took > hostileTime {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// Ensure a pattern that becomes large is refused before it does.
func TestHostilePatternIsNotCompiled(t *testing.T) {
	head := "title: T\nlogsource: {category: process_creation, product: linux}\ndetection:\n  s:\n    Image|re: '"
	file, refused := ParseFile("h.yml", []byte(head+"(?:"+strings.Repeat("ab", 450)+"){1000}'\n  condition: s\n"))
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	var err error
	made := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			_, err = Compile(file.Rules[0], testSchema)
		}
	}).AllocedBytesPerOp()
	if err == nil || !strings.Contains(err.Error(), "steps") || made > 1<<20 {
		t.Errorf("%v, after %d bytes", err, made)
	}
}
