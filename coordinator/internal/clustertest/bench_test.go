package clustertest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// rowsPerEntry makes an entry of about 64 KiB.
	rowsPerEntry = 1500
	// keysPerHost are known after a host's first entries: most rows are updates, as in life.
	keysPerHost = 6000
)

// rows is a command that counts rowsPerEntry behaviours of a host.
func rows(host string, boot []byte, seq uint64) *raftv1.Command {
	s := &sensorv1.Summary{}
	for i := range rowsPerEntry {
		n := (seq*rowsPerEntry + uint64(i)) % keysPerHost
		key := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(host), n))
		s.Deltas = append(s.Deltas, &sensorv1.BehaviourDelta{Key: key[:16], Count: 1, LastSeen: int64(seq), Known: true})
	}
	return &raftv1.Command{Time: int64(seq), Actor: "node:x", Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{
		Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{Boot: boot, Prev: seq - 1,
			Records: []*sensorv1.Record{{Sequence: seq, Body: &sensorv1.Record_Summary{Summary: s}}}}}}}}}
}

// BenchmarkReplicatedRows prints rows a second that a cluster of three, in one
// process, acknowledges; one iteration is one entry of 1,500 rows.
func BenchmarkReplicatedRows(b *testing.B) {
	c := New(b, 3, nil)
	const hosts = 8
	writers := make([]*writer, hosts)
	for i := range writers {
		writers[i] = newWriter(c, fmt.Sprintf("h-%d", i))
	}
	leader := c.Leader().Node()
	send := func(w *writer, seq uint64) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if r, err := leader.Propose(ctx, rows(w.host, w.boot, seq)); err != nil || len(r.GetAcks()) != 1 || r.GetAcks()[0].GetGap() {
			b.Errorf("proposing: %v, %v", r, err)
		}
	}
	next := make([]uint64, hosts)
	warm := uint64(keysPerHost / rowsPerEntry)
	each := func(fn func(int)) {
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() { fn(i) })
		}
		wg.Wait()
	}
	each(func(i int) {
		for next[i] < warm {
			next[i]++
			send(writers[i], next[i])
		}
	})
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	each(func(i int) {
		for left.Add(-1) >= 0 {
			next[i]++
			send(writers[i], next[i])
		}
	})
	b.ReportMetric(float64(b.N)*rowsPerEntry/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkStoreRows is the ceiling: the same entries applied to one store,
// without a log, a network or a second copy.
func BenchmarkStoreRows(b *testing.B) {
	db, err := store.Open(context.Background(), filepath.Join(b.TempDir(), "state.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	index := uint64(0)
	apply := func(cmd *raftv1.Command) {
		index++
		if err := db.Update(index, func(tx *store.Tx) error { _, err := state.Apply(tx, index, cmd); return err }); err != nil {
			b.Fatal(err)
		}
	}
	boot := make([]byte, 16)
	apply(&raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: "h-0"}}})
	seq := uint64(0)
	for ; seq < keysPerHost/rowsPerEntry; seq++ {
		apply(rows("h-0", boot, seq+1))
	}
	b.ResetTimer()
	for range b.N {
		seq++
		b.StopTimer()
		cmd := rows("h-0", boot, seq)
		b.StartTimer()
		apply(cmd)
	}
	b.ReportMetric(float64(b.N)*rowsPerEntry/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkFollower prints how long after a proposal its answer is there, and how long
// until a follower has applied it, in a cluster that is idle otherwise: an order waits
// for that at the sensors of two nodes in three.
func BenchmarkFollower(b *testing.B) {
	for name, cmd := range map[string]*raftv1.Command{
		"for sensors": {Body: &raftv1.Command_RequestResponse{RequestResponse: &raftv1.RequestResponse{}}},
		"other":       {Body: &raftv1.Command_PutOperator{PutOperator: &raftv1.PutOperator{Name: "ada", Role: "admin"}}},
	} {
		b.Run(name, func(b *testing.B) {
			c := New(b, 3, nil)
			leader := c.Leader()
			var follower *Member
			for _, m := range c.Members {
				if m != leader {
					follower = m
				}
			}
			applied := make(chan uint64, 1024)
			defer follower.Node().Subscribe(func(index uint64, _ *raftv1.Command, _ *raftv1.Result) { applied <- index })()
			var answered, there time.Duration
			for b.Loop() {
				began := time.Now()
				res, err := leader.Node().Propose(b.Context(), cmd)
				if err != nil {
					b.Fatal(err)
				}
				answered += time.Since(began)
				for index := uint64(0); index < res.GetIndex(); index = <-applied {
				}
				there += time.Since(began)
			}
			b.ReportMetric(float64(answered.Microseconds())/float64(b.N)/1000, "ms/answered")
			b.ReportMetric(float64(there.Microseconds())/float64(b.N)/1000, "ms/at-follower")
		})
	}
}
