//go:build !failpoint

package consensus

import (
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// tellDigest does nothing: a test build says what the state is at some entries.
func (n *Node) tellDigest(uint64) {}

// segmentSize is how large a file of the log becomes.
func segmentSize() int { return wal.DefaultSegmentSize }

// logFiles are what the log is written through: the library's own.
func logFiles(dir string) (types.SegmentFiler, types.MetaStore) {
	return segment.NewFiler(dir, fs.New()), &fileIndex{}
}
