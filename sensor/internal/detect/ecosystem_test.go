package detect

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/proto/sigma"
)

// ecosystem is where rules of the ecosystem lie, as data; "" and a skip when they do not.
func ecosystem(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("VEDETTE_SIGMA_DIR")
	if dir == "" {
		dir = "../../../../shared/eval/sigma"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIP: needs the Sigma rules at %s (set VEDETTE_SIGMA_DIR)", dir)
	}
	return dir
}

// parseAll reads all rules below a directory.
func parseAll(t testing.TB, files fs.FS) (rules []*sigma.Rule) {
	t.Helper()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yml" {
			return err
		}
		raw, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		file, refused := sigma.ParseFile(path, raw)
		for _, err := range refused {
			t.Error(err)
		}
		rules = append(rules, file.Rules...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}
