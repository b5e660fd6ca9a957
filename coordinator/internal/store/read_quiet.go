package store

import "context"

// Quiet says who is not heard from, or not wholly.
type Quiet struct {
	Silent uint64   // hosts without a session, or without a batch for too long
	Names  []string // of the first few of them
	// Stopped are hosts whose sensor said goodbye.
	Stopped uint64
	// Blind are hosts that are online and whose sensor does not see; BlindNames the
	// first few of them, each with the reason.
	Blind      uint64
	BlindNames []string
	Lossy      uint64 // hosts that have lost something lately
	Lost       uint64 // how much those have lost in all, of the causes that were at work lately
	// Cut is how much went because the state was too large, and CutAt when it last did (Unix ns).
	Cut, CutAt int64
}

// quietNames is how many silent hosts are named: a sentence must stay one.
const quietNames = 3

// Quiet counts hosts that were seen once and whose last contact is before the
// given time (Unix ns) or whose session has ended, and those that said since
// lossySince that they had lost something.
func (db *DB) Quiet(ctx context.Context, before, lossySince int64) (q Quiet, err error) {
	const (
		silent  = "last_seen > 0 AND (connected = 0 OR last_seen < ?1) AND ended NOT IN ('stopped', 'removed')"
		blind   = "connected = 1 AND last_seen >= ?1 AND blind <> ''"
		stopped = "connected = 0 AND ended = 'stopped'"
		named   = "CASE name WHEN '' THEN id ELSE name END"
	)
	// Hosts are rows of a thousand bytes and more: all is counted in one walk over them.
	if err := db.each(ctx, func(s scanner) error { return s.Scan(&q.Silent, &q.Stopped, &q.Blind) },
		"SELECT count(*) FILTER (WHERE "+silent+"), count(*) FILTER (WHERE "+stopped+"), count(*) FILTER (WHERE "+blind+") FROM hosts", before); err != nil {
		return q, err
	}
	if q.Silent > 0 {
		if err := db.each(ctx, func(s scanner) error {
			var name string
			err := s.Scan(&name)
			q.Names = append(q.Names, name)
			return err
		}, "SELECT "+named+" FROM hosts WHERE "+silent+" ORDER BY last_seen, n LIMIT ?2", before, quietNames); err != nil {
			return q, err
		}
	}
	if q.Blind > 0 {
		if err := db.each(ctx, func(s scanner) error {
			var name, why string
			err := s.Scan(&name, &why)
			q.BlindNames = append(q.BlindNames, name+": "+why)
			return err
		}, "SELECT "+named+", blind FROM hosts WHERE "+blind+" ORDER BY n LIMIT ?2", before, quietNames); err != nil {
			return q, err
		}
	}
	if err := db.each(ctx, func(s scanner) error { return s.Scan(&q.Cut, &q.CutAt) }, "SELECT cut, cut_at FROM history"); err != nil {
		return q, err
	}
	// total() is a REAL and cannot overflow, as sum() of hostile counts could.
	err = db.each(ctx, func(s scanner) error {
		var lost float64
		err := s.Scan(&q.Lossy, &lost)
		q.Lost = uint64(lost)
		return err
	}, "SELECT count(DISTINCT host), total(count) FROM losses WHERE count > 0 AND latest >= ?", lossySince)
	return q, err
}
