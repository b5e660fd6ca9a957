package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// program is a shell script of root's that does body with its stdin.
func program(t *testing.T, body string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root (a program must belong to it)")
	}
	path := filepath.Join(t.TempDir(), "tell")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil { //nolint:gosec // to be executed
		t.Fatal(err)
	}
	return path
}

// Ensure the program gets the event and nothing else, is run again when it fails, and is
// killed with what it started when it takes too long.
func TestProgram(t *testing.T) {
	t.Setenv("SECRET", "of the coordinator")
	dir := t.TempDir()
	var mu sync.Mutex
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))
	run := func(t *testing.T, body string, change func(*Config)) {
		t.Helper()
		e := newEngine(t, newLog(t), func(c *Config) {
			c.Program, c.Logger, c.Retries = program(t, body), logger, []time.Duration{time.Millisecond, time.Millisecond}
			if change != nil {
				change(c)
			}
		})
		e.deliver(t.Context(), Event{ID: "incident/inc-1", Event: Incident, Text: "it's \"$(reboot)\"", Hosts: []Host{}})
	}
	read := func(name string) string {
		raw, _ := os.ReadFile(filepath.Join(dir, name))
		return string(raw)
	}
	t.Run("what it gets", func(t *testing.T) {
		run(t, fmt.Sprintf(`cat >%[1]s/in; env >%[1]s/env; echo "$# $PWD" >%[1]s/args`, dir), nil)
		var got Event
		if err := json.Unmarshal([]byte(read("in")), &got); err != nil || got.ID != "incident/inc-1" || got.Text != `it's "$(reboot)"` || !strings.HasSuffix(read("in"), "}\n") {
			t.Errorf("stdin: %q, %v", read("in"), err)
		}
		if env := read("env"); strings.Contains(env, "SECRET") || !strings.Contains(env, "PATH=/usr/local/sbin:") {
			t.Errorf("environment:\n%s", env)
		}
		if read("args") != "0 /\n" {
			t.Errorf("arguments and directory: %q", read("args"))
		}
	})
	t.Run("it need not read", func(t *testing.T) {
		run(t, fmt.Sprintf(`echo x >>%s/unread`, dir), nil)
		if read("unread") != "x\n" {
			t.Errorf("run %q times", read("unread"))
		}
	})
	t.Run("it fails", func(t *testing.T) {
		log.Reset()
		run(t, fmt.Sprintf(`echo x >>%s/tries; printf 'no route\033[2J' >&2; exit 3`, dir), nil)
		if read("tries") != "x\nx\nx\n" || !strings.Contains(log.String(), "not delivered") || !strings.Contains(log.String(), "exit status 3: no route?[2J") {
			t.Errorf("tries %q, log %s", read("tries"), log.String())
		}
	})
	t.Run("it succeeds at last", func(t *testing.T) {
		log.Reset()
		run(t, fmt.Sprintf(`echo x >>%[1]s/last; test $(wc -l <%[1]s/last) -gt 1`, dir), nil)
		if read("last") != "x\nx\n" || strings.Contains(log.String(), "not delivered") {
			t.Errorf("tries %q, log %s", read("last"), log.String())
		}
	})
	t.Run("it hangs", func(t *testing.T) {
		log.Reset()
		began := time.Now()
		run(t, fmt.Sprintf(`sleep 1000 & echo $! >%s/child; wait`, dir), func(c *Config) { c.Timeout, c.Retries = 300*time.Millisecond, []time.Duration{} })
		if took := time.Since(began); took > 20*time.Second || !strings.Contains(log.String(), "longer than 300ms and was killed") {
			t.Errorf("after %s: %s", took, log.String())
		}
		gone := func() bool {
			raw, err := os.ReadFile("/proc/" + strings.TrimSpace(read("child")) + "/stat")
			return err != nil || bytes.Contains(raw, []byte(") Z "))
		}
		deadline := time.After(5 * time.Second)
		for tick := time.NewTicker(10 * time.Millisecond); !gone(); {
			select {
			case <-deadline:
				t.Fatalf("its child %s lives on", read("child"))
			case <-tick.C:
			}
		}
	})
	t.Run("it was changed", func(t *testing.T) {
		log.Reset()
		path := program(t, "exit 0")
		e := newEngine(t, newLog(t), func(c *Config) { c.Program, c.Logger, c.Retries = path, logger, []time.Duration{} })
		if err := os.Chmod(path, 0o777); err != nil { //nolint:gosec // what is tested
			t.Fatal(err)
		}
		if e.deliver(t.Context(), Event{}); !strings.Contains(log.String(), "writable by root alone") {
			t.Errorf("log: %s", log.String())
		}
	})
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// Ensure nobody but root can choose what is run.
func TestCheckProgram(t *testing.T) {
	good := program(t, "exit 0")
	dir := t.TempDir()
	mode := func(name string, mode os.FileMode, uid int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inside := func(name string, mode os.FileMode, uid int) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "tell"), nil, 0o755); err != nil { //nolint:gosec // to be executed
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(path, "tell")
	}
	link := func(name, to string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct{ path, says string }{
		{good, ""},
		{"tell", "absolute path"},
		{filepath.Dir(good) + "/../x", "absolute path"},
		{"/nonexistent/tell", "no such file"},
		{dir, "is no file"},
		{mode("plain", 0o644, 0), "chmod 755"},
		{mode("group", 0o775, 0), "chmod go-w"},
		{mode("others", 0o757, 0), "chmod go-w"},
		{mode("owned", 0o755, 1000), "chown root"},
		{inside("open", 0o777, 0), "chmod go-w"},
		{inside("sticky", 0o777|os.ModeSticky, 0), ""},
		{inside("theirs", 0o755, 1000), "chown root"},
		{link("link", good), ""},
		{link("bad", filepath.Join(dir, "open", "tell")), "chmod go-w"},
	} {
		err := CheckProgram(tt.path)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %q", tt.path, err, tt.says)
		}
	}
}
