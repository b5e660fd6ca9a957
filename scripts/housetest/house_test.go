package housetest

import (
	"strings"
	"testing"
)

// Ensure the tree keeps its rules.
func TestTree(t *testing.T) {
	files, err := readTree("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("reading the tree: got %d files, want more: is this test still in scripts/housetest?", len(files))
	}
	for _, problem := range append(checkImports(files), checkLooks(files)...) {
		t.Error(problem)
	}
}

// Ensure each rule bites: a source that breaks it, and one beside it that does not.
func TestRulesBite(t *testing.T) {
	imports := func(p string) string { return "// Package x is one idea.\npackage x\n\nimport _ \"" + p + "\"\n" }
	ours := func(p string) string { return imports(module + "/" + p) }
	const doc = "// Package x is one idea.\npackage x\n\n"
	tests := []struct {
		name, path, source, want string
	}{
		{"sensor to coordinator", "sensor/internal/uplink/a.go", ours("coordinator/client"), "the sensor knows no coordinator"},
		{"coordinator to sensor", "coordinator/internal/ingest/a_test.go", ours("sensor"), "the coordinator knows no sensor"},
		{"proto to sensor", "proto/frame/a.go", ours("sensor/internal/event"), "proto and bpf stand below everything"},
		{"facade", "sensor/internal/respond/a.go", ours("sensor"), "nothing imports its facade"},
		{"client to internals", "coordinator/client/a.go", ours("coordinator/internal/store"), "the client stands alone"},
		{"CLI to internals", "cmd/vedette/a.go", ours("coordinator"), "the CLI talks to the API"},
		{"CLI to client", "cmd/vedette/a.go", ours("coordinator/client"), ""},
		{"CLI to proto", "cmd/vedette/a.go", ours("proto/operatorv1"), ""},
		{"program to script", "cmd/vedette-sensor/a.go", ours("scripts/internal/lab"), "programs do not import scripts"},
		{"store to state", "coordinator/internal/store/a.go", ours("coordinator/internal/state"), "the store is the bottom"},
		{"state to consensus", "coordinator/internal/state/a.go", ours("coordinator/internal/consensus"), "state knows only the store"},
		{"state to store", "coordinator/internal/state/a.go", ours("coordinator/internal/store"), ""},
		{"consensus to engine", "coordinator/internal/consensus/a.go", ours("coordinator/internal/engine/correlate"), "consensus does not know who proposes"},
		{"state and the clock", "coordinator/internal/state/a.go", imports("time"), "no clock"},
		{"state and dice", "coordinator/internal/state/a.go", imports("math/rand/v2"), "no clock"},
		{"state's tests and the clock", "coordinator/internal/state/a_test.go", imports("time"), ""},
		{"ebpf elsewhere", "sensor/internal/enrich/a.go", imports("github.com/cilium/ebpf/link"), "cilium/ebpf has one owner"},
		{"ebpf at home", "sensor/internal/kernel/a.go", imports("github.com/cilium/ebpf/link"), ""},
		{"raft elsewhere", "coordinator/internal/ingest/a.go", imports("github.com/hashicorp/raft"), "hashicorp/raft has one owner"},
		{"sqlite elsewhere", "coordinator/internal/control/a_test.go", imports("github.com/mattn/go-sqlite3"), "go-sqlite3 has one owner"},
		{"SQL elsewhere", "coordinator/internal/state/a.go", imports("database/sql"), "SQL has one owner"},
		{"quic elsewhere", "coordinator/internal/ingest/a.go", imports("github.com/quic-go/quic-go"), "quic-go has one owner"},
		{"gopsutil elsewhere", "sensor/internal/baseline/a.go", imports("github.com/shirou/gopsutil/v3/process"), "gopsutil has one owner"},
		{"cedar-go elsewhere", "sensor/internal/respond/a.go", imports("github.com/cedar-policy/cedar-go"), "cedar-go has one owner"},
		{"age elsewhere", "coordinator/a.go", imports("filippo.io/age"), "age has one owner"},
		{"meter to store", "coordinator/internal/meter/a.go", ours("coordinator/internal/store"), "what counts knows nobody"},
		{"ingest to meter", "coordinator/internal/ingest/a.go", ours("coordinator/internal/meter"), ""},
		{"prometheus elsewhere", "coordinator/internal/ingest/a.go", imports("github.com/prometheus/client_golang/prometheus"), "metrics have one owner"},
		{"go-metrics elsewhere", "coordinator/internal/consensus/a_test.go", imports("github.com/armon/go-metrics"), "metrics have one owner"},
		{"prometheus at home", "coordinator/internal/meter/a.go", imports("github.com/prometheus/client_golang/prometheus"), ""},
		{"log", "sensor/internal/baseline/a.go", imports("log"), "one logger"},
		{"slog", "sensor/internal/baseline/a.go", imports("log/slog"), ""},
		{"cgo", "sensor/internal/baseline/a.go", imports("C"), "no cgo of our own"},
		{"stage to stage", "sensor/internal/detect/a.go", ours("sensor/internal/baseline"), "never each other"},
		{"stage's test to stage", "sensor/internal/uplink/a_test.go", ours("sensor/internal/spool"), ""},
		{"stage to event", "sensor/internal/detect/a.go", ours("sensor/internal/event"), ""},
		{"stage to its own part", "sensor/internal/respond/a.go", ours("sensor/internal/respond/isolation"), ""},
		{"stage to pulse", "sensor/internal/kernel/a.go", ours("sensor/internal/pulse"), ""},
		{"pulse to stage", "sensor/internal/pulse/a.go", ours("sensor/internal/kernel"), "never each other"},
		{"kernel to decode", "sensor/internal/kernel/a.go", ours("sensor/internal/decode"), ""},
		{"CLI to cgo", "cmd/vedette/a.go", imports("github.com/mattn/go-sqlite3"), "built with CGO_ENABLED=0"},

		{"long file", "sensor/a.go", doc + strings.Repeat("//\n", 500), "at most 500"},
		{"long generated file", "sensor/a.go", "// Code generated by x. DO NOT EDIT.\n\n" + doc + strings.Repeat("//\n", 500), ""},
		{"long main", "cmd/vedette/main.go", doc + strings.Repeat("//\n", 80), "fewer than 80"},
		{"no package comment", "sensor/a.go", "package x\n", "no package comment"},
		{"vague folder", "sensor/internal/util/a.go", doc, "a folder called \"util\""},
		{"sleep in a test", "sensor/a_test.go", "package x\n\nfunc f() { time.Sleep(1) }\n", "time.Sleep in a test"},
		{"sleep elsewhere", "sensor/a.go", doc + "func f() { time.Sleep(1) }\n", ""},
		{"failed to", "sensor/a.go", doc + "var e = fmt.Errorf(\"failed to open: %w\", err)\n", "say what was being done"},
		{"wide interface", "sensor/a.go", doc + "type i interface { A(); B(); C(); D(); E() }\n", "at most 4"},
		{"fuzz target that is not found", "sensor/a_test.go", "package x\n\nfunc FuzzX(t *testing.F) { t.Add(1) }\n", "does not call its parameter f"},
		{"fuzz target without seeds", "sensor/a_test.go", "package x\n\nfunc FuzzX(f *testing.F) { f.Fuzz(nil) }\n", "has no seeds"},
		{"fuzz target", "sensor/a_test.go", "package x\n\nfunc FuzzX(f *testing.F) { f.Add(1) }\n", ""},
		{"leftover", "sensor/a.go", doc + "// TODO: later\n", "left behind"},
		{"a program", "docs/vedette", elf + "\x02\x01", "is a built program"},
		{"a program at the root, which git ignores", "vedette", elf + "\x02\x01", ""},
		{"an object", "bpf/cut_bpfel.o", elf + "\x02\x01", ""},
		{"C without licence", "bpf/src/a.c", "int x;\n", "SPDX"},
		{"C with licence", "bpf/src/a.c", "// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause\nint x;\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := newFile(tt.path, []byte(tt.source))
			if err != nil {
				t.Fatal(err)
			}
			files := []file{f}
			got := strings.Join(append(checkImports(files), checkLooks(files)...), "\n")
			if tt.want == "" && got != "" {
				t.Errorf("got:\n%s\nwant no problem", got)
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want it to say %q", got, tt.want)
			}
		})
	}
}
