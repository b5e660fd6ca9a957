package consensus

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	hclog "github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// snapshots are raft's, whose descriptions (of which entry they are, and the members at it)
// have a checksum here: raft's own is of the state that is described.
type snapshots struct {
	raft.SnapshotStore
	dir    string
	logger hclog.Logger
}

// sumFile is beside meta.json; an earlier release wrote none.
const sumFile = "meta.sum"

func openSnapshots(dir string, logger hclog.Logger) (*snapshots, error) {
	inner, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, logger)
	if err != nil {
		return nil, fmt.Errorf("opening raft snapshots: %w", err)
	}
	return &snapshots{inner, filepath.Join(dir, "snapshots"), logger}, nil
}

// List implements raft.SnapshotStore: those whose description is what was written.
func (s *snapshots) List() (good []*raft.SnapshotMeta, err error) {
	all, err := s.SnapshotStore.List()
	for _, one := range all {
		if bad := s.described(one.ID); bad != nil {
			s.logger.Error("a snapshot is left out, its description is damaged: the next one replaces it; look after this disk", "snapshot", one.ID, "error", bad)
			continue
		}
		good = append(good, one)
	}
	return good, err
}

// described holds a snapshot's description to its checksum.
func (s *snapshots) described(id string) error {
	dir := filepath.Join(s.dir, filepath.Base(id))
	meta, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		return err
	}
	want, err := os.ReadFile(filepath.Join(dir, sumFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if got := metaSum(meta); !bytes.Equal(got, want) {
		return fmt.Errorf("%s: its checksum is not the one in %s", filepath.Join(dir, "meta.json"), sumFile)
	}
	return nil
}

func metaSum(meta []byte) []byte { return fmt.Appendf(nil, "%x\n", sha256.Sum256(meta)) }

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, trans)
	if err != nil {
		return nil, err
	}
	return &summedSink{SnapshotSink: sink, dir: s.dir}, nil
}

type summedSink struct {
	raft.SnapshotSink
	dir       string
	cancelled bool
}

// Cancel implements raft.SnapshotSink.
func (s *summedSink) Cancel() error {
	s.cancelled = true
	return s.SnapshotSink.Cancel()
}

// Close implements raft.SnapshotSink.
func (s *summedSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil || s.cancelled {
		return err
	}
	dir := filepath.Join(s.dir, s.ID())
	meta, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was closed before, and is gone by now
	}
	if err != nil {
		return fmt.Errorf("reading the snapshot's description: %w", err)
	}
	if err := replaceFile(filepath.Join(dir, sumFile), metaSum(meta)); err != nil {
		return fmt.Errorf("writing the snapshot's checksum: %w", err)
	}
	return nil
}
