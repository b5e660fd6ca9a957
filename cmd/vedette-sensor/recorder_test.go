package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Ensure an answer without a record is no error and nothing on stdout, and that a
// question that cannot be answered says what to do.
func TestRecorderQuery(t *testing.T) {
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "recorder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, args, stderr, problem string
	}{
		{"nothing there", "--state-dir " + state, "no record matches\n", ""},
		{"no folder", "--state-dir " + state + "/none", "", "no recordings in"},
		{"wrong time", "--since yesterday --state-dir " + state, "", `--since "yesterday"`},
		{"wrong key", "--storyline 12 --state-dir " + state, "", "want PID.START"},
		{"stray argument", "exec --state-dir " + state, "", `unknown command "exec"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, notes bytes.Buffer
			root := rootCommand()
			root.SetArgs(append([]string{"recorder", "query"}, strings.Fields(tt.args)...))
			root.SetOut(&out)
			root.SetErr(&notes)
			err := root.ExecuteContext(t.Context())
			if (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("got %v, want %q", err, tt.problem)
			}
			if out.Len() > 0 || notes.String() != tt.stderr {
				t.Errorf("stdout %q, stderr %q, want %q", &out, &notes, tt.stderr)
			}
		})
	}
}
