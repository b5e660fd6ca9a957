package store

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// BenchmarkHistory measures what a row of each kind takes in the file, indexes and half-filled pages
// included, and how long an entry that removes keeps the writer, beside one that stores.
//
// VEDETTE_HISTORY says "hosts".
func BenchmarkHistory(b *testing.B) {
	hosts := 50
	if text := os.Getenv("VEDETTE_HISTORY"); text != "" {
		if _, err := fmt.Sscan(text, &hosts); err != nil {
			b.Fatal(err)
		}
	}
	h := fillHistory(b, hosts)
	h.remove()
	for _, f := range h.figures {
		b.Run(f.name, func(b *testing.B) {
			for b.Loop() { // it is measured already
			}
			b.ReportMetric(f.value, f.unit)
		})
	}
}

type historyBench struct {
	b       *testing.B
	db      *DB
	hosts   int
	index   uint64
	now     int64
	figures []historyFigure
}

type historyFigure struct {
	name  string
	value float64
	unit  string
}

func (h *historyBench) update(fn func(tx *Tx) error) time.Duration {
	h.b.Helper()
	h.index++
	began := time.Now()
	if err := h.db.Update(h.index, func(tx *Tx) error {
		tx.Time = h.now
		return fn(tx)
	}); err != nil {
		h.b.Fatal(err)
	}
	return time.Since(began)
}

