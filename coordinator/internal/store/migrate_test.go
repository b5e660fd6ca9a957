package store

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
)

// A state's schema is a count of migrations: one that came between two others, or a name whose
// number says something else, would be taken for applied where it is not.
func TestMigrationsCount(t *testing.T) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if want := fmt.Sprintf("%04d_", i+1); !strings.HasPrefix(path.Base(name), want) {
			t.Errorf("the migration number %d is %s", i+1, name)
		}
	}
}
