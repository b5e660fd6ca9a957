package store

import (
	"context"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Figures are counts of the whole state by what somebody watches.
type Figures struct {
	// Hosts by state, as lists show it; Containments are hosts' parts of orders by
	// state; Operations are orders as a whole, by state.
	Hosts, Containments, Operations map[string]uint64
	IncidentsOpen, Isolated, Audit  uint64
}

// HostStates, ContainmentStates and OperationStates are all that Figures has.
var (
	HostStates        = []string{"online", "blind", "silent", "stopped", "never-seen"}
	ContainmentStates = []string{"pending", "applied", "released", "refused", "failed", "expired", "previewed"}
	OperationStates   = []string{"ordered", OrderWaiting, OrderWindow, "vetoed"}
)

// Figures counts. Hosts whose last batch came before silentBefore (Unix ns) are silent.
// It reads the tables of hosts and of containments as a whole: ask seldom.
func (db *DB) Figures(ctx context.Context, silentBefore int64) (f Figures, err error) {
	f = Figures{Hosts: make(map[string]uint64), Containments: make(map[string]uint64), Operations: make(map[string]uint64)}
	by := func(to map[string]uint64) func(scanner) error {
		return func(s scanner) error {
			var state string
			var n uint64
			err := s.Scan(&state, &n)
			to[state] = n
			return err
		}
	}
	if err := db.each(ctx, by(f.Hosts), `SELECT CASE
		WHEN connected = 1 AND last_seen < ? THEN 'silent' WHEN connected = 1 AND blind <> '' THEN 'blind' WHEN connected = 1 THEN 'online'
		WHEN last_seen = 0 THEN 'never-seen' WHEN ended = 'stopped' THEN 'stopped' ELSE 'silent' END AS state, count(*) FROM hosts WHERE removed = 0 GROUP BY state`, silentBefore); err != nil {
		return f, err
	}
	if err := db.each(ctx, func(s scanner) error {
		var state sensorv1.IsolationState
		var n uint64
		err := s.Scan(&state, &n)
		f.Containments[stateWords[state]] = n
		return err
	}, "SELECT state, count(*) FROM isolations GROUP BY state"); err != nil {
		return f, err
	}
	if err := db.each(ctx, by(f.Operations), "SELECT state, count(*) FROM operations GROUP BY state"); err != nil {
		return f, err
	}
	return f, db.each(ctx, func(s scanner) error { return s.Scan(&f.IncidentsOpen, &f.Isolated, &f.Audit) },
		`SELECT (SELECT count(*) FROM incidents WHERE status = 'open'), (SELECT count(*) FROM hosts WHERE isolation = 'applied' AND removed = 0), (SELECT coalesce(max(idx), 0) FROM audit)`)
}
