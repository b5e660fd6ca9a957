package store

import (
	"context"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// recentRows is how far back RecentMarks looks: so many operations, and entries of the audit.
const recentRows = 1000

// Marks are places in the order of storing, which all nodes have alike.
type Marks struct{ Operations, Incidents, Differences int64 }

// RecentMarks are the places before the first operation, incident and node that differed that were
// stored since a time (Unix ns), or the last ones. An incident carries the times of what
// was found, which may be old; when it opened is in the audit.
func (db *DB) RecentMarks(ctx context.Context, since int64) (m Marks, err error) {
	for _, table := range []struct {
		mark  *int64
		query string
	}{
		{&m.Operations, `SELECT coalesce((SELECT min(n) - 1 FROM (SELECT n, requested_at FROM operations ORDER BY n DESC LIMIT ?2) WHERE requested_at >= ?1),
			(SELECT max(n) FROM operations), 0)`},
		{&m.Incidents, `SELECT coalesce((SELECT min(i.n) - 1 FROM (SELECT subject, action, time FROM audit ORDER BY idx DESC LIMIT ?2) a
			JOIN incidents i ON i.id = a.subject WHERE a.action = 'incident-open' AND a.time >= ?1), (SELECT max(n) FROM incidents), 0)`},
		{&m.Differences, `SELECT coalesce((SELECT min(idx) - 1 FROM (SELECT idx, time FROM audit WHERE action = 'node-differed' ORDER BY idx DESC LIMIT ?2) WHERE time >= ?1),
			(SELECT max(idx) FROM audit), 0)`},
	} {
		if err := db.each(ctx, func(s scanner) error { return s.Scan(table.mark) }, table.query, since, recentRows); err != nil {
			return m, err
		}
	}
	return m, nil
}

// OrdersAfter are the operations stored after a place, oldest first, and the place to ask
// with next.
func (db *DB) OrdersAfter(ctx context.Context, after int64, now time.Time) (out []*operatorv1.Operation, next int64, err error) {
	next = after
	err = db.each(ctx, func(s scanner) error {
		o, err := scanOrder(now)(s, &next)
		out = append(out, o)
		return err
	}, "SELECT "+orderColumns+" FROM operations o WHERE o.n > ? ORDER BY o.n LIMIT ?", after, DefaultPage)
	return out, next, err
}

// IncidentsAfter are the incidents stored after a place, oldest first, and the place to
// ask with next.
func (db *DB) IncidentsAfter(ctx context.Context, after int64) (out []*raftv1.Incident, next int64, err error) {
	next = after
	err = db.each(ctx, func(s scanner) error {
		in, err := scanIncident(s, &next)
		out = append(out, in)
		return err
	}, "SELECT n, body FROM incidents WHERE n > ? ORDER BY n LIMIT ?", after, DefaultPage)
	return out, next, err
}
