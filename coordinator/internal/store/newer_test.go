package store

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Ensure a snapshot that a later release wrote is refused with those words, whether its
// format or its schema is newer, and that the state stays what it was.
func TestRestoreRefusesNewer(t *testing.T) {
	dir := t.TempDir()
	source, err := Open(t.Context(), filepath.Join(dir, "source.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := Open(t.Context(), filepath.Join(dir, "target.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	for _, db := range []*DB{source, target} {
		if err := db.Update(3, func(tx *Tx) error { return tx.SetCluster("c-1") }); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, snap []byte) {
		t.Helper()
		err := target.Restore(bytes.NewReader(snap))
		if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "upgrade this node") {
			t.Errorf("%s: got %v", what, err)
		}
		if id, err := target.ClusterID(t.Context()); err != nil || id != "c-1" || target.AppliedIndex() != 3 {
			t.Errorf("%s: the state is %q at %d, %v", what, id, target.AppliedIndex(), err)
		}
	}
	var snap bytes.Buffer
	if err := source.Snapshot(&snap); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(&snap)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(snapshotMagic)-1]++
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	refused("format", w.EncodeAll(raw, nil))
	if _, err := source.writer.Exec("PRAGMA user_version = 9999", nil); err != nil {
		t.Fatal(err)
	}
	var later bytes.Buffer
	if err := source.Snapshot(&later); err != nil {
		t.Fatal(err)
	}
	refused("schema", later.Bytes())
}
