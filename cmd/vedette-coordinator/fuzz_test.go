package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator"
)

// FuzzReadConfig reads any file as a configuration: it is refused with its place, or can be printed as a file
// that is taken again.
func FuzzReadConfig(f *testing.F) {
	var all bytes.Buffer
	if err := printConfig(&all, coordinator.DefaultConfig()); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{all.String(), "", "# nothing\n", "id: n1\nlistn: 1.2.3.4:5\n", "id: [\n", "notify: {programme: /x}\n", "silent_after: soon\n", "retention: {findings: 720h, max_gib: 5}\n",
		"export: [{name: lake, kafka: {brokers: [10.0.0.1:9092]}}, {name: tables, clickhouse: {url: 'https://h:8443'}}]\n", "a: &a [*a]\n", "id: !!binary x\n", "? {id: 1}\n", "id: \"\\x00\"\n", "---\n...\n---\n", "[]", "1", "\xff\xfe"} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "coordinator.yaml")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := coordinator.DefaultConfig()
		if err := readConfig(path, &cfg); err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("it does not say in which file: %v", err)
			}
			return
		}
		for _, d := range documented {
			_ = cfg.Where(d.key)
		}
	})
}
