package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Ensure that each plan damages something that a node cannot overlook, and a journal only where
// there is one: of a node that died.
func TestPlanOfDamage(t *testing.T) {
	for seed := range uint64(200) {
		all := planMutations(seed, 5*len(fileKinds), nodes)
		if !slices.ContainsFunc(all[:len(fileKinds)], mutation.plain) {
			t.Errorf("seed %d has nothing that is plain", seed)
		}
		for _, m := range all {
			if !m.killed && strings.HasPrefix(m.kind, "state.db-") {
				t.Errorf("seed %d: %s", seed, m)
			}
		}
	}
}

// Ensure that a step says that it changed a file when, and only when, it did.
func TestDamageChangesAFile(t *testing.T) {
	full, empty, holed := bytes.Repeat([]byte("vedette "), 1024), make([]byte, 8192), slices.Concat(make([]byte, 4096), []byte("x"))
	for _, tt := range []struct {
		name  string
		m     mutation
		files map[string][]byte
		want  bool
	}{
		{"no such file", mutation{kind: "state.db-wal", how: "cut"}, map[string][]byte{"state.db": full}, false},
		{"an empty one", mutation{kind: "state.db-wal", how: "a bit flipped"}, map[string][]byte{"state.db-wal": {}}, false},
		{"one of zeros", mutation{kind: "state.db", how: "a page of noise"}, map[string][]byte{"state.db": empty}, false},
		{"zeros where zeros are", mutation{kind: "state.db", how: "a page of zeros", where: 0.5}, map[string][]byte{"state.db": holed}, false},
		{"the first has nothing, the second has", mutation{kind: "raft/wal/*.wal", how: "cut", which: 2}, map[string][]byte{"raft/wal/1.wal": empty, "raft/wal/2.wal": full}, true},
		{"a snapshot in the making", mutation{kind: "raft/snapshots/*/state.bin", how: "cut"}, map[string][]byte{"raft/snapshots/1.tmp/state.bin": full}, false},
		{"a bit flipped", mutation{kind: "state.db", how: "a bit flipped", where: 0.5}, map[string][]byte{"state.db": full}, true},
		{"cut", mutation{kind: "state.db", how: "cut", where: 0.99}, map[string][]byte{"state.db": full}, true},
		{"a page of noise", mutation{kind: "state.db", how: "a page of noise", where: 0.5}, map[string][]byte{"state.db": full}, true},
		{"a page twice", mutation{kind: "state.db", how: "a page twice", where: 0.5}, map[string][]byte{"state.db": full}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tt.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := tt.m.damage(dir)
			if err != nil || got != tt.want {
				t.Errorf("changed: %v, %v; want %v", got, err, tt.want)
			}
			changed := false
			for name, content := range tt.files {
				now, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				changed = changed || !bytes.Equal(now, content)
			}
			if changed != tt.want {
				t.Errorf("a file is another: %v, want %v", changed, tt.want)
			}
		})
	}
}

// Ensure that damage which was plain, and passed as harmless, is a miss, and so are steps that
// found nothing to damage.
func TestDamageIsJudged(t *testing.T) {
	const plainly = "of these, plain to see, and refused or made anew"
	cfg := config{seed: 5, damaged: 14}
	plain := 0
	for _, m := range planMutations(cfg.seed, cfg.damaged, nodes) {
		if m.plain() {
			plain++
		}
	}
	out := newCame()
	out.done, out.seen = 14, plain
	rows := out.rows(cfg)
	if n, p := row(t, rows, damagedInCluster), row(t, rows, plainly); !n.OK || !p.OK {
		t.Errorf("all were seen: %+v, %+v", n, p)
	}
	out.done, out.seen, out.unchanged["state.db-wal"] = 13, plain-1, 1
	rows = out.rows(cfg)
	if n, p := row(t, rows, damagedInCluster), row(t, rows, plainly); n.OK || p.OK {
		t.Errorf("one was not seen, and one was none: %+v, %+v", n, p)
	}
	if got := row(t, rows, "steps that found nothing to change, which are not counted"); got.Value != 1 || got.Note != "state.db-wal ×1" {
		t.Errorf("of nothing to change: %+v", got)
	}
}
