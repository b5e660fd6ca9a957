package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// Ensure nothing that Safe returns can move a cursor or turn text around.
func FuzzSafe(f *testing.F) {
	for _, s := range []string{"plain", "\x1b]0;owned\x07", "\u009b31m", "\u202egpj.exe", "\xff\xfe", "a\r\nb\t", "\U000e0001", "ünïcode ✓", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Safe(s) {
			if !unicode.IsPrint(r) {
				t.Fatalf("Safe(%q) lets %U through", s, r)
			}
		}
	})
}

// Ensure bytes survive the way through a JSON string and back.
func FuzzLossless(f *testing.F) {
	for _, s := range []string{"/bin/sh", "\xff", `\xff`, `\x5cxff`, `\\xff`, "\\\xff", "\\x\xff", "\\x5\xff", "é\xc3", `\x`, "\ufffd", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := encode(Lossless(raw), "")
		if err != nil {
			t.Fatal(err)
		}
		var s string
		if err := json.Unmarshal(doc, &s); err != nil {
			t.Fatal(err)
		}
		if got := Bytes(s); !bytes.Equal(got, raw) {
			t.Fatalf("bytes changed: got %q, want %q (text %q)", got, raw, s)
		}
		for _, r := range strings.TrimSuffix(string(doc), "\n") {
			if !unicode.IsPrint(r) {
				t.Fatalf("JSON of %q lets %U through", raw, r)
			}
		}
	})
}

// longNumber is what a float64 of this test cannot hold; the CLI never goes through one.
var longNumber = regexp.MustCompile("[0-9]{16}")

// Ensure the YAML of a document is the same document as its JSON.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{
		`[]`, `{}`, `"x"`, `[{"a":1,"b":[1,2,{"c":null}]},{"a":true}]`, `{"labels":{"role: x":"y","no":"- z"}}`,
		`[[1],[[2,3],{}],{"k":[]}]`, `{"a":"line\nbreak \u001b[31m"}`, `{"":"empty key"}`, `[{"k":{"l":[{"m":1}]}}]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		var want any
		if json.Unmarshal([]byte(doc), &want) != nil || strings.Contains(doc, `\ud`) || strings.ContainsAny(doc, "eE.") || longNumber.MatchString(doc) {
			return
		}
		var b bytes.Buffer
		p := &Printer{Out: &b, Format: YAML}
		if err := p.yaml(want); err != nil {
			t.Fatal(err)
		}
		var got any
		if err := yaml.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatalf("%v in:\n%s", err, b.String())
		}
		if back, _ := json.Marshal(got); !sameJSON(back, want) {
			t.Fatalf("got %s, want %s, YAML:\n%s", back, doc, b.String())
		}
	})
}

func sameJSON(raw []byte, want any) bool {
	var got any
	return json.Unmarshal(raw, &got) == nil && cmp.Equal(got, want)
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		name string
		argv []string
		want string
	}{
		{"plain words stay bare", []string{"/bin/ls", "-l", "--color=auto"}, "/bin/ls -l --color=auto"},
		{"spaces and quotes are quoted", []string{"sh", "-c", "echo 'hi there'"}, `sh -c 'echo '\''hi there'\'''`},
		{"an empty word is seen", []string{"x", ""}, "x ''"},
		{"an escape sequence is quoted", []string{"\x1b[2J"}, "'\x1b[2J'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Command(tt.argv); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func fruit() List[string] {
	return List[string]{
		Columns: []Column[string]{
			{Head: "NAME", Cell: func(s string) string { return s }, Max: 6, Paint: func(string) Colour { return Red }},
			{Head: "LEN", Right: true, Cell: func(s string) string { return strings.Repeat("i", len(s)) }, Wide: true},
		},
		Name:  func(s string) string { return s },
		Value: func(s string) any { return map[string]string{"name": s} },
	}
}

