package store

import (
	"context"
	"fmt"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// maxDispositions bounds those that are remembered after they were answered or have ended, and
	// mostDispositions all: the oldest goes.
	maxDispositions  = 10_000
	mostDispositions = 100_000
	// maxDispositionsWaiting is how many wait for one host.
	maxDispositionsWaiting = 64
)

// PruneDispositions removes those that are too many.
func (tx *Tx) PruneDispositions() error {
	_, err := tx.exec(`DELETE FROM dispositions WHERE n <= (SELECT max(n) FROM dispositions) - ? AND (answered_at > 0 OR not_after <= ?)
		OR n <= (SELECT max(n) FROM dispositions) - ?`, int64(maxDispositions), tx.Time, int64(mostDispositions))
	return err
}

// AddDisposition notes what a host is told of its findings; false when it has the id of one that was, or too
// many wait for the host.
func (tx *Tx) AddDisposition(host int64, signed *sensorv1.SignedDisposition, d *sensorv1.Disposition) (bool, error) {
	body, err := encode(signed)
	if err != nil {
		return false, fmt.Errorf("encoding disposition: %w", err)
	}
	n, err := tx.exec(`INSERT INTO dispositions (id, host, incident, signed, not_after, answered_at, findings, failure)
		SELECT ?1, ?2, ?3, ?4, ?5, 0, 0, '' WHERE (SELECT count(*) FROM dispositions WHERE host = ?2 AND answered_at = 0 AND not_after > ?6) < ?7
		ON CONFLICT (id) DO NOTHING`, d.GetId(), host, d.GetIncident(), body, d.GetNotAfter(), tx.Time, int64(maxDispositionsWaiting))
	return n > 0, err
}

// IsFinding says whether a finding is one of a host in an incident.
func (tx *Tx) IsFinding(id string, host int64, incident string) (bool, error) {
	return tx.one("SELECT 1 FROM findings WHERE id = ? AND host = ? AND incident = ?", func([]val) {}, id, host, incident)
}

// AnswerDisposition notes what a host says that became of one; false when it is none of its that waits.
func (tx *Tx) AnswerDisposition(host int64, by *sensorv1.Unlearnt) (bool, error) {
	n, err := tx.exec("UPDATE dispositions SET answered_at = ?, findings = ?, failure = ? WHERE id = ? AND host = ? AND answered_at = 0",
		max(tx.Time, 1), int64(by.GetBehaviours()), by.GetFailure(), by.GetId(), host)
	return n > 0, err
}

// PendingDispositions are what a host has not answered, oldest first.
func (db *DB) PendingDispositions(ctx context.Context, host string, now int64) (out []*sensorv1.SignedDisposition, err error) {
	err = db.each(ctx, func(s scanner) error {
		d := &sensorv1.SignedDisposition{}
		out = append(out, d)
		return s.Scan(protoColumn{d})
	}, `SELECT d.signed FROM dispositions d WHERE d.host = (SELECT n FROM hosts WHERE id = ? AND removed = 0) AND d.answered_at = 0 AND d.not_after > ?
		ORDER BY d.n LIMIT 100`, host, now)
	return out, err
}

// Disposition is one as the store keeps it.
type Disposition struct {
	Signed     *sensorv1.SignedDisposition
	Host       string
	AnsweredAt int64
	Findings   uint32
	Failure    string
}

// Dispositions are what an incident's hosts were told, oldest first; at most MaxPage.
func (db *DB) Dispositions(ctx context.Context, incident string) (out []Disposition, err error) {
	err = db.each(ctx, func(s scanner) error {
		d := Disposition{Signed: &sensorv1.SignedDisposition{}}
		err := s.Scan(protoColumn{d.Signed}, &d.Host, &d.AnsweredAt, &d.Findings, &d.Failure)
		out = append(out, d)
		return err
	}, `SELECT d.signed, h.id, d.answered_at, d.findings, d.failure FROM dispositions d JOIN hosts h ON h.n = d.host
		WHERE d.incident = ? ORDER BY d.n LIMIT ?`, incident, MaxPage)
	return out, err
}
