package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coordinator.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadConfig(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		says       []string // empty: accepted
	}{
		{"empty", "", nil},
		{"comment", "# nothing\n", nil},
		{"all", "id: n1\ndata: /d\nlisten: 1.2.3.4:5\nsilent_after: 10s\nretention: {findings: 720h, max_gib: 5}\nnotify:\n  program: /usr/local/sbin/tell\n  events: [window, incident]\n", nil},
		{"unknown key", "id: n1\nlistn: 1.2.3.4:5\n", []string{":2:1:", `"listn"`, `did you mean "listen"?`}},
		{"dash for underscore", "operator-listen: 1.2.3.4:5\n", []string{":1:1:", `did you mean "operator_listen"?`}},
		{"nothing like it", "zzzzqqqq: 1\n", []string{"known are id, data"}},
		{"unknown key below", "notify: {programme: /x}\n", []string{`"programme"`}},
		{"unknown key of retention", "retention: {finding: 720h}\n", []string{`"finding"`}},
		{"retention without a unit", "retention: {findings: ninety}\n", []string{"ninety"}},
		{"not a duration", "silent_after: soon\n", []string{"soon"}},
		{"not YAML", "id: [\n", []string{"coordinator.yaml"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := coordinator.DefaultConfig()
			err := readConfig(write(t, tt.text), &cfg)
			if len(tt.says) == 0 {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			for _, want := range tt.says {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want it to say %s", err, want)
				}
			}
		})
	}
}

// Ensure what --print-config prints is a file that gives the same, with every key in it.
func TestPrintConfig(t *testing.T) {
	want := coordinator.DefaultConfig()
	want.ID, want.Listen, want.Version = "n1", "10.0.0.1:7443", ""
	want.Notify = coordinator.NotifyConfig{Program: `/usr/local/sbin/tell "us"`, Events: []string{"window", "incident"}}
	if err := readConfig(write(t, "export:\n  - name: lake\n    records: [findings, audit]\n    kafka: {brokers: ['k1:9093'], tls: {}}\n"), &want); err != nil {
		t.Fatal(err)
	}
	want.Where = nil
	var out bytes.Buffer
	if err := printConfig(&out, want); err != nil {
		t.Fatal(err)
	}
	var got coordinator.Config
	if err := readConfig(write(t, out.String()), &got); err != nil {
		t.Fatal(err)
	}
	got.Where = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	fields := 0
	for f := range reflect.TypeFor[coordinator.Config]().Fields() {
		if key := f.Tag.Get("yaml"); key != "-" {
			fields++
			if !strings.Contains(out.String(), "\n"+key+": ") {
				t.Errorf("%s is not printed", key)
			}
		}
	}
	if fields != len(documented) {
		t.Errorf("%d keys, %d of them documented", fields, len(documented))
	}
}

func TestCommands(t *testing.T) {
	data := filepath.Join(t.TempDir(), "n1")
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := root()
		c.SetArgs(args)
		c.SetOut(&out)
		c.SetErr(&out)
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	for _, tt := range []struct {
		name string
		args []string
		says string // of the error, or of the output when ok
		ok   bool
	}{
		{"version", []string{"version"}, "vedette-coordinator dev", true},
		{"not initialised", []string{"--data", data}, "run 'vedette-coordinator init'", false},
		{"no id", []string{"init", "--data", data}, "--id node-1", false},
		{"init", []string{"init", "--data", data, "--id", "n1", "--listen", "127.0.0.1:7001", "--operator-listen", "127.0.0.1:7002"}, "admin.context.yaml", true},
		{"init again", []string{"init", "--data", data, "--id", "n1"}, "already belongs to a node", false},
		{"another id", []string{"--data", data, "--id", "n2"}, `directory of node "n1"`, false},
		{"print", []string{"--data", data, "--print-config"}, "operator_advertise: 127.0.0.1:7002", true},
		{"log level", []string{"--data", data, "--log-level", "loud"}, "debug, info, warn, error", false},
		{"operator", []string{"operator", "--data", data, "--name", "vic", "--out", "vic.yaml"}, "vedette operator create NAME --role ROLE", false},
		{"join without token", []string{"join", "--data", data + "2", "--id", "n2", "--coordinator", "127.0.0.1:1"}, "vedette token create", false},
		{"unknown file", []string{"--config", "/nonexistent.yaml"}, "/nonexistent.yaml", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := run(tt.args...)
			if (err == nil) != tt.ok {
				t.Fatalf("got %v, output %s", err, out)
			}
			if err != nil {
				out = err.Error()
			}
			if !strings.Contains(out, tt.says) {
				t.Errorf("got %s, want it to say %s", out, tt.says)
			}
		})
	}
}

// Ensure what is wrong deep in the file is told with its line, and what is missing with the
// line of what it is missing in.
func TestProblemsNameDeepLines(t *testing.T) {
	o := options{file: write(t, "id: n1\nexport:\n  - name: lake\n    kafka:\n      brokers: [k1]\n      mechanism: plain\n      user: ann\n  - name: t\n    clickhouse:\n      url: http://ch.example.org:8123\n      user: ann\n      password_file: /nonexistent\n")}
	cfg, err := o.load()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = t.TempDir()
	_, err = coordinator.Init(cfg)
	for _, want := range []string{".yaml:5: export[0].kafka.brokers: \"k1\" is not HOST:PORT", ".yaml:5: export[0].kafka.password_file: ", ".yaml:10: export[1].clickhouse.url: http sends the password", ".yaml:12: export[1].clickhouse.password_file: opening a secret"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	o.file = write(t, "export:\n  - name: lake\n    kafka:\n      brokrs: [k1:9]\n")
	if _, err := o.load(); err == nil || !strings.Contains(err.Error(), ".yaml:4:7: unknown key \"brokrs\"") {
		t.Errorf("an unknown key: %v", err)
	}
}

// Ensure a value that cannot be is told with its line, unless a flag says otherwise.
func TestProblemsNameLines(t *testing.T) {
	o := options{file: write(t, "# ours\nid: n1\nlisten: nonsense\nlog_level: loud\nmetrics_listen: alsowrong\n")}
	o.config.MetricsListen = "wrong-by-flag"
	cfg, err := o.load()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = t.TempDir()
	_, err = coordinator.Init(cfg)
	for _, want := range []string{".yaml:3: listen:", ".yaml:4: log_level:", "\nmetrics_listen:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
