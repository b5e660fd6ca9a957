package store

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxIdempotency bounds the remembered keys: the oldest are forgotten.
const maxIdempotency = 10_000

// Incident reads an incident, nil when there is none.
func (tx *Tx) Incident(id string) (in *raftv1.Incident, err error) {
	err = tx.rows("SELECT body FROM incidents WHERE id = ?", func(v []val) error {
		in = &raftv1.Incident{}
		return proto.Unmarshal(asBlob(v[0]), in)
	}, id)
	return in, err
}

// PutIncident stores an incident whole.
func (tx *Tx) PutIncident(in *raftv1.Incident) error {
	body, err := encode(in)
	if err != nil {
		return fmt.Errorf("encoding incident: %w", err)
	}
	_, err = tx.exec(`INSERT INTO incidents (id, status, last_seen, body) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (id) DO UPDATE SET status = ?2, last_seen = ?3, body = ?4`, in.GetId(), in.GetStatus(), in.GetLastSeen(), body)
	return err
}

// SetFindingIncident puts a finding into an incident.
func (tx *Tx) SetFindingIncident(id, incident, disposition string) error {
	_, err := tx.exec("UPDATE findings SET incident = ?, disposition = ? WHERE id = ?", incident, disposition, id)
	return err
}

// SetIncidentFindings sets the disposition of all of an incident's findings and
// moves them to incident to (the same one, or the one that absorbs it).
func (tx *Tx) SetIncidentFindings(incident, to, disposition string) error {
	_, err := tx.exec("UPDATE findings SET incident = ?, disposition = ? WHERE incident = ? AND incident <> ''", to, disposition, incident)
	return err
}

// Row is one host's part of an operation.
type Row struct {
	N         int64
	Operation string
	Host      int64
	Action    sensorv1.Action
	// Undoes is the operation that a release ends; empty: the host's isolation.
	Undoes string
	State  sensorv1.IsolationState
	Detail string
}

// NonceUsed says whether a grant with this nonce was stored.
func (tx *Tx) NonceUsed(nonce []byte) (bool, error) {
	return tx.one("SELECT 1 FROM operations WHERE nonce = ?", func([]val) {}, blob(nonce))
}

// AddIsolation adds one host's pending row of an operation. countedAt is when the
// governor counts it, 0 for what it does not.
func (tx *Tx) AddIsolation(operation, host, leaseExpires, countedAt int64) error {
	_, err := tx.exec(`INSERT INTO isolations (operation, host, state, lease_expires, applied_at, self_test, detail, counted_at)
		VALUES (?, ?, ?, ?, 0, '', '', ?)`, operation, host, int64(sensorv1.IsolationState_ISOLATION_STATE_PENDING), leaseExpires, countedAt)
	return err
}

// HostRows are a host's rows, oldest first: the pending and applied ones, and the newest of all.
func (tx *Tx) HostRows(host int64) (rows []Row, err error) {
	err = tx.rows(`SELECT i.n, o.id, i.host, o.action, o.undoes, i.state, i.detail FROM isolations i JOIN operations o ON o.n = i.operation
		WHERE i.host = ?1 AND (i.state IN (1, 2) OR i.n = (SELECT max(n) FROM isolations WHERE host = ?1)) ORDER BY i.n`,
		func(v []val) error { rows = append(rows, scanRow(v)); return nil }, host)
	return rows, err
}

// OperationRow is a host's row of an operation, nil when there is none.
func (tx *Tx) OperationRow(operation string, host int64) (row *Row, err error) {
	_, err = tx.one(`SELECT i.n, o.id, i.host, o.action, o.undoes, i.state, i.detail FROM isolations i JOIN operations o ON o.n = i.operation
		WHERE o.id = ? AND i.host = ?`, func(v []val) { r := scanRow(v); row = &r }, operation, host)
	return row, err
}

func scanRow(v []val) Row {
	return Row{
		N: asInt(v[0]), Operation: asText(v[1]), Host: asInt(v[2]), Action: sensorv1.Action(asInt(v[3])),
		Undoes: asText(v[4]), State: sensorv1.IsolationState(asInt(v[5])), Detail: asText(v[6]),
	}
}

