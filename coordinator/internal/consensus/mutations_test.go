package consensus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	hclog "github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/mutation"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/backup"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

const smallSegment = 64 << 10

func openSmall(dir string) (*wal.WAL, error) {
	return openLogOf(dir, hclog.NewNullLogger(), meter.New(), smallSegment)
}

// Ensure no entry of the log, and no term and vote, is read as anything else than what was
// stored, whatever happened to the files; what the log has lost shows against the state.
func TestLogMutations(t *testing.T) {
	const entries = 120
	dir := t.TempDir()
	log, err := openSmall(dir)
	if err != nil {
		t.Fatal(err)
	}
	watched := &watchedLog{log, newDisk()}
	var want []raft.Log
	for i := range entries {
		entry := &raft.Log{Index: uint64(i + 1), Term: 3, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i), 1, 2}, 100+i*7)} //nolint:gosec // small
		if err := watched.StoreLogs([]*raft.Log{entry}); err != nil {
			t.Fatal(err)
		}
		want = append(want, *entry)
	}
	stable := map[string]uint64{"CurrentTerm": 3, "LastVoteTerm": 2}
	for key, value := range stable {
		if err := watched.SetUint64([]byte(key), value); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	files := contents(t, dir)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) < 4 {
		t.Fatalf("the log has the files %q, want several segments and an index", names)
	}
	work := t.TempDir()
	look := func(name string) func([]byte) (string, error) {
		return func(damaged []byte) (string, error) {
			write(t, work, files, name, damaged)
			log, err := openSmall(work)
			if err == nil {
				err = readThrough(log)
			}
			if log != nil {
				defer func() { _ = log.Close() }()
			}
			if err != nil {
				return "refused", nil // ErrLog, with the directory and what to do
			}
			last, lerr := log.LastIndex()
			first, ferr := log.FirstIndex()
			if err := errors.Join(lerr, ferr); err != nil {
				return "", err
			}
			if last != entries || first != 1 {
				return "refused", nil // the state is ahead, or the log begins behind it: stateCoversSnapshot
			}
			for i := first; i <= last; i++ {
				var got raft.Log
				if err := getEntry(log, i, &got); err != nil {
					return "", err
				}
				if w := want[i-1]; got.Term != w.Term || got.Type != w.Type || !bytes.Equal(got.Data, w.Data) {
					return "", fmt.Errorf("entry %d is another", i)
				}
			}
			for key, value := range stable {
				if got, err := log.GetUint64([]byte(key)); err != nil || got != value {
					return "", fmt.Errorf("%s is %d (%v), was %d", key, got, err, value)
				}
			}
			return "harmless", nil
		}
	}
	for _, name := range names {
		kind := name
		if strings.HasSuffix(name, ".wal") {
			kind = "segment " + name[:20]
		}
		mutation.Each(t, "raft/wal/"+kind, files[name], look(name))
	}
}

// Ensure a number in the log that does not end is a damaged entry: the library's decoder
// panics at it.
func TestEndlessNumbersInTheLog(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	log, err := openSmall(dir)
	if err != nil {
		t.Fatal(err)
	}
	entry := &raft.Log{Index: 1, Term: 3, Type: raft.LogCommand, Data: bytes.Repeat([]byte("entry"), 40)}
	next := &raft.Log{Index: 2, Term: 3, Type: raft.LogCommand, Data: []byte("x")} // of the last write the library looks at the checksum
	watched := &watchedLog{log, newDisk()}
	if err := errors.Join(watched.StoreLogs([]*raft.Log{entry}), watched.StoreLogs([]*raft.Log{next}), log.Close()); err != nil {
		t.Fatal(err)
	}
	files := contents(t, dir)
	refused := 0
	for name, whole := range files {
		at := bytes.Index(whole, entry.Data)
		if at < 0 {
			continue
		}
		for ; at >= 0; at-- { // its length is before it, and the type, the term and the index before that
			damaged := bytes.Clone(whole)
			copy(damaged[at:], bytes.Repeat([]byte{0xff}, binary.MaxVarintLen64+1))
			write(t, work, files, name, damaged)
			log, err := openSmall(work)
			if err == nil {
				err = readThrough(log)
			}
			if log != nil {
				_ = log.Close()
			}
			if errors.Is(err, errEntry) {
				refused++
			}
		}
	}
	if refused == 0 {
		t.Error("no entry was found damaged")
	}
}

