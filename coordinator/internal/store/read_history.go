package store

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Rollup is what a host told in a minute, an hour or a day.
type Rollup struct {
	From int64 // Unix ns of its begin
	Tally
}

// HostHistory is at most so many rows of History, of a host by its id.
func (db *DB) HostHistory(ctx context.Context, id, grain string, since, until int64, limit int) ([]Rollup, error) {
	host := int64(-1)
	if err := db.each(ctx, func(s scanner) error { return s.Scan(&host) }, "SELECT n FROM hosts WHERE id = ?", id); err != nil {
		return nil, err
	}
	if host < 0 {
		return nil, fmt.Errorf("host %q: %w", id, ErrNotFound)
	}
	rows, err := db.history(ctx, host, grain, since, until, limit)
	return rows[:min(len(rows), limit)], err
}

// History is what a host told since a time and before another (Unix ns), oldest first; grain is minutes, hours or days.
func (db *DB) History(ctx context.Context, host int64, name string, since, until int64) ([]Rollup, error) {
	return db.history(ctx, host, name, since, until, math.MaxInt)
}

// history looks into no further partition when it has so many rows.
func (db *DB) history(ctx context.Context, host int64, name string, since, until int64, enough int) (out []Rollup, err error) {
	at := slices.IndexFunc(grains, func(g *grain) bool { return g.name == name })
	if at < 0 {
		return nil, fmt.Errorf("%q is no grain of history: use minutes, hours or days", name)
	}
	g := grains[at]
	slots := make([]int64, g.per)
	for i := range slots {
		slots[i] = int64(i)
	}
	each, err := json.Marshal(slots)
	if err != nil {
		return nil, err
	}
	tables, err := db.partitionsOf(ctx, g)
	if err != nil {
		return nil, err
	}
	from, _ := g.place(since)
	to, _ := g.place(until)
	for _, table := range tables {
		if table < from || table > to || len(out) >= enough {
			continue
		}
		partition, err := g.partition(table)
		if err != nil {
			return nil, err
		}
		if err := db.each(ctx, func(s scanner) error {
			var r Rollup
			err := s.Scan(&r.From, &r.Summaries, &r.Events, &r.Fresh, &r.Lost, &r.Findings, &r.Flows)
			r.From = partition*g.span() + r.From*g.unit
			if r.From+g.unit > since && r.From < until {
				out = append(out, r)
			}
			return err
		}, "SELECT r.slot, summaries, events, fresh, lost, findings, flows FROM json_each(?) j CROSS JOIN "+table+" r ON r.slot = j.value AND r.host = ? ORDER BY j.key", string(each), host); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// partition is the number in a partition's name.
func (g *grain) partition(table string) (n int64, err error) {
	if _, err := fmt.Sscanf(strings.TrimPrefix(table, "rollup_"+g.name+"_"), "%d", &n); err != nil {
		return 0, fmt.Errorf("reading the name of partition %s: %w", table, err)
	}
	return n, nil
}

func (db *DB) partitionsOf(ctx context.Context, g *grain) (tables []string, err error) {
	err = db.each(ctx, func(s scanner) error {
		var table string
		err := s.Scan(&table)
		tables = append(tables, table)
		return err
	}, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ? ORDER BY name", "rollup_"+g.name+"_*")
	return tables, err
}

// Due says whether Retain would remove anything for its age.
func (db *DB) Due(ctx context.Context, c *raftv1.Retain) (due bool, err error) {
	began, err := db.HistoryBegan(ctx)
	if err != nil {
		return false, err
	}
	type question struct {
		q    string
		args []any
	}
	all := []question{
		{freeFindings, []any{c.GetFindingsBefore(), 1}}, {freeFlows, []any{began, c.GetFlowsBefore(), 1}},
		{freeIncidents, []any{began, c.GetIncidentsBefore(), 1}}, {freeRows, []any{c.GetOperationsBefore(), 1}},
		{freeOperations, []any{c.GetOperationsBefore(), 1}}, {freeKeys, []any{began, c.GetKeysBefore(), 1}}, {freeLosses, []any{c.GetLossesBefore(), 1}},
	}
	for g, before := range map[*grain]int64{minutes: c.GetMinutesBefore(), hours: c.GetHoursBefore(), days: c.GetDaysBefore()} {
		all = append(all, question{oldestPartition, []any{"rollup_" + g.name + "_*", g.table(max(before, 0) / g.span())}})
	}
	for _, a := range all {
		if err := db.each(ctx, func(s scanner) error { return s.Scan(&due) }, "SELECT EXISTS ("+a.q+")", a.args...); err != nil || due {
			return due, err
		}
	}
	return false, nil
}

// HistoryBegan is when the cluster's history began (Unix ns), 0 before it has.
func (db *DB) HistoryBegan(ctx context.Context) (began int64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&began) }, "SELECT began FROM history")
	return began, err
}