// SetRowState ends or moves a row for a reason of the coordinator's own.
func (tx *Tx) SetRowState(n int64, state sensorv1.IsolationState, detail string) error {
	_, err := tx.exec("UPDATE isolations SET state = ?, detail = ? WHERE n = ?", int64(state), detail, n)
	return err
}

// ReportRow writes what a host says about its row. A lease or time that it does not state is kept.
func (tx *Tx) ReportRow(n int64, s *sensorv1.IsolationStatus) error {
	var own []byte
	if s.GetLocal() {
		kept := &sensorv1.IsolationStatus{Action: s.GetAction(), Target: s.GetTarget(), Level: s.GetLevel(), Local: true,
			Evidence: s.GetEvidence(), IntentVersion: s.GetIntentVersion(), Policies: s.GetPolicies()}
		var err error
		if own, err = encode(kept); err != nil {
			return fmt.Errorf("encoding report: %w", err)
		}
	}
	_, err := tx.exec(`UPDATE isolations SET state = ?1, detail = ?2, self_test = CASE ?3 WHEN '' THEN self_test ELSE ?3 END,
		applied_at = CASE ?4 WHEN 0 THEN applied_at ELSE ?4 END,
		lease_expires = CASE ?5 WHEN 0 THEN lease_expires ELSE ?5 END,
		own = CASE length(?6) WHEN 0 THEN own ELSE ?6 END WHERE n = ?7`,
		int64(s.GetState()), s.GetDetail(), s.GetSelfTest(), s.GetAppliedAt(), s.GetLeaseExpires(), blob(own), n)
	return err
}

// SetHostIsolation writes the one word that a host list shows.
func (tx *Tx) SetHostIsolation(host int64, word string) error {
	_, err := tx.exec("UPDATE hosts SET isolation = ? WHERE n = ? AND isolation <> ?", word, host, word)
	return err
}

// Audit appends to the audit chain; Index, Previous and Hash are set here.
func (tx *Tx) Audit(e *operatorv1.AuditEntry) error {
	if tx.audited == nil {
		tx.audited = &chainEnd{hash: audit.Genesis()}
		if _, err := tx.one("SELECT idx, hash FROM audit ORDER BY idx DESC LIMIT 1", func(v []val) {
			tx.audited = &chainEnd{index: asInt(v[0]), hash: asBlob(v[1])}
		}); err != nil {
			return err
		}
	}
	index := tx.audited.index + 1
	e.Index, e.Previous = uint64(index), tx.audited.hash //nolint:gosec // counts from one
	e.Hash = audit.Hash(e)
	_, err := tx.exec("INSERT INTO audit (idx, time, actor, action, subject, detail, previous, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		index, e.GetTime(), e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail(), e.GetPrevious(), e.GetHash())
	tx.audited = &chainEnd{index: index, hash: e.GetHash()}
	return err
}

// chainEnd is the newest audit entry, as this transaction has it.
type chainEnd struct {
	index int64
	hash  []byte
}

// Remembered is the result of an earlier command with this key, and that
// command's field number; nil when there is none.
func (tx *Tx) Remembered(actor, key string) (result *raftv1.Result, command int32, err error) {
	err = tx.rows("SELECT command, result FROM idempotency WHERE actor = ? AND key = ?", func(v []val) error {
		command, result = int32(asInt(v[0])), &raftv1.Result{}
		return proto.Unmarshal(asBlob(v[1]), result)
	}, actor, key)
	return result, command, err
}

// Remember keeps a result for its key.
func (tx *Tx) Remember(actor, key string, command int32, result *raftv1.Result) error {
	body, err := encode(result)
	if err != nil {
		return fmt.Errorf("encoding result: %w", err)
	}
	var n int64
	if _, err := tx.one("INSERT INTO idempotency (actor, key, command, result) VALUES (?, ?, ?, ?) RETURNING n",
		func(v []val) { n = asInt(v[0]) }, actor, key, int64(command), body); err != nil {
		return err
	}
	_, err = tx.exec("DELETE FROM idempotency WHERE n <= ?", n-maxIdempotency)
	return err
}
