package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft-wal/types"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a node whose old log ends before its newest snapshot goes on behind the snapshot: it
// died after that was installed and before the log was removed.
func TestLogGoesOnBehindSnapshot(t *testing.T) {
	dir := t.TempDir()
	n, stop := single(t, dir)
	for i := range 30 {
		put(t, n, fmt.Sprint("op-", i))
	}
	if err := n.Snapshot(); err != nil {
		t.Fatal(err)
	}
	stop()
	list, err := n.snapshots.List()
	if err != nil {
		t.Fatal(err)
	}
	log, err := openLog(filepath.Join(dir, "raft", "wal"), newLogger(n.cfg.Logger), meter.New(Kinds()...))
	if err != nil {
		t.Fatal(err)
	}
	last, err := log.LastIndex()
	if err := errors.Join(err, log.DeleteRange(list[0].Index-5, last), log.Close()); err != nil {
		t.Fatal(err)
	}
	n, _ = single(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := n.ReadBarrier(ctx); err != nil {
		t.Errorf("it takes no entry: %v, %v", err, n.Fit())
	}
	put(t, n, "after")
}

// Ensure a node that closes while it waits for room applies nothing behind the entry that it
// left out, and takes no snapshot that claims it.
func TestNothingBehindWhatIsLeftOut(t *testing.T) {
	n, stop := single(t, t.TempDir())
	put(t, n, "before")
	before := n.AppliedIndex()
	n.applying.Lock()
	n.stopped = true
	n.applying.Unlock()
	data, err := encode(operatorCommand("behind"))
	if err != nil {
		t.Fatal(err)
	}
	if res := n.apply(before+2, data); res != nil || n.AppliedIndex() != before {
		t.Errorf("applied: %v, at %d of %d", res, n.AppliedIndex(), before)
	}
	if _, err := n.freeze(); !errors.Is(err, ErrClosed) {
		t.Errorf("a snapshot: %v", err)
	}
	stop()
}

// Ensure a node whose state was known to differ serves again when it has been made the cluster.
func TestRecoverOfOneThatDiffers(t *testing.T) {
	dir := t.TempDir()
	n, stop := single(t, dir)
	put(t, n, "before")
	stop()
	if err := os.WriteFile(n.marker(), []byte("damaged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Look(t.Context(), dir, nil); err != nil || !s.Differed {
		t.Errorf("before it, who looks is told %+v, %v", s, err)
	}
	if _, err := Recover(t.Context(), dir, &sensorv1.Node{Id: "n1", Address: "127.0.0.1:1"}, 5, nil); err != nil {
		t.Fatal(err)
	}
	if s, err := Look(t.Context(), dir, nil); err != nil || s.Differed {
		t.Errorf("behind it, who looks is told %+v, %v", s, err)
	}
	n, _ = single(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := n.ReadBarrier(ctx); err != nil {
		t.Errorf("it serves nobody: %v", err)
	}
}

// Ensure a vote that could not be written is not read back.
func TestIndexHoldsWhatIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	x := &fileIndex{}
	if _, err := x.Load(dir); err != nil {
		t.Fatal(err)
	}
	if err := x.SetStable([]byte("LastVoteTerm"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if x.SetStable([]byte("LastVoteTerm"), []byte("2")) == nil || x.CommitState(types.PersistentState{NextSegmentID: 7}) == nil {
		t.Fatal("it was written into no folder")
	}
	if got, err := x.GetStable([]byte("LastVoteTerm")); err != nil || string(got) != "1" || x.has.State.NextSegmentID == 7 {
		t.Errorf("it holds %q, %v and %+v", got, err, x.has.State)
	}
}
