package consensus

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
)

// indexFile is the log's own record: which files it has, and raft's term and vote. It is
// small and changes seldom, so it is one file with a checksum that is replaced whole. The
// library's own (bbolt) has checksums of two of its pages alone: a bit of a term or a vote
// that changes there would be believed, and a file that is cut ends the process.
const indexFile = "wal-index.json"

const indexMagic = "vedette-wal-index-v1"

// stableKeys are what raft keeps: to be taken over from the library's own file.
var stableKeys = []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"}

// fileIndex implements types.MetaStore.
type fileIndex struct {
	mu  sync.Mutex // guards what follows
	dir string
	has indexed
}

type indexed struct {
	State  types.PersistentState
	Stable map[string][]byte
}

// Load implements types.MetaStore.
func (x *fileIndex) Load(dir string) (types.PersistentState, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dir = dir
	raw, err := os.ReadFile(filepath.Join(dir, indexFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = x.begin()
	case err == nil:
		x.has, err = readIndex(raw)
	}
	if err != nil {
		return types.PersistentState{}, fmt.Errorf("reading %s: %w", filepath.Join(dir, indexFile), err)
	}
	return x.has.State, nil
}

func readIndex(raw []byte) (has indexed, err error) {
	head, body, _ := bytes.Cut(raw, []byte{'\n'})
	if want := indexHead(body); !bytes.Equal(head, want) {
		return has, fmt.Errorf("%w: its checksum is not that of its content", types.ErrCorrupt)
	}
	if err := json.Unmarshal(body, &has); err != nil {
		return has, fmt.Errorf("%w: %w", types.ErrCorrupt, err)
	}
	return has, nil
}

func indexHead(body []byte) []byte {
	return fmt.Appendf(nil, "%s %x", indexMagic, sha256.Sum256(body))
}

// begin makes the file, of what an earlier release has left or of nothing.
func (x *fileIndex) begin() error {
	x.has = indexed{Stable: map[string][]byte{}}
	old := filepath.Join(x.dir, metadb.FileName)
	if _, err := os.Stat(old); err != nil {
		if left, _ := filepath.Glob(filepath.Join(x.dir, "*.wal")); len(left) > 0 {
			return fmt.Errorf("%w: it is missing beside %d files of the log", types.ErrCorrupt, len(left))
		}
		return x.write(x.has)
	}
	earlier := &metadb.BoltMetaDB{}
	state, err := earlier.Load(x.dir)
	x.has.State = state
	for _, key := range stableKeys {
		if err == nil {
			var value []byte
			if value, err = earlier.GetStable([]byte(key)); value != nil {
				x.has.Stable[key] = value
			}
		}
	}
	if err = errors.Join(err, earlier.Close()); err != nil {
		return fmt.Errorf("taking over %s: %w", old, err)
	}
	if err := x.write(x.has); err != nil {
		return err
	}
	return os.Remove(old)
}

// write replaces the file and returns when the new one is on the disk. What could not be written
// is not held in memory either: a vote that failed must not be read back as one that was given.
func (x *fileIndex) write(next indexed) error {
	body, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encoding the log's index: %w", err)
	}
	path := filepath.Join(x.dir, indexFile)
	if err := replaceFile(path, append(append(indexHead(body), '\n'), body...)); err != nil {
		return err
	}
	x.has = next
	return nil
}

// replaceFile puts a file in another's place, as a whole and on the disk, or leaves it as it was.
func replaceFile(path string, content []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// CommitState implements types.MetaStore.
func (x *fileIndex) CommitState(state types.PersistentState) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.write(indexed{State: state, Stable: x.has.Stable})
}

// GetStable implements types.MetaStore.
func (x *fileIndex) GetStable(key []byte) ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return bytes.Clone(x.has.Stable[string(key)]), nil
}

// SetStable implements types.MetaStore.
func (x *fileIndex) SetStable(key, value []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	stable := maps.Clone(x.has.Stable)
	if stable == nil {
		stable = map[string][]byte{}
	}
	if value == nil {
		delete(stable, string(key))
	} else {
		stable[string(key)] = bytes.Clone(value)
	}
	return x.write(indexed{State: x.has.State, Stable: stable})
}

// Close implements io.Closer.
func (x *fileIndex) Close() error { return nil }
