package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Ensure a test that passes when it is alone is told from one that does not, and that what
// no test is to blame for, or many are, is not tried again.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	source := "package p\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\n" +
		"func TestSteady(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Error(\"no\") }) }\n" +
		"func TestUnsteady(t *testing.T) { t.Run(\"sub\", func(t *testing.T) {}) }\n" +
		"func TestOnceOnly(t *testing.T) { if os.Mkdir(\"was-here\", 0o755) != nil { t.Error(\"second time\") } }\n" +
		"func TestSkips(t *testing.T) { t.Skip(\"SKIP: needs luck\") }\n"
	for name, text := range map[string]string{"go.mod": "module example.test/p\n\ngo 1.26\n", "p_test.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	of := func(tests ...string) (failed []failure) {
		for _, test := range tests {
			failed = append(failed, failure{"example.test/p", test})
		}
		return failed
	}
	for _, tt := range []struct {
		name   string
		failed []failure
		want   []failure
	}{
		{"steady and not", of("TestSteady/sub", "TestUnsteady/sub"), of("TestUnsteady/sub")},
		{"passes once of two", of("TestOnceOnly"), nil},
		{"skips", of("TestSkips"), nil},
		{"a package", of("TestUnsteady/sub", ""), nil},
		{"many", of("TestUnsteady", "TestA", "TestB", "TestC"), nil},
		{"is not there", of("TestNowhere"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			got := again(t.Context(), config{timeout: time.Minute, parallel: 1}, tt.failed, &out)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v\n%s", got, tt.want, strings.TrimSpace(out.String()))
			}
		})
	}
}
