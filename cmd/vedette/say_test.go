package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/client"
)

// Ensure no name and no message of another makes a line on stderr, that the program's own
// line breaks do, and that an error remains what it is.
func TestSay(t *testing.T) {
	forged := "web1\nvedette: released"
	theirs := errors.New("refused\nvedette: applied")
	for _, tt := range []struct {
		name string
		say  func(a *app)
		want string
	}{
		{"a name", func(a *app) { a.say("  %s", forged) }, "  web1\\nvedette: released\n"},
		{"a name in quotes", func(a *app) { a.say("%q", forged) }, "\"web1\\nvedette: released\"\n"},
		{"names", func(a *app) { a.say("%v", []string{forged}) }, "[web1\\nvedette: released]\n"},
		{"a width", func(a *app) { a.say("%-6s|%3d", "a\n", 7) }, "a\\n    |  7\n"},
		{"an error", func(a *app) { a.say("%s: %v", "web1", theirs) }, "web1: refused\\nvedette: applied\n"},
		{"own lines", func(a *app) { a.say("one\n%s", own("two\nthree")) }, "one\ntwo\nthree\n"},
		{"a usage error", func(a *app) { a.lines(errorText(usage("%w\nsee %s", theirs, forged))) }, "refused\\nvedette: applied\nsee web1\\nvedette: released\n"},
		{"a wrapped one", func(a *app) { a.lines(errorText(&commandError{fmt.Errorf("%s: %w", forged, usage("a\nb"))})) }, "web1\\nvedette: released: a\nb\n"},
		{"joined ones", func(a *app) { a.lines(errorText(fmt.Errorf("x: %w", errors.Join(theirs, usage("a\nb"))))) }, "x: refused\\nvedette: applied\na\nb\n"},
		{"any other", func(a *app) { a.lines(errorText(&commandError{fmt.Errorf("node: %w", theirs)})) }, "node: refused\\nvedette: applied\n"},
	} {
		path := filepath.Join(t.TempDir(), "stderr")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		tt.say(&app{stderr: f})
		_ = f.Close()
		if got, _ := os.ReadFile(path); string(got) != tt.want {
			t.Errorf("%s: got\n%swant\n%s", tt.name, got, tt.want)
		}
	}
	if err := usage("%w", client.ErrNotFound); !errors.Is(err, client.ErrNotFound) || exitCode(err) != exitUsage {
		t.Errorf("%v is not what it wraps any more", err)
	}
}
