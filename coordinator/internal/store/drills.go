package store

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// MaxDrills bounds the results of drills that are kept: those done longest ago go.
const MaxDrills = 20_000

// Verdicts of drills that are counted over time.
const (
	drillProven = "proven"
	drillMissed = "missed"
)

// PutDrill keeps a host's last result of a drill. One that is older than what is kept changes nothing.
func (tx *Tx) PutDrill(host int64, r *raftv1.DrillResult) error {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding a drill's result: %w", err)
	}
	var missed, proven int64
	switch r.GetVerdict() {
	case drillMissed:
		missed = r.GetTime()
	case drillProven:
		proven = r.GetTime()
	}
	_, err = tx.exec(`INSERT INTO drills (host, drill, verdict, time, missed_at, proven_at, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
		ON CONFLICT (host, drill) DO UPDATE SET verdict = ?3, time = ?4, missed_at = CASE missed_at WHEN 0 THEN ?5 ELSE missed_at END,
		proven_at = CASE ?6 WHEN 0 THEN proven_at ELSE ?6 END, body = ?7 WHERE time <= ?4`,
		host, r.GetDrill(), r.GetVerdict(), r.GetTime(), missed, proven, blob(body))
	return err
}

// TrimDrills holds them to their bound.
func (tx *Tx) TrimDrills() error {
	_, err := tx.exec("DELETE FROM drills WHERE n IN (SELECT n FROM drills ORDER BY time DESC, n DESC LIMIT -1 OFFSET ?)", int64(MaxDrills))
	return err
}

// Drills lists results, of one host (by id or name) or of all.
func (db *DB) Drills(ctx context.Context, host string, p Page) ([]*raftv1.DrillResult, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	q := "SELECT d.n, h.id, h.name, d.missed_at, d.proven_at, d.body FROM drills d JOIN hosts h ON h.n = d.host AND h.removed = 0 WHERE d.n < ?"
	args := []any{before}
	if host != "" {
		where, arg, err := db.ofHost(ctx, "d.host", host)
		if err != nil {
			return nil, "", err
		}
		q, args = q+where, append(args, arg)
	}
	return paged(ctx, db, p, func(s scanner, n *int64) (*raftv1.DrillResult, error) {
		r := &raftv1.DrillResult{}
		var id, name string
		var missed, proven int64
		err := s.Scan(n, &id, &name, &missed, &proven, protoColumn{r})
		r.Host, r.HostName, r.MissedAt, r.ProvenAt = id, name, missed, proven
		return r, err
	}, q+" ORDER BY d.n DESC LIMIT ?", args...)
}

// DrillTally is what all hosts' last results of one drill say.
type DrillTally struct {
	Drill string
	// Missed and Proven: on some host it is; WasMissed: on some host it was once.
	Missed, Proven, WasMissed bool
	Last                      int64
}

// DrillTallies are those of every drill that was done, by name: at most as many as there are drills.
func (db *DB) DrillTallies(ctx context.Context) (out []DrillTally, err error) {
	err = db.each(ctx, func(s scanner) error {
		var t DrillTally
		err := s.Scan(&t.Drill, &t.Missed, &t.Proven, &t.WasMissed, &t.Last)
		out = append(out, t)
		return err
	}, `SELECT d.drill, max(d.verdict = 'missed'), max(d.verdict = 'proven'), max(d.missed_at > 0), max(d.time)
		FROM drills d JOIN hosts h ON h.n = d.host AND h.removed = 0 GROUP BY d.drill ORDER BY d.drill`)
	return out, err
}
