package lab

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var escaped = regexp.MustCompile(`\\x[0-9a-f]{2}`)

// unescape gives a JSON value's exact bytes back, as docs/cli.md says.
func unescape(s string) string {
	return escaped.ReplaceAllStringFunc(s, func(e string) string {
		b, _ := strconv.ParseUint(e[2:], 16, 8)
		return string([]byte{byte(b)})
	})
}

// Ensure names and arguments made to fool a terminal, a parser or a person are
// printed harmlessly and kept to the byte.
func TestHostileText(t *testing.T) {
	r := newRig(t)
	plain := copied(t)
	raw, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	// A path with a line break, an escape sequence, broken UTF-8 and what reverses text.
	odd := plain + "\n\x1b[31m\xff\xfe\u202e\\x41 %s"
	if err := os.WriteFile(odd, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(odd) })
	hostile := []string{
		"\x1b]0;title\x07\x1b[2J\x1b[1;1H", "line\nbreak\r\ttab", "", "\xc3\x28\xa0\xa1\xff", `\x41 \n "quoted" 'and' $(id)`,
		"\u202egpj.exe", "\u200b\ufeff", "\x7f\u0085\u009b31m", `","admin":true,"x":"`, "%s%n%x", strings.Repeat("é", 300),
	}
	argv := append([]string{odd, "-c", "true"}, hostile...)
	cmd := exec.CommandContext(t.Context(), odd)
	cmd.Args = argv
	if _, err := r.lab.Run(r.ns, cmd); err != nil {
		t.Fatal(err)
	}
	var got seen
	r.until(t, 15*time.Second, "the finding", func(ctx context.Context) (bool, error) {
		var all []seen
		err := r.cluster.JSON(ctx, &all, "finding", "list")
		for _, f := range all {
			if unescape(f.Process.Image) == odd {
				got = f
			}
		}
		return got.ID != "", err
	})
	var argvGot []string
	for _, a := range got.Process.Argv {
		argvGot = append(argvGot, unescape(a))
	}
	if !slices.Equal(argvGot, argv) {
		t.Errorf("argv\n%q, want\n%q", argvGot, argv)
	}
	for _, args := range [][]string{
		{"finding", "list"}, {"finding", "list", "-o", "wide"}, {"finding", "show", got.ID}, {"finding", "list", "-o", "json"},
		{"finding", "list", "-o", "jsonl"}, {"finding", "show", got.ID, "-o", "yaml"}, {"incident", "list"}, {"host", "show", "web1"},
	} {
		out, err := r.cluster.CLI(t.Context(), args...)
		if err != nil {
			t.Error(err)
		}
		harmless(t, strings.Join(args, " "), out)
	}
	if log, err := os.ReadFile(r.sensor.LogPath); err == nil {
		harmless(t, "the sensor's log", log)
	}
}

// harmless is text that does nothing to a terminal.
func harmless(t *testing.T, what string, out []byte) {
	t.Helper()
	if !utf8.Valid(out) {
		t.Errorf("vedette %s prints what is no UTF-8", what)
	}
	for _, c := range string(out) {
		if c != '\n' && c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u202e' || c == '\u200b' || c == '\ufeff' {
			t.Errorf("vedette %s prints %U:\n%q", what, c, context40(out, string(c)))
			return
		}
	}
}

func context40(out []byte, c string) []byte {
	at := bytes.Index(out, []byte(c))
	return out[max(0, at-40):min(len(out), at+40)]
}

// Ensure arguments of the largest size and processes of great depth cost nothing
// but the detail that is said to be cut.
func TestHugeProcesses(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	huge := strings.Repeat("A", 128<<10-1) // MAX_ARG_STRLEN, with its end
	r.run(t, shell, "-c", "true", "huge", huge)
	many := []string{"-c", "true", "many"}
	for i := range 20000 {
		many = append(many, strconv.Itoa(i))
	}
	r.run(t, shell, many...)
	const depth = 64
	deep := `d=$1; if [ "$d" -gt 0 ]; then "$0" -c "$2" "$0" $((d-1)) "$2"; fi; exec "$0" -c : deep-$d`
	r.run(t, shell, "-c", deep, shell, strconv.Itoa(depth), deep)

	r.untilFound(t, 15*time.Second, shell, "huge", "many")
	var all []struct {
		Process struct {
			Image     string   `json:"image"`
			Argv      []string `json:"argv"`
			Ancestors []any    `json:"ancestors"`
		} `json:"process"`
		Evidence struct {
			Truncated bool `json:"argv_truncated"`
		} `json:"evidence"`
	}
	if err := r.cluster.JSON(t.Context(), &all, "finding", "list"); err != nil {
		t.Fatal(err)
	}
	deepest := 0
	for _, f := range all {
		if f.Process.Image != shell {
			continue
		}
		deepest = max(deepest, len(f.Process.Ancestors))
		size := len(strings.Join(f.Process.Argv, " "))
		large := slices.Contains(f.Process.Argv, "huge") || slices.Contains(f.Process.Argv, "many")
		if large != f.Evidence.Truncated || large && (size < 3000 || size > 10000) {
			t.Errorf("%d bytes of arguments are kept, truncated: %v", size, f.Evidence.Truncated)
		}
	}
	r.until(t, 15*time.Second, "all counts", func(ctx context.Context) (bool, error) {
		d, err := r.detail(ctx)
		return d.execs(shell) >= 2+2*depth, err
	})
	d, err := r.detail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Losses) > 0 || d.Lost > 0 {
		t.Errorf("lost %d: %+v", d.Lost, d.Losses)
	}
	t.Logf("%d findings, at most %d ancestors, %d starts counted", len(all), deepest, d.execs(shell))
}
