package store

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What one host can make the coordinators keep. Beyond a limit the new row
// (behaviours) or the oldest rows (findings, flows) go, and a loss says so.
const (
	MaxBehaviours = 100_000
	MaxFindings   = 20_000
	MaxFlows      = 20_000
	MaxBoots      = 64
	maxLosses     = 64
	// maxCount keeps sums inside an SQLite integer: an overflow would become a
	// REAL, which a STRICT column refuses, and a hostile host could stop every node.
	maxCount = int64(1) << 60
	// pruneBatch rows are deleted at once, so that pruning is not paid for each row.
	pruneBatch = 256
)

// encode never answers nil, which SQLite would keep as NULL.
func encode(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return blob(b), err
}

func clamp(v uint64) int64 {
	if v > uint64(maxCount) {
		return maxCount
	}
	return int64(v)
}

func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// AddLoss adds to a host's loss totals. Causes beyond maxLosses are counted together.
func (tx *Tx) AddLoss(host int64, l *sensorv1.Loss) error {
	const add = `UPDATE losses SET count = min(count + ?1, 1152921504606846976), latest = CASE ?1 WHEN 0 THEN latest ELSE ?2 END
		WHERE host = ?3 AND place = ?4 AND cause = ?5`
	place, cause := l.GetWhere(), l.GetCause()
	tx.tally(host, Tally{Lost: clamp(l.GetCount())})
	n, err := tx.exec(add, clamp(l.GetCount()), tx.Time, host, place, cause)
	if err != nil || n > 0 {
		return err
	}
	var have int64
	if _, err := tx.one("SELECT count(*) FROM losses WHERE host = ?", func(v []val) { have = asInt(v[0]) }, host); err != nil {
		return err
	}
	if have >= maxLosses-1 {
		place, cause = "other", "other"
	}
	_, err = tx.exec(`INSERT INTO losses (host, place, cause, count, latest) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET count = min(count + excluded.count, 1152921504606846976), latest = excluded.latest`,
		host, place, cause, clamp(l.GetCount()), tx.Time)
	return err
}

// AddFinding stores a finding. A finding whose id exists is not stored again
// (false): ids are ULIDs, so it is one host's mistake or malice.
func (tx *Tx) AddFinding(host int64, index uint64, stored int64, f *sensorv1.Finding) (bool, error) {
	body, err := encode(f)
	if err != nil {
		return false, fmt.Errorf("encoding finding: %w", err)
	}
	n, err := tx.exec(`INSERT INTO findings (id, host, idx, time, stored_at, storyline, disposition, incident, body)
		VALUES (?, ?, ?, ?, ?, ?, 'new', '', ?) ON CONFLICT DO NOTHING`,
		f.GetId(), host, int64(index), f.GetTime(), stored, f.GetStoryline(), body)
	if err != nil || n == 0 {
		return false, err
	}
	tx.tally(host, Tally{Findings: 1})
	return true, tx.grew(host, "findings", MaxFindings,
		"DELETE FROM findings WHERE n IN (SELECT n FROM findings WHERE host = ? AND disposition <> 'in-incident' ORDER BY n LIMIT 256)", "finding-limit")
}

// AddFlow stores a flow of a storyline.
func (tx *Tx) AddFlow(host int64, index uint64, time int64, note *sensorv1.FlowNote) error {
	body, err := encode(note)
	if err != nil {
		return fmt.Errorf("encoding flow note: %w", err)
	}
	stored, err := tx.historyTime()
	if err != nil {
		return err
	}
	if _, err := tx.exec("INSERT INTO flows (host, idx, time, tuple, storyline, body, stored_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
		host, int64(index), time, FlowTuple(note.GetFlow()), note.GetStoryline(), body, stored); err != nil {
		return err
	}
	tx.tally(host, Tally{Flows: 1})
	return tx.grew(host, "flows", MaxFlows,
		"DELETE FROM flows WHERE n IN (SELECT n FROM flows WHERE host = ? ORDER BY n LIMIT 256)", "flow-limit")
}

// grew counts a new row of a host and prunes its oldest ones above the limit.
func (tx *Tx) grew(host int64, column string, limit int64, prune, cause string) error {
	var have int64
	if _, err := tx.one("UPDATE hosts SET "+column+" = "+column+" + 1 WHERE n = ? RETURNING "+column,
		func(v []val) { have = asInt(v[0]) }, host); err != nil {
		return err
	}
	if have < limit+pruneBatch {
		return nil
	}
	gone, err := tx.exec(prune, host)
	if err != nil || gone == 0 {
		return err
	}
	if _, err := tx.exec("UPDATE hosts SET "+column+" = "+column+" - ? WHERE n = ?", gone, host); err != nil {
		return err
	}
	return tx.AddLoss(host, &sensorv1.Loss{Where: "store", Cause: cause, Count: uint64(gone)})
}

// FlowTuple is a flow's 5-tuple with the client first, the same bytes at both
// of its ends (where no address translation lies between them).
func FlowTuple(f *sensorv1.Flow) []byte {
	client, cport, server, sport := f.GetLocal(), f.GetLocalPort(), f.GetRemote(), f.GetRemotePort()
	if f.GetInbound() {
		client, cport, server, sport = server, sport, client, cport
	}
	b := []byte{byte(f.GetProtocol()), byte(len(client)), byte(len(server))}
	b = append(append(b, client...), server...)
	b = binary.BigEndian.AppendUint16(b, uint16(cport))
	return binary.BigEndian.AppendUint16(b, uint16(sport))
}
