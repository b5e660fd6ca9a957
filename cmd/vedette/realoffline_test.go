package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// offline takes the root's key offline by what a person types, has daily work go on without it and
// what needs it take the file, and ends a stolen context by it. The context in use is then another admin's.
func (c *cluster) offline(t *testing.T) {
	t.Helper()
	run := func(code int, args ...string) string {
		t.Helper()
		out, got := c.vedette(args...)
		if got != code {
			t.Fatalf("vedette %v ended with %d, want %d:\n%s", args, got, code, out)
		}
		return out
	}
	key, file := filepath.Join(c.dir, "age.txt"), filepath.Join(c.dir, "prod.root")
	if err := os.WriteFile(key, []byte("AGE-SECRET-KEY-1M4FU74VDLNN62JTFJSLE4UCVE5DPFH4E0Y5ENJ77NLRPM4YQW34QR02MJU\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := os.Getenv("VEDETTE_CONTEXT_FILE")
	context := func(name string) string { return filepath.Join(c.dir, name+".yaml") }
	as := func(name string, args ...string) []string {
		return append([]string{"--context-file", context(name)}, args...)
	}
	run(0, "cluster", "root", "take-offline", "--out", file, "--age-identity", key, "--yes",
		"--age-recipient", "age1ly299h3r9t64gc4mve3vyzg5fyzw2dnda3m8vr82vlfnpnkkzywq6vqz0k")
	opens := []string{"--root", file, "--age-identity", key}

	// Daily work goes on.
	run(0, "status")
	run(0, "operator", "create", "rob", "--role", "responder", "--out", context("rob"))
	run(0, as("rob", "host", "list")...)
	run(4, as("rob", "isolate", "nobody", "--yes", "--reason", "drill")...)
	run(0, "cluster", "sign-nodes", "--yes")
	run(0, "intent", "rollback", "1", "--reason", "drill", "--yes", "--wait")

	// What needs the root says so, and takes the file. The root was renewed since it was made.
	run(5, "cluster", "root", "renew-operators", "--reason", "drill", "--yes")
	run(0, append([]string{"cluster", "root", "renew-operators", "--reason", "drill", "--yes"}, opens...)...)
	run(5, "operator", "create", "sue", "--role", "admin", "--out", context("sue"))
	run(0, append([]string{"operator", "create", "sue", "--role", "admin", "--out", context("sue")}, opens...)...)
	run(0, append([]string{"cluster", "root", "renew-mine"}, opens...)...)
	if out := run(0, "cluster", "root", "inspect", file, "--age-identity", key); !strings.Contains(out, "whole, and the root's") {
		t.Errorf("the file after its root was renewed: %s", out)
	}
	run(0, as("rob", "status")...)
	run(0, "status")

	// The context is stolen: it makes no more of whoever it made.
	if out := run(0, as("sue", "operator", "revoke", "admin", "--reason", "stolen", "--yes")...); out != "" {
		t.Errorf("revoke wrote to stdout: %s", out)
	}
	run(5, "status")
	run(5, as("rob", "status")...)
	run(0, "operator", "create", "tom", "--role", "admin", "--without-authority", "--out", context("tom"))
	run(5, as("tom", "status")...)
	t.Setenv("VEDETTE_CONTEXT_FILE", context("sue"))
	run(0, "operator", "create", "rob", "--role", "responder", "--out", context("rob-2"))
	run(4, as("rob-2", "isolate", "nobody", "--yes", "--reason", "drill")...)
	if raw, err := os.ReadFile(admin); err != nil || strings.Count(string(raw), "BEGIN PRIVATE KEY") != 2 {
		t.Errorf("the context has %d keys, %v", strings.Count(string(raw), "BEGIN PRIVATE KEY"), err)
	}
}
