package store

import (
	"fmt"

	"google.golang.org/protobuf/proto"

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

// PutIncident stores an incident whole, by the entry of index.
func (tx *Tx) PutIncident(index uint64, in *raftv1.Incident) error {
	body, err := encode(in)
	if err != nil {
		return fmt.Errorf("encoding incident: %w", err)
	}
	closed := int64(0)
	if in.GetStatus() == "closed" {
		if closed, err = tx.historyTime(); err != nil {
			return err
		}
	}
	changed, at := int64(0), int64(0)
	if some, err := tx.exported(); err != nil {
		return err
	} else if some {
		changed, at = int64(index), tx.Time //nolint:gosec // an index of the log
	}
	_, err = tx.exec(`INSERT INTO incidents (id, status, last_seen, body, closed_at, changed, changed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
		ON CONFLICT (id) DO UPDATE SET status = ?2, last_seen = ?3, body = ?4, closed_at = ?5, changed = ?6, changed_at = ?7`,
		in.GetId(), in.GetStatus(), in.GetLastSeen(), body, closed, changed, at)
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

func scanRow(v []val) Row {
	return Row{
		N: asInt(v[0]), Operation: asText(v[1]), Host: asInt(v[2]), Action: sensorv1.Action(asInt(v[3])),
		Undoes: asText(v[4]), State: sensorv1.IsolationState(asInt(v[5])), Detail: asText(v[6]),
	}
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
	at, err := tx.historyTime()
	if err != nil {
		return err
	}
	var n int64
	if _, err := tx.one("INSERT INTO idempotency (actor, key, command, result, at) VALUES (?, ?, ?, ?, ?) RETURNING n",
		func(v []val) { n = asInt(v[0]) }, actor, key, int64(command), body, at); err != nil {
		return err
	}
	_, err = tx.exec("DELETE FROM idempotency WHERE n <= ?", n-maxIdempotency)
	return err
}
