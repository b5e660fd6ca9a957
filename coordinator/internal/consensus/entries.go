package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// The log's library has a checksum for each write and looks at the last one only, when it
// opens: an entry that a disk has changed would be applied, or sent to others, as it is. So
// an entry carries its own checksum from the leader that takes it to wherever it is read, in
// the place that raft leaves for such things.

// errEntry: an entry is not what was stored.
var errEntry = errors.New("entry is damaged")

// entryMark begins Extensions: what follows is the checksum.
var entryMark = []byte("vdC1")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func entrySum(l *raft.Log) []byte {
	head := binary.BigEndian.AppendUint64(nil, l.Index)
	head = binary.BigEndian.AppendUint64(head, l.Term)
	head = append(head, byte(l.Type))
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, l.Data)
	return binary.BigEndian.AppendUint32(bytes.Clone(entryMark), sum)
}

// sealEntry gives an entry its checksum, or holds it to the one that it came with.
func sealEntry(l *raft.Log) error {
	if len(l.Extensions) == 0 {
		l.Extensions = entrySum(l)
		return nil
	}
	return checkEntry(l.Index, l)
}

// checkEntry holds what was read to its checksum. An earlier release gave none.
func checkEntry(index uint64, l *raft.Log) error {
	if l.Index != index || len(l.Extensions) > 0 && !bytes.Equal(l.Extensions, entrySum(l)) {
		return fmt.Errorf("%w: entry %d of the log is not what was stored", errEntry, index)
	}
	return nil
}

// getEntry reads an entry that is what was stored.
func getEntry(from *wal.WAL, index uint64, into *raft.Log) (err error) {
	// The library's decoder slices by what it read: at a number of more than ten bytes it panics.
	// It holds nothing then that is not let go.
	defer func() {
		if found := recover(); found != nil {
			err = fmt.Errorf("%w: entry %d of the log cannot be read: %v", errEntry, index, found)
		}
	}()
	if err := from.GetLog(index, into); err != nil {
		return err
	}
	return checkEntry(index, into)
}

// readThrough reads the whole log: up to 512 MiB at the limits of Config, which is a
// second or two. What is wrong is found before this node has said anything to another.
func readThrough(log *wal.WAL) error {
	first, err := log.FirstIndex()
	if err != nil {
		return fmt.Errorf("reading the log's beginning: %w", err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return fmt.Errorf("reading the log's end: %w", err)
	}
	for index := first; index <= last && index > 0; index++ {
		var entry raft.Log
		if err := getEntry(log, index, &entry); err != nil {
			return fmt.Errorf("reading entry %d: %w", index, err)
		}
	}
	return nil
}

// GetLog implements raft.LogStore. What was compacted is gone, although the segment that is written
// to still has it and the library would read it: who is further behind than TrailingLogs gets a snapshot.
func (w *watchedLog) GetLog(index uint64, log *raft.Log) error {
	first, err := w.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	return getEntry(w.WAL, index, log)
}
