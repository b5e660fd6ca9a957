package store

import (
	"bytes"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// BenchmarkBareRows is a ceiling: SQLite alone, without anything of ours. It counts
// behaviours of hosts in a table with a narrow row for each, by one prepared UPDATE a row, the
// rows of a host in the order of their keys, with one transaction for as many rows as an
// entry of the log holds. "three" are three at once, each with a file of its own, as the
// nodes of a cluster on one machine are; the figure is what each of them does.
//
// VEDETTE_ROWS says "hosts behaviours rows-of-a-batch batches-of-an-entry seconds".
func BenchmarkBareRows(b *testing.B) {
	hosts, keys, perBatch, batches, seconds := 50, 500, 100, 4, 0.1
	if text := os.Getenv("VEDETTE_ROWS"); text != "" {
		if _, err := fmt.Sscan(text, &hosts, &keys, &perBatch, &batches, &seconds); err != nil {
			b.Fatal(err)
		}
	}
	span := time.Duration(seconds * float64(time.Second))
	for _, size := range []struct {
		name  string
		files int
	}{{"alone", 1}, {"three", 3}} {
		b.Run(size.name, func(b *testing.B) {
			tables := make([]*bareTable, size.files)
			for i := range tables {
				tables[i] = newBareTable(b, hosts, keys)
			}
			for b.Loop() {
				var rows atomic.Int64
				var writers sync.WaitGroup
				began := time.Now()
				for i, t := range tables {
					writers.Go(func() {
						random := rand.New(rand.NewPCG(uint64(i), 1))
						for time.Since(began) < span {
							if err := t.entry(random, batches, perBatch); err != nil {
								b.Error(err)
								return
							}
							rows.Add(int64(batches * perBatch))
						}
					})
				}
				writers.Wait()
				b.ReportMetric(float64(rows.Load())/float64(size.files)/time.Since(began).Seconds(), "rows/s")
			}
		})
	}
}

type bareTable struct {
	c      *sqlite3.SQLiteConn
	keys   [][][]byte // of each host, ascending
	update *sqlite3.SQLiteStmt
}

func newBareTable(b *testing.B, hosts, keys int) *bareTable {
	b.Helper()
	c, err := openConn(filepath.Join(b.TempDir(), "bare.db"), writerOptions)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	t := &bareTable{c: c}
	for _, q := range append(slices.Clone(writerPragmas), `CREATE TABLE sightings (host INTEGER NOT NULL, key BLOB NOT NULL, count INTEGER NOT NULL, first_seen INTEGER NOT NULL,
		last_seen INTEGER NOT NULL, known INTEGER NOT NULL, PRIMARY KEY (host, key)) STRICT, WITHOUT ROWID`, "BEGIN") {
		if _, err := c.Exec(q, nil); err != nil {
			b.Fatal(err)
		}
	}
	insert := t.prepare(b, "INSERT INTO sightings VALUES (?, ?, 1, ?3, ?3, 1)")
	for host := range hosts {
		own := make([][]byte, keys)
		for n := range own {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(host*keys+n)))
			own[n] = sum[:16]
		}
		// In the order in which they were drawn, as behaviours come in life: pages are
		// split, and as full as they are then.
		for _, key := range own {
			if _, err := insert.Exec([]driver.Value{int64(host), key, time.Now().UnixNano()}); err != nil {
				b.Fatal(err)
			}
		}
		slices.SortFunc(own, bytes.Compare)
		t.keys = append(t.keys, own)
	}
	if _, err := c.Exec("COMMIT", nil); err != nil {
		b.Fatal(err)
	}
	t.update = t.prepare(b, "UPDATE sightings SET count = count + ?, last_seen = max(last_seen, ?), known = ? WHERE host = +? AND key = +?")
	return t
}

func (t *bareTable) prepare(b *testing.B, q string) *sqlite3.SQLiteStmt {
	b.Helper()
	s, err := t.c.Prepare(q)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s.(*sqlite3.SQLiteStmt)
}

func (t *bareTable) entry(random *rand.Rand, batches, perBatch int) error {
	if _, err := t.c.Exec("BEGIN IMMEDIATE", nil); err != nil {
		return err
	}
	now := time.Now().UnixNano()
	for range batches {
		host := random.IntN(len(t.keys))
		own := t.keys[host]
		// Every so manieth, from a place at random on.
		step := max(1, len(own)/perBatch)
		for n := random.IntN(step); n < len(own); n += step {
			if _, err := t.update.Exec([]driver.Value{int64(1), now, true, int64(host), own[n]}); err != nil {
				return err
			}
		}
	}
	_, err := t.c.Exec("COMMIT", nil)
	return err
}