func TestPrint(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    Printer
		rows []string
		want string
	}{
		{"table", Printer{Format: Table}, []string{"fig", "grape\x1b[31m"}, "NAME\nfig\ngrape…\n"},
		{"wide", Printer{Format: Wide}, []string{"fig", "kiwi"}, "NAME    LEN\nfig     iii\nkiwi   iiii\n"},
		{"no headers", Printer{Format: Table, NoHeaders: true}, []string{"fig"}, "fig\n"},
		{"colour", Printer{Format: Table, NoHeaders: true, Colour: true}, []string{"fig"}, "\x1b[31mfig\x1b[0m\n"},
		{"json", Printer{Format: JSON}, []string{"fig"}, "[\n  {\n    \"name\": \"fig\"\n  }\n]\n"},
		{"json of nothing is a list", Printer{Format: JSON}, nil, "[]\n"},
		{"yaml", Printer{Format: YAML}, []string{"fig", "kiwi"}, "- name: \"fig\"\n- name: \"kiwi\"\n"},
		{"yaml of nothing is a list", Printer{Format: YAML}, nil, "[]\n"},
		{"jsonl", Printer{Format: JSONL}, []string{"a", "\u009b"}, "{\"name\":\"a\"}\n{\"name\":\"\\u009b\"}\n"},
		{"name", Printer{Format: Name}, []string{"a", "b\n"}, "a\nb\\n\n"},
		{"table of nothing is empty", Printer{Format: Table}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			tt.p.Out = &b
			if _, err := Print(&tt.p, fruit(), Rows(tt.rows)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, b.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// Ensure a list that breaks off is no valid JSON document: a script must not take it for whole.
func TestPrintCutList(t *testing.T) {
	broken := errors.New("connection lost")
	rows := iter.Seq2[string, error](func(yield func(string, error) bool) {
		_ = yield("fig", nil) && yield("", broken)
	})
	var b bytes.Buffer
	_, err := Print(&Printer{Out: &b, Format: JSON}, fruit(), rows)
	if !errors.Is(err, broken) {
		t.Errorf("got error %v, want %v", err, broken)
	}
	if json.Valid(b.Bytes()) {
		t.Errorf("a cut list is valid JSON: %s", b.String())
	}
}

// Ensure a YAML list that breaks off does not read as a whole one either.
func TestPrintCutYAML(t *testing.T) {
	rows := iter.Seq2[string, error](func(yield func(string, error) bool) {
		_ = yield("fig", nil) && yield("kiwi", nil) && yield("", errors.New("connection lost"))
	})
	var b bytes.Buffer
	if _, err := Print(&Printer{Out: &b, Format: YAML}, fruit(), rows); err == nil {
		t.Error("a cut list is no error")
	}
	var got any
	if err := yaml.Unmarshal(b.Bytes(), &got); err == nil {
		t.Errorf("a cut list is valid YAML: %v, of:\n%s", got, b.String())
	}
}

// Ensure that a table of more than a block has one head, and columns that only become wider.
func TestPrintBlocks(t *testing.T) {
	rows := func(yield func(string, error) bool) {
		for range block {
			if !yield("fig", nil) {
				return
			}
		}
		_ = yield("kiwi", nil) && yield("x", nil)
	}
	var b bytes.Buffer
	if n, err := Print(&Printer{Out: &b, Format: Wide}, fruit(), rows); err != nil || n != block+2 {
		t.Fatalf("%d rows, %v", n, err)
	}
	lines := strings.Split(b.String(), "\n")
	got := slices.Concat(lines[:2], lines[block:])
	want := []string{"NAME   LEN", "fig    iii", "fig    iii", "kiwi   iiii", "x         i", ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// Ensure no format holds the list that it prints: it may be a million findings.
func TestPrintHoldsNoList(t *testing.T) {
	const rows, size, most = 2000, 3000, 4 << 20 // of 6 MB
	for _, format := range Formats() {
		var used runtime.MemStats
		list := func(yield func(string, error) bool) {
			for i := range rows {
				if !yield(strings.Repeat("x", size), nil) {
					return
				}
				if i == rows-1 {
					runtime.GC()
					runtime.ReadMemStats(&used)
				}
			}
		}
		columns := fruit()
		columns.Columns = columns.Columns[:1]
		if n, err := Print(&Printer{Out: io.Discard, Format: Format(format)}, columns, list); err != nil || n != rows {
			t.Fatalf("%s: %d rows, %v", format, n, err)
		}
		if used.HeapAlloc > most {
			t.Errorf("%s holds %d MiB at the end of a list of %d MB", format, used.HeapAlloc>>20, rows*size/1_000_000)
		}
	}
}

// Ensure a command in running text stays on one line, so that it can be copied.
func TestCommandsAreNotBroken(t *testing.T) {
	var out bytes.Buffer
	p := &Printer{Out: &out, Format: Table, Width: 60}
	const command = "'systemctl status vedette-coordinator'"
	err := p.Show(Shown{Page: func(g *Page) {
		g.Item("The operators' node n3 does not answer: some words run " + command + " there, or 'vedette cluster remove n3'.")
		g.Item("'a command that is longer than the whole line is and so must be broken somewhere, wherever that is'")
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `  - The operators' node n3 does not answer: some words run
    'systemctl status vedette-coordinator' there, or
    'vedette cluster remove n3'.
  - 'a command that is longer than the whole line is and so
    must be broken somewhere, wherever that is'
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}
