package consensus

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/raft-wal/types"
)

// finishRotation does what a crash kept the log from. A file that is full, or whose end is
// cut, is sealed first; then the index is told, and names the next one. Between the two the
// library takes the sealed file for the one to write to, and refuses every entry from then
// on, at each start again.
func finishRotation(dir string, files types.SegmentFiler, index types.MetaStore, segment int) error {
	has, err := index.Load(dir)
	if err != nil || len(has.Segments) == 0 {
		return err
	}
	last := len(has.Segments) - 1
	tail := has.Segments[last]
	if !tail.SealTime.IsZero() {
		return nil
	}
	file, err := files.RecoverTail(tail)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the next file was named, and not made yet: the library makes it
	}
	if err != nil {
		return err
	}
	sealed, start, err := file.Sealed()
	end := file.LastIndex()
	if err = errors.Join(err, file.Close()); err != nil || !sealed {
		return err
	}
	next := types.SegmentInfo{ID: has.NextSegmentID, BaseIndex: tail.BaseIndex, MinIndex: tail.BaseIndex, Codec: tail.Codec,
		CreateTime: time.Now(), SizeLimit: uint32(segment)} //nolint:gosec // some MiB
	if end < tail.BaseIndex { // sealed without an entry: the next one takes its place
		has.Segments = has.Segments[:last]
	} else {
		tail.SealTime, tail.MaxIndex, tail.IndexStart = time.Now(), end, start
		has.Segments[last] = tail
		next.BaseIndex, next.MinIndex = end+1, end+1
	}
	has.NextSegmentID++
	has.Segments = append(has.Segments, next)
	if err := index.CommitState(has); err != nil {
		return fmt.Errorf("naming the log's next file: %w", err)
	}
	return nil
}
