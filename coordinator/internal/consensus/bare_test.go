package consensus

import (
	"crypto/rand"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
)

// BenchmarkBareLog is a ceiling: raft-wal alone. It appends one entry after another, each
// with an fsync, as a leader with one entry under way does. "three" are three at
// once on the same disk; the figure is what each of them does.
//
// VEDETTE_LOG says "bytes-of-an-entry seconds".
func BenchmarkBareLog(b *testing.B) {
	size, seconds := 64<<10, 0.1
	if text := os.Getenv("VEDETTE_LOG"); text != "" {
		if _, err := fmt.Sscan(text, &size, &seconds); err != nil {
			b.Fatal(err)
		}
	}
	data := make([]byte, size)
	_, _ = rand.Read(data)
	span := time.Duration(seconds * float64(time.Second))
	for _, of := range []struct {
		name string
		logs int
	}{{"alone", 1}, {"three", 3}} {
		b.Run(of.name, func(b *testing.B) {
			for b.Loop() {
				var appended atomic.Int64
				var writers sync.WaitGroup
				dirs := make([]string, of.logs)
				for i := range dirs {
					dirs[i] = b.TempDir()
				}
				began := time.Now()
				for _, dir := range dirs {
					writers.Go(func() {
						n, err := appendFor(dir, data, span)
						if err != nil {
							b.Error(err)
						}
						appended.Add(n)
					})
				}
				writers.Wait()
				b.ReportMetric(float64(appended.Load())/float64(of.logs)/time.Since(began).Seconds(), "entries/s")
			}
		})
	}
}

func appendFor(dir string, data []byte, span time.Duration) (n int64, err error) {
	log, err := openLog(dir, hclog.NewNullLogger(), meter.New(Kinds()...))
	if err != nil {
		return 0, err
	}
	defer func() { _ = log.Close() }()
	for began := time.Now(); time.Since(began) < span; n++ {
		if err := log.StoreLogs([]*raft.Log{{Index: uint64(n + 1), Term: 1, Data: data}}); err != nil {
			return n, err
		}
	}
	return n, nil
}
