package consensus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/types"
)

// crashingIndex keeps what the disk has before and after each change of the log's index.
type crashingIndex struct {
	types.MetaStore
	crash func(when string)
}

func (x *crashingIndex) CommitState(s types.PersistentState) error {
	x.crash("before")
	err := x.MetaStore.CommitState(s)
	x.crash("after")
	return err
}

// Ensure a log goes on after a crash on either side of each change of its index: when it is
// made, when a file is full, and when either end is cut off.
func TestLogGoesOnAfterCrash(t *testing.T) {
	dir := t.TempDir()
	var images []string
	files, index := logFiles(dir)
	log, err := wal.Open(dir, wal.WithSegmentFiler(files), wal.WithSegmentSize(smallSegment), wal.WithLogger(hclog.NewNullLogger()),
		wal.WithMetaStore(&crashingIndex{index, func(when string) {
			image := t.TempDir()
			if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
				t.Error(err)
			}
			images = append(images, image)
			t.Logf("%d: %s", len(images), when)
		}}))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(index uint64) *raft.Log {
		l := &raft.Log{Index: index, Term: 3, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%0*d", 4<<10, index)}
		if err := sealEntry(l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	for i := uint64(1); i <= 60; i++ { // 240 KiB: four files
		if err := log.StoreLogs([]*raft.Log{entry(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(log.DeleteRange(1, 40), log.DeleteRange(58, 60), log.DeleteRange(45, 57), log.StoreLog(entry(45)), log.DeleteRange(41, 45)); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if len(images) < 14 {
		t.Fatalf("%d crashes, want one on each side of seven changes", len(images))
	}
	for i, image := range slices.Clone(images) {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			var last uint64
			for range 3 { // and again: what was mended must stay so
				log, err := openSmall(image)
				if err != nil {
					t.Fatal(err)
				}
				if err := readThrough(log); err != nil {
					t.Error(err)
				}
				now, err := log.LastIndex()
				if err != nil || last != 0 && now != last {
					t.Errorf("the log ends at %d, after it was stored to %d: %v", now, last, err)
				}
				for range 20 { // beyond one more file
					now++
					if err := log.StoreLog(entry(now)); err != nil {
						t.Fatalf("storing entry %d: %v", now, err)
					}
				}
				last = now
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(image, "*.wal")); len(left) > 8 {
				t.Errorf("%d files are left", len(left))
			}
		})
	}
}
