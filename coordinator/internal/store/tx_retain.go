package store

import (
	"maps"
	"slices"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What may go. The newest row of a table stays, whatever its age: its number must not be given
// again, as engines and page tokens go by numbers.
const (
	// A finding of an open incident stays, and one of a silence that is not over: its end tells of it.
	freeFindings = `SELECT n FROM findings f WHERE disposition <> 'in-incident' AND stored_at < ? AND n < (SELECT max(n) FROM findings)
		AND NOT EXISTS (SELECT 1 FROM hosts WHERE silence = f.id AND silence <> '') ORDER BY stored_at, n LIMIT ?`
	// Flows and keys stand in the order of their times, but for those of before history began.
	freeFlows = `SELECT n FROM (SELECT n, stored_at FROM flows ORDER BY n LIMIT ?3) WHERE max(stored_at, ?1) < ?2 AND n < (SELECT max(n) FROM flows)`
	freeKeys  = `SELECT n FROM (SELECT n, at FROM idempotency ORDER BY n LIMIT ?3) WHERE max(at, ?1) < ?2 AND n < (SELECT max(n) FROM idempotency)`
	// A closed incident outlives its findings.
	freeIncidents = `SELECT n FROM incidents i WHERE status = 'closed' AND max(closed_at, ?1, last_seen) < ?2 AND n < (SELECT max(n) FROM incidents)
		AND NOT EXISTS (SELECT 1 FROM findings WHERE incident = i.id AND incident <> '') ORDER BY n LIMIT ?3`
	// A closed campaign outlives its incidents.
	freeCampaigns = `SELECT n FROM campaigns WHERE status = 'closed' AND max(closed_at, ?1, last_seen) < ?2 AND n < (SELECT max(n) FROM campaigns) ORDER BY n LIMIT ?3`
	// What was found out goes with the findings that it was found out about.
	freeInvestigations = `SELECT n FROM investigations v WHERE ended < ?1 AND n < (SELECT max(n) FROM investigations)
		AND NOT EXISTS (SELECT 1 FROM findings f WHERE f.host = v.host AND f.storyline = v.storyline) ORDER BY ended, n LIMIT ?2`
	// An operation goes when none of its hosts has anything pending or applied.
	freeRows = `SELECT i.n FROM operations o CROSS JOIN isolations i ON i.operation = o.n
		WHERE o.state IN ('ordered', 'vetoed') AND o.requested_at < ?1 AND o.n < (SELECT max(n) FROM operations)
		AND o.n NOT IN (SELECT operation FROM isolations WHERE state IN (1, 2))
		AND i.counted_at < ?1 AND i.lease_expires < ?1 AND i.n < (SELECT max(n) FROM isolations) ORDER BY o.n, i.n LIMIT ?2`
	freeOperations = `SELECT n FROM operations o WHERE state IN ('ordered', 'vetoed') AND requested_at < ? AND n < (SELECT max(n) FROM operations)
		AND NOT EXISTS (SELECT 1 FROM isolations WHERE operation = o.n) ORDER BY n LIMIT ?`
	freeLosses = "SELECT host, place, cause FROM losses WHERE latest < ? ORDER BY latest, host, place, cause LIMIT ?"
)

// Retain removes what is older than the cuts say, at most so many rows, and one partition; it
// answers how many rows and partitions went.
func (tx *Tx) Retain(c *raftv1.Retain) (gone int64, err error) {
	began, err := tx.HistoryBegan()
	if err != nil {
		return 0, err
	}
	left := int64(c.GetRows())
	took := func(n int64, err error) error {
		gone, left = gone+n, left-n
		return err
	}
	for _, p := range []struct {
		grain  *grain
		before int64
	}{{minutes, c.GetMinutesBefore()}, {hours, c.GetHoursBefore()}, {days, c.GetDaysBefore()}} {
		if dropped, n, err := tx.dropPartition(p.grain, p.before); err != nil || dropped {
			return n, err
		}
	}
	if err := took(tx.pruneOf("findings", freeFindings, "", c.GetFindingsBefore(), left)); err != nil {
		return gone, err
	}
	if err := took(tx.pruneOf("flows", freeFlows, "", began, c.GetFlowsBefore(), left)); err != nil {
		return gone, err
	}
	if left > 0 {
		if err := tx.loseIncidents(freeIncidents, began, c.GetIncidentsBefore(), left); err != nil {
			return gone, err
		}
	}
	for _, d := range []struct {
		q    string
		args []val
	}{
		{"DELETE FROM incidents WHERE n IN (" + freeIncidents + ")", []val{began, c.GetIncidentsBefore()}},
		{"DELETE FROM campaigns WHERE n IN (" + freeCampaigns + ")", []val{began, c.GetIncidentsBefore()}},
		{"DELETE FROM investigations WHERE n IN (" + freeInvestigations + ")", []val{c.GetFindingsBefore()}},
		{"DELETE FROM isolations WHERE n IN (" + freeRows + ")", []val{c.GetOperationsBefore()}},
		{"DELETE FROM operations WHERE n IN (" + freeOperations + ")", []val{c.GetOperationsBefore()}},
		{"DELETE FROM idempotency WHERE n IN (" + freeKeys + ")", []val{began, c.GetKeysBefore()}},
		{"DELETE FROM losses WHERE (host, place, cause) IN (" + freeLosses + ")", []val{c.GetLossesBefore()}},
	} {
		if left <= 0 {
			break
		}
		if err := took(tx.exec(d.q, append(d.args, left)...)); err != nil {
			return gone, err
		}
	}
	clear(tx.db.hot.rows) // it may hold an operation's row that went
	if c.GetOversized() && gone == 0 {
		return tx.cut(began, left)
	}
	return gone, nil
}

// cut removes the oldest of what may go at all, whatever its age: findings and flows, then the
// oldest partition. Each host's loss says how many it were, and the state that it is too large.
func (tx *Tx) cut(began, left int64) (gone int64, err error) {
	if gone, err = tx.pruneOf("findings", freeFindings, "size-limit", int64(never), left); err != nil {
		return gone, err
	}
	flows, err := tx.pruneOf("flows", freeFlows, "size-limit", began, int64(never), left-gone)
	if err != nil {
		return gone, err
	}
	gone += flows
	for _, g := range grains {
		if gone > 0 {
			break
		}
		// The partition that is written to stays.
		if _, gone, err = tx.dropPartition(g, tx.Time); err != nil {
			return gone, err
		}
	}
	if gone > 0 {
		_, err = tx.exec("UPDATE history SET cut = cut + ?, cut_at = ?", gone, tx.Time)
	}
	return gone, err
}

// pruneOf deletes rows that hosts have a count of.
func (tx *Tx) pruneOf(table, free, cause string, args ...val) (gone int64, err error) {
	of := make(map[int64]int64)
	if err := tx.rows("DELETE FROM "+table+" WHERE n IN ("+free+") RETURNING host", func(v []val) error {
		of[asInt(v[0])]++
		gone++
		return nil
	}, args...); err != nil {
		return 0, err
	}
	for _, host := range slices.Sorted(maps.Keys(of)) {
		if _, err := tx.exec("UPDATE hosts SET "+table+" = max(0, "+table+" - ?) WHERE n = ?", of[host], host); err != nil {
			return gone, err
		}
		if cause == "" {
			continue
		}
		if err := tx.AddLoss(host, &sensorv1.Loss{Where: "store", Cause: cause, Count: uint64(of[host])}); err != nil { //nolint:gosec // a count
			return gone, err
		}
	}
	return gone, nil
}
