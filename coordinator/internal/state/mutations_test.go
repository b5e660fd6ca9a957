package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/coordinator/internal/mutation"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure a state file that was damaged is refused, or is found to be wrong by what it reads
// itself or by what another node holds at the same entry; or says what it said before, or what
// it said at an earlier entry, from which the log goes on.
func TestStateMutations(t *testing.T) {
	const entries, late = 150, 20
	command := rapid.Custom(drawCommand)
	var all []*raftv1.Command
	for i := range entries + late {
		all = append(all, proto.Clone(command.Example(i)).(*raftv1.Command))
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	db, err := store.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	digests := map[uint64]string{}
	digests[0] = said(t, db)
	for len(digests) <= entries {
		if err := goOn(db, all, len(digests)); err != nil {
			t.Fatal(err)
		}
		digests[db.AppliedIndex()] = said(t, db)
		if len(digests) == entries*2/3 { // the rest is in the journal
			if err = db.Close(); err == nil {
				db, err = store.Open(t.Context(), path, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	files := map[string][]byte{}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if files[suffix], err = os.ReadFile(path + suffix); err != nil {
			t.Fatal(err)
		}
	}
	// What was closed: all is in the one file.
	closed := copied(t, t.TempDir(), files)
	still, err := store.Open(t.Context(), closed, nil)
	if err = errors.Join(err, still.Close()); err != nil {
		t.Fatal(err)
	}
	alone := map[string][]byte{}
	if alone[""], err = os.ReadFile(closed); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tag(db), goOn(db, all, entries+late)); err != nil {
		t.Fatal(err)
	}
	want := wholeOf(t, db)
	if want == nil {
		t.Fatal("the whole state is not read")
	}
	work := t.TempDir()
	look := func(suffix string, with map[string][]byte) func([]byte) (string, error) {
		return func(damaged []byte) (string, error) {
			mutated := map[string][]byte{}
			for s, content := range with {
				mutated[s] = content
			}
			mutated[suffix] = damaged
			at := copied(t, work, mutated)
			one, err := store.Open(t.Context(), at, nil)
			if err != nil {
				if !errors.Is(err, store.ErrDamaged) && !strings.Contains(err.Error(), at) {
					return "", fmt.Errorf("it does not name the file: %w", err)
				}
				return "refused", nil // and set aside: consensus.openState
			}
			defer func() { _ = one.Close() }()
			index := one.AppliedIndex()
			if index > entries {
				return "refused", nil // ahead of the log: consensus.ErrAhead
			}
			if said(t, one) == digests[index] {
				return "harmless", nil
			}
			// It is wrong, and opens. It is found when it started, and is at the others' entry.
			if err := errors.Join(tag(one), goOn(one, all, entries+late)); err != nil {
				return "healed", nil // the node ends, and makes its state anew: consensus.failedAt
			}
			if sum := wholeOf(t, one); sum == nil && one.Broken() != nil || sum != nil && !bytes.Equal(sum, want) {
				return "healed", nil
			}
			if differ(one.Checks(), db.Checks()) {
				return "healed", nil
			}
			if said(t, one) == said(t, db) {
				return "harmless", nil // what was changed was written anew
			}
			return "", errors.New("it says something else, and nothing tells")
		}
	}
	mutation.Each(t, "state.db", alone[""], look("", alone))
	mutation.Each(t, "state.db beside its journal", files[""], look("", files))
	mutation.Each(t, "state.db-wal", files["-wal"], look("-wal", files))
	mutation.Each(t, "state.db-shm", files["-shm"], look("-shm", files))
}

// goOn applies what the state lacks of the log, up to an entry.
func goOn(db *store.DB, all []*raftv1.Command, to int) error {
	for i := int(db.AppliedIndex()); i < to; i++ { //nolint:gosec // small
		if _, err := apply(db, uint64(i+1), all[i]); err != nil { //nolint:gosec // small
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
	}
	return nil
}

// tag makes windows of the log so short that some end in the entries to come.
func tag(db *store.DB) error { return db.Tag("test", 5, 50) }

// differ is what consensus compares: of the same window, what both know.
func differ(one, other []store.Check) bool {
	for _, a := range one {
		for _, b := range other {
			if a.Window == b.Window && (len(a.Chain)*len(b.Chain) > 0 && !bytes.Equal(a.Chain, b.Chain) || len(a.Slice)*len(b.Slice) > 0 && !bytes.Equal(a.Slice, b.Slice)) {
				return true
			}
		}
	}
	return false
}

func said(t *testing.T, db *store.DB) string {
	digest, err := db.Digest(t.Context())
	if err != nil {
		return err.Error()
	}
	return digest
}

// wholeOf is what a node tells the others of its whole state; nil when it cannot read it.
func wholeOf(t *testing.T, db *store.DB) []byte {
	t.Helper()
	if err := db.CheckWhole(); err != nil {
		return nil
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		checks := db.Checks()
		if last := checks[len(checks)-1]; len(last.Slice) > 0 {
			return last.Slice
		}
		if db.Broken() != nil {
			return nil
		}
	}
	t.Fatal("it never ends to read the state")
	return nil
}

// copied writes a state's files into dir, and is its path.
func copied(t *testing.T, dir string, files map[string][]byte) string {
	t.Helper()
	path := filepath.Join(dir, "state.db")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(path + suffix)
		if content, ok := files[suffix]; ok {
			if err := os.WriteFile(path+suffix, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}
