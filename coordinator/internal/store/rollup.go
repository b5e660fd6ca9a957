package store

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// History counts what a host told by the minute, the hour and the day, all three when an entry is
// applied: there is nothing to be put together later, so that none of it can be missed
// or done twice, and a finer grain may go whenever it is too old.
//
// A grain's rows stand in partitions, tables of their own that are dropped whole: to drop
// one frees its pages without looking at its rows one by one.
type grain struct {
	name string
	unit int64 // ns that a row is about
	per  int64 // units of a partition
}

const (
	minute = int64(60_000_000_000)
	hour   = 60 * minute
	day    = 24 * hour
)

var (
	minutes = &grain{"minutes", minute, 30}
	hours   = &grain{"hours", hour, 24}
	days    = &grain{"days", day, 30}
	grains  = []*grain{minutes, hours, days}
)

// span is how long a partition lasts, in ns.
func (g *grain) span() int64 { return g.unit * g.per }

// place is where a time is counted.
func (g *grain) place(at int64) (table string, slot int64) {
	units := max(at, 0) / g.unit
	return g.table(units / g.per), units % g.per
}

// table names a partition; names have the order of their times.
func (g *grain) table(partition int64) string {
	return fmt.Sprintf("rollup_%s_%08d", g.name, partition)
}

// Tally is what a host told in some time.
type Tally struct {
	Summaries, Events, Fresh, Lost, Findings, Flows int64
}

func (t *Tally) add(u Tally) {
	t.Summaries += u.Summaries
	t.Events = min(t.Events+u.Events, maxCount)
	t.Fresh += u.Fresh
	t.Lost = min(t.Lost+u.Lost, maxCount)
	t.Findings += u.Findings
	t.Flows += u.Flows
}

// tally counts; it is written when the entry ends, a row for each host and grain.
func (tx *Tx) tally(host int64, t Tally) {
	if tx.tallies == nil {
		tx.tallies = make(map[int64]*Tally)
	}
	if have := tx.tallies[host]; have != nil {
		have.add(t)
		return
	}
	tx.tallies[host] = &t
}

func eventsOf(deltas []*sensorv1.BehaviourDelta) (sum int64) {
	for _, d := range deltas {
		sum = min(sum+clamp(d.GetCount()), maxCount)
	}
	return sum
}

// HistoryBegan is when the cluster's history began, 0 before it has.
func (tx *Tx) HistoryBegan() (int64, error) {
	h := &tx.db.hot
	if h.began == nil {
		var began int64
		if _, err := tx.one("SELECT began FROM history", func(v []val) { began = asInt(v[0]) }); err != nil {
			return 0, err
		}
		h.began = &began
	}
	return *h.began, nil
}

// BeginHistory begins it, once.
func (tx *Tx) BeginHistory() error {
	tx.db.hot.began = nil
	_, err := tx.exec("UPDATE history SET began = ? WHERE began = 0", max(tx.Time, 1))
	return err
}

// historyTime is the command's time for a column of history; 0 before it began.
func (tx *Tx) historyTime() (int64, error) {
	began, err := tx.HistoryBegan()
	if err != nil || began == 0 {
		return 0, err
	}
	return tx.Time, nil
}

// writeTallies writes what the entry counted.
func (tx *Tx) writeTallies() error {
	if len(tx.tallies) == 0 {
		return nil
	}
	began, err := tx.HistoryBegan()
	if err != nil || began == 0 {
		return err
	}
	hosts := slices.Sorted(maps.Keys(tx.tallies))
	for _, g := range grains {
		table, slot := g.place(tx.Time)
		to, err := tx.partition(table)
		if err != nil {
			return err
		}
		values := make([]val, 0, len(hosts)*to.width)
		for _, host := range hosts {
			t := tx.tallies[host]
			values = append(values, slot, host, t.Summaries, t.Events, t.Fresh, t.Lost, t.Findings, t.Flows)
		}
		if err := tx.many(to, values); err != nil {
			return err
		}
	}
	return nil
}

// partition makes a partition unless there is one, and answers how to add to it. The statement is
// kept as long as the partition; that it exists, only as long as nothing fails.
func (tx *Tx) partition(table string) (*bulk, error) {
	db := tx.db
	b := db.partitions[table]
	if b == nil {
		b = &bulk{"INSERT INTO " + table + " (slot, host, summaries, events, fresh, lost, findings, flows) VALUES ", "(?, ?, ?, ?, ?, ?, ?, ?)",
			` ON CONFLICT (slot, host) DO UPDATE SET summaries = summaries + excluded.summaries,
				events = min(events + excluded.events, 1152921504606846976), fresh = fresh + excluded.fresh,
				lost = min(lost + excluded.lost, 1152921504606846976), findings = findings + excluded.findings, flows = flows + excluded.flows`, 8}
		db.partitions[table] = b
	}
	if db.hot.partitions[table] {
		return b, nil
	}
	_, err := db.writer.Exec("CREATE TABLE IF NOT EXISTS "+table+` (slot INTEGER NOT NULL, host INTEGER NOT NULL, summaries INTEGER NOT NULL,
		events INTEGER NOT NULL, fresh INTEGER NOT NULL, lost INTEGER NOT NULL, findings INTEGER NOT NULL, flows INTEGER NOT NULL,
		PRIMARY KEY (slot, host)) STRICT, WITHOUT ROWID`, nil)
	if err != nil {
		return nil, fmt.Errorf("making partition %s: %w", table, err)
	}
	db.hot.partitions[table] = true
	return b, nil
}

// dropPartition drops the oldest partition of a grain that ended before a time; false when there is none.
func (tx *Tx) dropPartition(g *grain, before int64) (dropped bool, rows int64, err error) {
	var table string
	if _, err := tx.one(oldestPartition, func(v []val) { table = asText(v[0]) }, "rollup_"+g.name+"_*", g.table(max(before, 0)/g.span())); err != nil || table == "" {
		return false, 0, err
	}
	db := tx.db
	if b := db.partitions[table]; b != nil {
		for _, chunk := range chunks {
			key := bulkKey{b, chunk}
			if s, ok := db.bulks[key]; ok {
				delete(db.bulks, key)
				if err := s.Close(); err != nil {
					return false, 0, err
				}
			}
		}
		delete(db.partitions, table)
	}
	delete(db.hot.partitions, table)
	if _, err := db.writer.Exec("DROP TABLE "+table, nil); err != nil {
		return false, 0, fmt.Errorf("dropping partition %s: %w", table, err)
	}
	return true, 1, nil
}

// oldestPartition's second parameter is the partition in which the time is, which stays.
const oldestPartition = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ? AND name < ? ORDER BY name LIMIT 1"

// never is later than all times.
const never = math.MaxInt64