// each calls fn for every host, some of them in an entry.
func (h *historyBench) each(fn func(tx *Tx, host int64) error) {
	const perEntry = 50
	for first := 1; first <= h.hosts; first += perEntry {
		h.update(func(tx *Tx) error {
			for host := first; host < min(first+perEntry, h.hosts+1); host++ {
				if err := fn(tx, int64(host)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// size notes how many bytes each of so many rows took that fill stores.
func (h *historyBench) size(name string, rows int, fill func()) {
	h.b.Helper()
	before, _, err := h.db.Size(h.b.Context())
	if err != nil {
		h.b.Fatal(err)
	}
	fill()
	after, _, err := h.db.Size(h.b.Context())
	if err != nil {
		h.b.Fatal(err)
	}
	h.figures = append(h.figures, historyFigure{"bytes_" + name, float64(after-before) / float64(rows), "bytes"})
}

const (
	benchShown   = 500 // behaviours of a host; every tenth is on no other
	benchMinutes = 60
	benchHours   = 48
	benchOld     = 20 // findings and flows of a host
)

func fillHistory(b *testing.B, hosts int) *historyBench {
	db, err := Open(b.Context(), filepath.Join(b.TempDir(), "state.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	h := &historyBench{b: b, db: db, hosts: hosts, now: 20_000 * day}
	facts := &sensorv1.HostFacts{Name: "a-host-of-a-usual-name", Labels: map[string]string{"role": "web", "site": "one"}}
	h.size("host", hosts, func() {
		h.each(func(tx *Tx, host int64) error { return tx.AddHost(fmt.Sprintf("h-%012d", host), facts, nil, h.now) })
	})
	key := func(host int64, i int) []byte {
		if i%10 != 0 {
			host = 0
		}
		k := binary.BigEndian.AppendUint64(nil, (uint64(host)<<20+uint64(i)+1)*0x9e3779b97f4a7c15) //nolint:gosec // a hash
		return binary.BigEndian.AppendUint64(k, uint64(host))                                      //nolint:gosec // positive
	}
	h.size("sighting_with_a_tenth_of_a_description", hosts*benchShown, func() {
		for part := range 10 {
			h.each(func(tx *Tx, host int64) error {
				var found []*sensorv1.Behaviour
				for i := part * benchShown / 10; i < (part+1)*benchShown/10; i++ {
					found = append(found, &sensorv1.Behaviour{Key: key(host, i), Kind: 1, Subject: []byte("/usr/lib/systemd/systemd-executor"), Object: []byte("/usr/bin/some-program"), FirstSeen: h.now})
				}
				return tx.Summarise(host, found, nil)
			})
		}
	})
	without := h.summary()
	h.update((*Tx).BeginHistory)
	with := h.summary()
	h.figures = append(h.figures, historyFigure{"summary_stored", without, "µs"}, historyFigure{"summary_stored_and_counted", with, "µs"})
	counted := Tally{Summaries: 2, Events: 5000, Fresh: 1, Flows: 1}
	rows := hosts * (benchMinutes + benchHours + 1 + benchHours + 3)
	h.size("count", rows, func() {
		for i := range benchMinutes + benchHours {
			if h.now += minute; i >= benchMinutes {
				h.now += hour - minute
			}
			h.each(func(tx *Tx, host int64) error { tx.tally(host, counted); return nil })
		}
	})
	h.size("finding", hosts*benchOld, func() {
		for i := range benchOld {
			h.each(func(tx *Tx, host int64) error {
				name := fmt.Sprintf("01JDQ%08d%013d", i, host)
				_, err := tx.AddFinding(host, h.index, h.now, &sensorv1.Finding{Id: name, Time: h.now, Title: "Something happened", Reason: string(make([]byte, 1000)), Storyline: name})
				return err
			})
		}
	})
	h.size("flow", hosts*benchOld, func() {
		for i := range benchOld {
			h.each(func(tx *Tx, host int64) error {
				return tx.AddFlow(host, h.index, h.now, &sensorv1.FlowNote{Storyline: fmt.Sprintf("01JDQ%08d%013d", i, host),
					Flow:    &sensorv1.Flow{Protocol: 6, Local: []byte{10, 0, 0, 1}, Remote: binary.BigEndian.AppendUint32(nil, uint32(host)), LocalPort: 40_000, RemotePort: uint32(i)}, //nolint:gosec // small
					Process: &sensorv1.Process{}})
			})
		}
	})
	h.size("loss", hosts*4, func() {
		h.each(func(tx *Tx, host int64) error {
			for i := range 4 {
				if err := tx.AddLoss(host, &sensorv1.Loss{Where: "ring", Cause: fmt.Sprint("cause-", i), Count: 7}); err != nil {
					return err
				}
			}
			return nil
		})
	})
	h.size("audit_entry", hosts*4, func() {
		h.each(func(tx *Tx, host int64) error {
			for range 4 {
				if err := tx.Audit(&operatorv1.AuditEntry{Time: h.now, Actor: "operator:somebody", Action: "isolate", Subject: fmt.Sprintf("h-%012d", host), Detail: "op-0123456789ab: a reason of some words that a person gave"}); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return h
}

// summary is how long a summary takes in an entry of 20, of several rounds the best.
func (h *historyBench) summary() float64 {
	best := time.Hour
	for range 30 {
		best = min(best, h.ingest())
	}
	return float64(best.Nanoseconds()) / 1000 / float64(min(h.hosts, benchBatches))
}

// benchBatches is how many hosts tell something in an entry.
const benchBatches = 20

// ingest stores an entry as they come: each batch counts some behaviours.
func (h *historyBench) ingest() time.Duration {
	h.now += int64(time.Second)
	return h.update(func(tx *Tx) error {
		for host := int64(1); host <= int64(min(h.hosts, benchBatches)); host++ {
			deltas := make([]*sensorv1.BehaviourDelta, 25)
			for i := range deltas {
				deltas[i] = &sensorv1.BehaviourDelta{Key: binary.BigEndian.AppendUint64(nil, uint64(i)), Count: 1, LastSeen: h.now} //nolint:gosec // small
			}
			if err := tx.Summarise(host, nil, deltas); err != nil {
				return err
			}
		}
		return nil
	})
}

// remove takes the time of entries that remove, each followed by one that stores: what an entry that
// comes meanwhile waits at most, and how long it takes itself.
func (h *historyBench) remove() {
	const rows = 128 // as the engine has it
	before := h.now
	h.now += 500 * day
	var quiet, beside, removing, dropping, forgetting []time.Duration
	for range 200 {
		quiet = append(quiet, h.ingest())
	}
	cuts := &raftv1.Retain{Rows: rows, FindingsBefore: h.now, FlowsBefore: h.now, IncidentsBefore: h.now, OperationsBefore: h.now, KeysBefore: h.now, LossesBefore: h.now,
		MinutesBefore: before + day, HoursBefore: before + day, DaysBefore: before + day}
	removed := int64(0)
	for gone := int64(1); gone > 0; {
		took := h.update(func(tx *Tx) (err error) {
			gone, err = tx.Retain(cuts)
			return err
		})
		if removed += gone; gone == 1 {
			dropping = append(dropping, took)
		} else {
			removing = append(removing, took)
		}
		beside = append(beside, h.ingest())
	}
	for host := int64(1); host <= int64(h.hosts); host++ {
		forgetting = append(forgetting, h.update(func(tx *Tx) error {
			_, err := tx.Forget(host, h.now-day, rows)
			return err
		}))
		beside = append(beside, h.ingest())
	}
	for name, all := range map[string][]time.Duration{"stores": quiet, "stores_between": beside, "removes_rows": removing, "drops_a_partition": dropping, "forgets": forgetting} {
		slices.Sort(all)
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		h.figures = append(h.figures, historyFigure{"entry_that_" + name + "_p99", ms(all[(len(all)*99-1)/100]), "ms"}, historyFigure{"entry_that_" + name + "_worst", ms(all[len(all)-1]), "ms"})
	}
	used, free, err := h.db.Size(h.b.Context())
	if err != nil {
		h.b.Fatal(err)
	}
	h.b.Logf("%d rows and partitions removed; %d MiB in use, %d MiB free to be used again", removed, used>>20, free>>20)
}
