package store

import (
	"context"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Exports are the places of all sinks, by name.
func (db *DB) Exports(ctx context.Context) (out []*Export, err error) {
	err = db.each(ctx, func(s scanner) error {
		e := &Export{Place: &raftv1.ExportPlace{}}
		out = append(out, e)
		return s.Scan(&e.Sink, &e.Place.Findings, &e.Place.IncidentIndex, &e.Place.IncidentRow, &e.Place.Audit, &e.Place.Flows,
			&e.FindingsFrom, &e.FlowsFrom, &e.Lost, &e.LostAt, &e.MovedAt)
	}, "SELECT "+exportColumns+" FROM exports ORDER BY sink")
	return out, err
}

// holes is how many rows between two numbers are not there any more, but for those up to from.
func (db *DB) holes(ctx context.Context, table string, after, last, from int64) (lost int64, err error) {
	if after = max(after, from); last <= after {
		return 0, nil
	}
	err = db.each(ctx, func(s scanner) error { return s.Scan(&lost) }, "SELECT ?2 - ?1 - count(*) FROM "+table+" WHERE n > ?1 AND n <= ?2", after, last)
	return lost, err
}

// FindingsAfter are the findings stored after a place, oldest first, the place to ask with
// next, and how many that a sink which began at from had not had are gone.
func (db *DB) FindingsAfter(ctx context.Context, after, from int64, limit int) (out []*operatorv1.FindingRow, next, lost int64, err error) {
	next = after
	if err = db.each(ctx, func(s scanner) error {
		r, err := scanFinding(s, &next)
		out = append(out, r)
		return err
	}, "SELECT "+findingColumns+" WHERE f.n > ? ORDER BY f.n LIMIT ?", after, limit); err == nil {
		lost, err = db.holes(ctx, "findings", after, next, from)
	}
	return out, next, lost, err
}

// NumberedFlow is a flow note with what tells it from every other one.
type NumberedFlow struct {
	FlowRow
	N        int64
	HostName string
}

// FlowsAfter are the flow notes stored after a place, as FindingsAfter.
func (db *DB) FlowsAfter(ctx context.Context, after, from int64, limit int) (out []*NumberedFlow, next, lost int64, err error) {
	next = after
	if err = db.each(ctx, func(s scanner) error {
		r := &NumberedFlow{FlowRow: FlowRow{Note: &sensorv1.FlowNote{}}}
		err := s.Scan(&r.N, &r.Host, &r.HostName, &r.Time, &r.Index, protoColumn{r.Note})
		out, next = append(out, r), r.N
		return err
	}, "SELECT f.n, h.id, h.name, f.time, f.idx, f.body FROM flows f JOIN hosts h ON h.n = f.host WHERE f.n > ? ORDER BY f.n LIMIT ?", after, limit); err == nil {
		lost, err = db.holes(ctx, "flows", after, next, from)
	}
	return out, next, lost, err
}

// ChangedIncident is an incident as an entry left it.
type ChangedIncident struct {
	*raftv1.Incident
	// Index and At are that entry and its time; 0 before anything was exported.
	Index, At, N int64
}

// IncidentsChanged are the incidents that changed after a place (an entry's index and a
// row), in that order, each as it is now.
func (db *DB) IncidentsChanged(ctx context.Context, index, row int64, limit int) (out []ChangedIncident, err error) {
	err = db.each(ctx, func(s scanner) error {
		in := ChangedIncident{Incident: &raftv1.Incident{}}
		err := s.Scan(&in.N, &in.Index, &in.At, protoColumn{in.Incident})
		out = append(out, in)
		return err
	}, "SELECT n, changed, changed_at, body FROM incidents WHERE (changed, n) > (?, ?) ORDER BY changed, n LIMIT ?", index, row, limit)
	return out, err
}

// ExportEnd is the place behind everything.
func (db *DB) ExportEnd(ctx context.Context) (*raftv1.ExportPlace, error) {
	p := &raftv1.ExportPlace{}
	err := db.each(ctx, func(s scanner) error { return s.Scan(&p.Findings, &p.Audit, &p.Flows) },
		"SELECT coalesce((SELECT max(n) FROM findings), 0), coalesce((SELECT max(idx) FROM audit), 0), coalesce((SELECT max(n) FROM flows), 0)")
	if err != nil {
		return nil, err
	}
	p.IncidentIndex = -1
	return p, db.each(ctx, func(s scanner) error { return s.Scan(&p.IncidentIndex, &p.IncidentRow) },
		"SELECT changed, n FROM incidents ORDER BY changed DESC, n DESC LIMIT 1")
}

// ExportOldest is when the oldest of what lies behind a place was stored (Unix ns), 0
// when nothing does; kinds that do not count have the place of their end.
func (db *DB) ExportOldest(ctx context.Context, p *raftv1.ExportPlace) (oldest int64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&oldest) }, `SELECT coalesce(min(at), 0) FROM (
		SELECT * FROM (SELECT stored_at AS at FROM findings WHERE n > ?1 ORDER BY n LIMIT 1)
		UNION ALL SELECT * FROM (SELECT time FROM audit WHERE idx > ?2 ORDER BY idx LIMIT 1)
		UNION ALL SELECT * FROM (SELECT max(stored_at, time) FROM flows WHERE n > ?3 ORDER BY n LIMIT 1)
		UNION ALL SELECT * FROM (SELECT max(changed_at, 1) FROM incidents WHERE (changed, n) > (?4, ?5) ORDER BY changed, n LIMIT 1))`,
		p.GetFindings(), p.GetAudit(), p.GetFlows(), p.GetIncidentIndex(), p.GetIncidentRow())
	return oldest, err
}

// IncidentsWaiting is how many incidents changed after a place.
func (db *DB) IncidentsWaiting(ctx context.Context, p *raftv1.ExportPlace) (n int64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&n) }, "SELECT count(*) FROM incidents WHERE (changed, n) > (?, ?)", p.GetIncidentIndex(), p.GetIncidentRow())
	return n, err
}
