package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
)

// Ensure a state that is not whole is told as such, and one set aside makes room for a new one.
func TestOpenFindsDamage(t *testing.T) {
	for name, damage := range map[string]func(path string, size int64) error{
		"cut":  func(path string, size int64) error { return os.Truncate(path, size/3) },
		"head": func(path string, _ int64) error { return write(path, 0) },
		"body": func(path string, _ int64) error { return write(path, 8192) },
		"text": func(path string, _ int64) error { return os.WriteFile(path, []byte("not a database at all\n"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			db, err := store.Open(t.Context(), path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(7, func(*store.Tx) error { return nil }), db.Close()); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(path, info.Size()); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Open(t.Context(), path, nil); !errors.Is(err, store.ErrDamaged) {
				t.Fatalf("got %v, want %v", err, store.ErrDamaged)
			}
			kept, err := store.SetAside(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(kept); err != nil {
				t.Error(err)
			}
			if db, err = store.Open(t.Context(), path, nil); err != nil || db.AppliedIndex() != 0 {
				t.Fatalf("got %v at %d, want an empty state", err, db.AppliedIndex())
			}
			_ = db.Close()
		})
	}
}

func write(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 4096), at)
	return errors.Join(err, f.Close())
}
