//go:build failpoint

package consensus

import (
	"context"
	"fmt"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
)

// tellDigest logs the state's digest at every so many entries, to be compared between
// nodes: all that hold an entry must say the same of it, also when they replay it.
func (n *Node) tellDigest(index uint64) {
	every := failpoint.Number("digest-every", 0)
	if every == 0 || index%every != 0 {
		return
	}
	digest, err := n.db.Digest(context.Background())
	if err != nil {
		panic(fmt.Sprintf("digest at %d: %v", index, err))
	}
	n.cfg.Logger.Info("state digest", "index", index, "digest", digest)
}

// segmentSize is small in a test, which then sees files begin and go.
func segmentSize() int {
	return int(failpoint.Number("segment-size", uint64(wal.DefaultSegmentSize))) //nolint:gosec // the test's own number
}

// logFiles are the library's own, with a place to die on both sides of each system call
// that changes what is on disk.
func logFiles(dir string) (types.SegmentFiler, types.MetaStore) {
	return segment.NewFiler(dir, logFS{fs.New()}), logIndex{&fileIndex{}}
}

type logFS struct{ types.VFS }

func (l logFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	failpoint.Hit("log.create.before")
	f, err := l.VFS.Create(dir, name, size)
	failpoint.Hit("log.create.after")
	return logFile{f}, err
}

func (l logFS) Delete(dir, name string) error {
	failpoint.Hit("log.delete.before")
	err := l.VFS.Delete(dir, name)
	failpoint.Hit("log.delete.after")
	return err
}

func (l logFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := l.VFS.OpenWriter(dir, name)
	return logFile{f}, err
}

type logFile struct{ types.WritableFile }

func (f logFile) WriteAt(p []byte, at int64) (int, error) {
	failpoint.Hit("log.write.before")
	// Half of it, as a crash in the middle of a write leaves it.
	if half := len(p) / 2; failpoint.Skips("log.write.torn") {
		if n, err := f.WritableFile.WriteAt(p[:half], at); err != nil {
			return n, err
		}
		failpoint.Hit("log.write.half")
	}
	n, err := f.WritableFile.WriteAt(p, at)
	failpoint.Hit("log.write.after")
	return n, err
}

func (f logFile) Sync() error {
	failpoint.Hit("log.sync.before")
	if failpoint.Skips("log.sync") {
		return nil
	}
	err := f.WritableFile.Sync()
	failpoint.Hit("log.sync.after")
	return err
}

// logIndex is the log's own record of its files: it changes when a file begins, and when
// the log is cut at either end.
type logIndex struct{ types.MetaStore }

func (i logIndex) CommitState(s types.PersistentState) error {
	failpoint.Hit("log.index.before")
	err := i.MetaStore.CommitState(s)
	failpoint.Hit("log.index.after")
	return err
}
