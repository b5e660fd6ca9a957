package clustertest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var sharedKey = []byte("behaviour-of-all")

// writer is a sensor as its coordinator sees it: it sends the next batch when
// the last one was acknowledged, and the same one again until it is.
type writer struct {
	host  string
	boot  []byte
	acked atomic.Uint64
}

func newWriter(c *Cluster, host string) *writer {
	c.t.Helper()
	c.Must(&raftv1.Command{Time: 1, Actor: "node:n1", Body: &raftv1.Command_EnrollHost{
		EnrollHost: &raftv1.EnrollHost{Host: host, Facts: &sensorv1.HostFacts{Name: host}}}})
	return &writer{host: host, boot: bootOf(host)}
}

func bootOf(host string) []byte {
	boot := sha256.Sum256([]byte(host))
	return boot[:16]
}

func (w *writer) command(seq uint64) *raftv1.Command {
	batch := &sensorv1.Batch{Boot: w.boot, Prev: seq - 1, Records: []*sensorv1.Record{{
		Sequence: seq, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
			Deltas: []*sensorv1.BehaviourDelta{{Key: sharedKey, Count: 1}}}}}}}
	if seq%10 == 0 {
		batch.Records[0].Body = &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: fmt.Sprintf("%s-%d", w.host, seq)}}
	}
	return &raftv1.Command{Time: int64(seq), Actor: "node:x", Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{
		Batches: []*raftv1.HostBatch{{Host: w.host, Batch: batch}}}}}
}

// run sends until ctx ends, and then until its last batch is settled.
func (w *writer) run(ctx context.Context, c *Cluster, pick int) error {
	for seq := uint64(1); ctx.Err() == nil; seq++ {
		for {
			pick++
			node := c.Members[pick%len(c.Members)].Node()
			if node == nil {
				continue
			}
			attempt, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			result, err := node.Propose(attempt, w.command(seq))
			cancel()
			if err != nil {
				continue
			}
			if acks := result.GetAcks(); len(acks) != 1 || acks[0].GetGap() || acks[0].GetSequence() != seq {
				return fmt.Errorf("%s: batch %d answered %v", w.host, seq, result)
			}
			w.acked.Store(seq)
			break
		}
	}
	return nil
}

// write runs n writers during fn and returns them, all settled.
func write(t *testing.T, c *Cluster, n int, fn func([]*writer)) []*writer {
	t.Helper()
	writers := make([]*writer, n)
	for i := range writers {
		writers[i] = newWriter(c, fmt.Sprintf("h-%d", i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for i, w := range writers {
		wg.Go(func() {
			if err := w.run(ctx, c, i); err != nil {
				t.Error(err)
			}
		})
	}
	fn(writers)
	cancel()
	wg.Wait()
	return writers
}

// progress waits until every writer has had n more records acknowledged.
func progress(c *Cluster, writers []*writer, n uint64) {
	c.t.Helper()
	for _, w := range writers {
		from := w.acked.Load()
		c.Eventually(30*time.Second, fmt.Sprintf("progress of %s", w.host), func() bool { return w.acked.Load() >= from+n })
	}
}

// verify counts, on every running member, what each writer has stored, and
// returns acknowledged, lost and duplicated records.
func verify(t *testing.T, c *Cluster, writers []*writer) (acked, lost, dup uint64) {
	t.Helper()
	c.Converged()
	ctx := context.Background()
	for _, m := range c.Members {
		node := m.Node()
		if node == nil {
			continue
		}
		acked = 0
		for _, w := range writers {
			want := w.acked.Load()
			acked += want
			rows, err := node.DB().Behaviours(ctx, w.host, 10)
			if err != nil {
				t.Fatalf("%s: reading behaviours: %v", m.ID, err)
			}
			got := uint64(0)
			for _, r := range rows {
				got += r.GetCount()
			}
			for token := ""; ; {
				page, next, err := node.DB().Findings(ctx, store.FindingFilter{Host: w.host}, store.Page{Size: store.MaxPage, Token: token})
				if err != nil {
					t.Fatalf("%s: reading findings: %v", m.ID, err)
				}
				got += uint64(len(page))
				if token = next; token == "" {
					break
				}
			}
			if got < want {
				lost += want - got
			} else {
				dup += got - want
			}
			if position, err := node.DB().Position(ctx, w.host, w.boot); err != nil || position != want {
				t.Errorf("%s: position of %s = %d, %v, want %d", m.ID, w.host, position, err, want)
			}
		}
	}
	return acked, lost, dup
}