// Ensure a raft snapshot is restored as it was taken, or not at all.
func TestSnapshotMutations(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	db, err := store.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for i := range uint64(40) {
		cmd := &raftv1.Command{Time: int64(i + 1), Actor: "node:n1", Body: &raftv1.Command_PutOperator{PutOperator: &raftv1.PutOperator{Name: fmt.Sprintf("op-%d", i), Role: "viewer"}}} //nolint:gosec // small
		if err := db.Update(i+1, func(tx *store.Tx) error {
			_, err := state.Apply(tx, i+1, cmd)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	digest, err := db.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := openSnapshots(dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("n1")
	members := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "x:1"}}}
	sink, err := all.Create(raft.SnapshotVersionMax, 40, 3, members, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	frozen, err := db.Freeze()
	if err == nil {
		err = (&snapshot{frozen}).Persist(sink)
	}
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(dir, "snapshots", sink.ID())
	files := contents(t, inside)
	into, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = into.Close() }()
	for _, name := range []string{"state.bin", "meta.json", sumFile} {
		mutation.Each(t, "raft/snapshots/"+name, files[name], func(damaged []byte) (string, error) {
			write(t, inside, files, name, damaged)
			list, err := all.List()
			if err != nil {
				return "", err
			}
			if len(list) == 0 {
				return "refused", nil // left out, and told
			}
			meta, r, err := all.Open(list[0].ID)
			if err != nil {
				return "refused", nil //nolint:nilerr // raft tries the one before, and tells
			}
			err = into.Restore(io.NopCloser(r))
			if err = errors.Join(err, r.Close()); err != nil {
				return "refused", nil
			}
			got, err := into.Digest(t.Context())
			if err != nil || got != digest || meta.Index != 40 || meta.Term != 3 || len(meta.Configuration.Servers) != 1 || meta.Configuration.Servers[0] != members.Servers[0] {
				return "", fmt.Errorf("it is restored as another: %+v, %w", meta, err)
			}
			return "harmless", nil
		})
	}
}

// Ensure a backup is read as it was written, or not at all.
func TestBackupMutations(t *testing.T) {
	content := bytes.Repeat([]byte("what a cluster knows "), 3000)
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Manifest{Format: 1, ClusterID: "c-test", Node: "n1", Index: 42})
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	mutation.Each(t, "backup", out.Bytes(), func(damaged []byte) (string, error) {
		r, err := backup.NewReader(bytes.NewReader(damaged))
		if err != nil {
			return "refused", nil
		}
		got, err := io.ReadAll(r)
		if err != nil {
			return "refused", nil
		}
		if m := r.Manifest(); !bytes.Equal(got, content) || m.Index != 42 || m.ClusterID != "c-test" || m.Node != "n1" {
			return "", fmt.Errorf("it is read as another: %+v", m)
		}
		return "harmless", nil
	})
}

// Ensure the first release's index is taken over, with term and vote.
func TestIndexTakenOver(t *testing.T) {
	dir := t.TempDir()
	before := &watchedLog{mustOld(t, dir), newDisk()}
	if err := errors.Join(before.StoreLog(&raft.Log{Index: 1, Term: 9, Data: []byte("x")}), before.SetUint64([]byte("CurrentTerm"), 9),
		before.Set([]byte("LastVoteCand"), []byte("n2")), before.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		log, err := openSmall(dir)
		if err != nil {
			t.Fatal(err)
		}
		term, terr := log.GetUint64([]byte("CurrentTerm"))
		vote, verr := log.Get([]byte("LastVoteCand"))
		last, lerr := log.LastIndex()
		if err := errors.Join(terr, verr, lerr, log.Close()); err != nil || term != 9 || string(vote) != "n2" || last != 1 {
			t.Errorf("term %d, vote %q, last entry %d, %v", term, vote, last, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "wal-meta.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old index: %v", err)
	}
}

func mustOld(t *testing.T, dir string) *wal.WAL {
	t.Helper()
	log, err := wal.Open(dir, wal.WithSegmentSize(smallSegment))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// Ensure an entry that makes the node end because its state is wrong has the state made
// anew at the next start, once.
func TestFailedStateIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	open := func() *Node {
		n := &Node{cfg: Config{DataDir: dir}, disk: newDisk(), closing: context.Background()}
		if err := n.cfg.populate(); err == nil || n.cfg.Logger == nil { // no listener: what is needed is there
			t.Fatal(err)
		}
		if err := n.openState(filepath.Join(dir, "state.db")); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for round, want := range []uint64{7, 0, 7, 7} {
		n := open()
		if got := n.db.AppliedIndex(); round > 0 && got != want {
			t.Errorf("start %d: the state is at entry %d, want %d", round, got, want)
		}
		if n.db.AppliedIndex() == 0 {
			if err := n.db.Update(7, func(*store.Tx) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if round != 1 {
			n.failedAt(8)
		}
		if err := n.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range list {
		if files[one.Name()], err = os.ReadFile(filepath.Join(dir, one.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// write makes dir hold these files, one of them otherwise.
func write(t *testing.T, dir string, files map[string][]byte, other string, content []byte) {
	t.Helper()
	list, err := os.ReadDir(dir)
	for _, one := range list {
		err = errors.Join(err, os.Remove(filepath.Join(dir, one.Name())))
	}
	for name, raw := range files {
		if name == other {
			raw = content
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}