// Size is how many bytes of the state's file are in use, and how many are free to be used again.
func (db *DB) Size(ctx context.Context) (used, free int64, err error) {
	var pages, unused, bytes int64
	for q, to := range map[string]*int64{"page_count": &pages, "freelist_count": &unused, "page_size": &bytes} {
		if err := db.each(ctx, func(s scanner) error { return s.Scan(to) }, "PRAGMA "+q); err != nil {
			return 0, 0, err
		}
	}
	return (pages - min(unused, pages)) * bytes, unused * bytes, nil
}

// staleShelves bounds one look for what was not shown for long.
const staleShelves = 2_000

// Stale looks at a part of the sightings, from row on, for hosts with some that were last seen before
// a time; next is where to go on, 0 at the end.
func (db *DB) Stale(ctx context.Context, before, row int64) (ids []string, next int64, err error) {
	var stale []int64
	looked := 0
	if err := db.each(ctx, func(s scanner) error {
		var n int64
		var body []byte
		if err := s.Scan(&n, &body); err != nil {
			return err
		}
		looked++
		next = n + 1
		if host := n >> shelfBits; len(stale) == 0 || stale[len(stale)-1] != host {
			old, err := holdsOld(body, before)
			if err != nil {
				return err
			}
			if old {
				stale = append(stale, host)
			}
		}
		return nil
	}, "SELECT n, body FROM sightings WHERE n >= ? ORDER BY n LIMIT ?", row, staleShelves); err != nil {
		return nil, 0, err
	}
	if looked < staleShelves {
		next = 0
	}
	for _, host := range stale {
		if err := db.each(ctx, func(s scanner) error {
			var id string
			err := s.Scan(&id)
			ids = append(ids, id)
			return err
		}, "SELECT id FROM hosts WHERE n = ?", host); err != nil {
			return nil, 0, err
		}
	}
	return ids, next, nil
}

func holdsOld(body []byte, before int64) (bool, error) {
	for len(body) > 0 {
		s, rest, err := next(body)
		if err != nil {
			return false, err
		}
		if s.last() < before {
			return true, nil
		}
		body = rest
	}
	return false, nil
}

// Grains are the grains of history, finest first, and how long a row of each is about, in ns.
func Grains() (names []string, units []int64) {
	for _, g := range grains {
		names, units = append(names, g.name), append(units, g.unit)
	}
	return names, units
}

// Reach is when the oldest partition of each grain begins (Unix ns), finest first; 0: there is none.
func (db *DB) Reach(ctx context.Context) (oldest []int64, err error) {
	for _, g := range grains {
		tables, err := db.partitionsOf(ctx, g)
		if err != nil {
			return nil, err
		}
		begin := int64(0)
		if len(tables) > 0 {
			partition, err := g.partition(tables[0])
			if err != nil {
				return nil, err
			}
			begin = partition * g.span()
		}
		oldest = append(oldest, begin)
	}
	return oldest, nil
}
