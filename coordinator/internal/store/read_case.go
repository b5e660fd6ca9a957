package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// FindingFilter limits a list of findings; empty fields do not.
type FindingFilter struct {
	Host      string // id or name
	Since     int64  // Unix ns of the finding
	Storyline string
	Incident  string
}

// sinceMargin is how far the clocks of hosts and leaders may be off when findings since a
// time are looked for, in ns.
const sinceMargin = int64(2 * time.Hour)

const findingColumns = "f.n, h.id, h.name, f.disposition, f.incident, f.stored_at, f.body FROM findings f JOIN hosts h ON h.n = f.host"

func scanFinding(s scanner, n *int64) (*operatorv1.FindingRow, error) {
	r := &operatorv1.FindingRow{Finding: &sensorv1.Finding{}}
	return r, s.Scan(n, &r.Host, &r.HostName, &r.Disposition, &r.Incident, &r.StoredAt, protoColumn{r.Finding})
}

// Findings lists findings, the last stored first.
func (db *DB) Findings(ctx context.Context, f FindingFilter, p Page) ([]*operatorv1.FindingRow, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	q, args := "SELECT "+findingColumns+" WHERE f.n < ?", []any{before}
	if f.Host != "" {
		where, of, err := db.ofHost(ctx, "f.host", f.Host)
		if err != nil {
			return nil, "", err
		}
		q, args = q+where, append(args, of)
	}
	if f.Since != 0 {
		// Numbers have the order of storing. Where that time was is one look at an index; whose
		// clock was further ahead than the margin when it was stored is no news of now.
		q += ` AND f.time >= ? AND f.n >= coalesce((SELECT n FROM findings WHERE stored_at >= ? ORDER BY stored_at, n LIMIT 1), 9223372036854775807)`
		args = append(args, f.Since, f.Since-sinceMargin)
	}
	if f.Storyline != "" {
		q += " AND f.storyline = ?"
		args = append(args, f.Storyline)
	}
	if f.Incident != "" {
		q += " AND f.incident = ? AND f.incident <> ''"
		args = append(args, f.Incident)
	}
	return paged(ctx, db, p, scanFinding, q+" ORDER BY f.n DESC LIMIT ?", args...)
}

// ofHost is the condition that a column names a host, by its id or name. Of one host, which
// it nearly always is, an index has the rows in their order; those of several are sorted.
func (db *DB) ofHost(ctx context.Context, column, idOrName string) (where string, arg any, err error) {
	numbers := []int64{}
	err = db.each(ctx, func(s scanner) error {
		var n int64
		err := s.Scan(&n)
		numbers = append(numbers, n)
		return err
	}, "SELECT n FROM hosts WHERE id = ?1 UNION ALL SELECT n FROM hosts WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM hosts WHERE id = ?1)", idOrName)
	if err != nil {
		return "", nil, err
	}
	if len(numbers) == 1 {
		return " AND " + column + " = ?", numbers[0], nil
	}
	list, err := json.Marshal(numbers)
	return " AND " + column + " IN (SELECT value FROM json_each(?))", string(list), err
}

// Finding reads one finding.
func (db *DB) Finding(ctx context.Context, id string) (row *operatorv1.FindingRow, err error) {
	err = db.each(ctx, func(s scanner) error {
		var n int64
		row, err = scanFinding(s, &n)
		return err
	}, "SELECT "+findingColumns+" WHERE f.id = ?", id)
	if err == nil && row == nil {
		err = fmt.Errorf("finding %q: %w", id, ErrNotFound)
	}
	return row, err
}

// FindingsSince are the findings that entries after index stored, oldest first,
// and the index to ask with next: the findings of one entry are never split, so
// an engine that resumes misses none and sees none twice. At most about limit
// rows (bounded by MaxPage) and the rest of the last entry's.
func (db *DB) FindingsSince(ctx context.Context, index uint64, limit uint32) ([]*operatorv1.FindingRow, uint64, error) {
	var out []*operatorv1.FindingRow
	next := index
	from := int64(min(index, math.MaxInt64))
	err := db.each(ctx, func(s scanner) error {
		var n, idx int64
		r := &operatorv1.FindingRow{Finding: &sensorv1.Finding{}}
		if err := s.Scan(&n, &r.Host, &r.HostName, &r.Disposition, &r.Incident, &r.StoredAt, protoColumn{r.Finding}, &idx); err != nil {
			return err
		}
		out, next = append(out, r), uint64(idx)
		return nil
	}, `SELECT f.n, h.id, h.name, f.disposition, f.incident, f.stored_at, f.body, f.idx
		FROM findings f JOIN hosts h ON h.n = f.host WHERE f.idx > ?1 AND f.idx <= coalesce(
			(SELECT idx FROM findings WHERE idx > ?1 ORDER BY idx, n LIMIT 1 OFFSET ?2), 9223372036854775807)
		ORDER BY f.idx, f.n`, from, Page{Size: limit}.limit()-1)
	return out, next, err
}

// IndexBefore is an index up to which everything was stored before a time (Unix ns): whoever
// wants what came since begins behind it. Entries are about in the order of their times.
func (db *DB) IndexBefore(ctx context.Context, at int64) (index uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&index) },
		"SELECT idx FROM findings WHERE stored_at < ? ORDER BY stored_at DESC LIMIT 1", at)
	return index, err
}

// FlowRow is one end of a flow of a storyline.
type FlowRow struct {
	Host  string
	Time  int64
	Index uint64
	Note  *sensorv1.FlowNote
}

func scanFlow(s scanner) (*FlowRow, error) {
	r := &FlowRow{Note: &sensorv1.FlowNote{}}
	return r, s.Scan(&r.Host, &r.Time, &r.Index, protoColumn{r.Note})
}

// FlowsByTuple are the ends of one flow (see FlowTuple), the newest first: a
// connect on one host and its accept on another have the same tuple.
func (db *DB) FlowsByTuple(ctx context.Context, tuple []byte) (out []*FlowRow, err error) {
	err = db.each(ctx, func(s scanner) error {
		r, err := scanFlow(s)
		out = append(out, r)
		return err
	}, "SELECT h.id, f.time, f.idx, f.body FROM flows f JOIN hosts h ON h.n = f.host WHERE f.tuple = ? ORDER BY f.n DESC LIMIT ?", blob(tuple), DefaultPage)
	return out, err
}

// FlowsSince are the flow notes that entries after index stored, oldest first,
// and the index to ask with next (see FindingsSince).
func (db *DB) FlowsSince(ctx context.Context, index uint64, limit uint32) ([]*FlowRow, uint64, error) {
	var out []*FlowRow
	next := index
	from := int64(min(index, math.MaxInt64))
	err := db.each(ctx, func(s scanner) error {
		r, err := scanFlow(s)
		if err == nil {
			out, next = append(out, r), r.Index
		}
		return err
	}, `SELECT h.id, f.time, f.idx, f.body FROM flows f JOIN hosts h ON h.n = f.host WHERE f.idx > ?1 AND f.idx <= coalesce(
			(SELECT idx FROM flows WHERE idx > ?1 ORDER BY idx, n LIMIT 1 OFFSET ?2), 9223372036854775807)
		ORDER BY f.idx, f.n`, from, Page{Size: limit}.limit()-1)
	return out, next, err
}

// IncidentFilter limits a list of incidents; empty fields do not.
type IncidentFilter struct {
	Status string // open closed
	Since  int64  // Unix ns of the last thing seen in it
}

func scanIncident(s scanner, n *int64) (*raftv1.Incident, error) {
	in := &raftv1.Incident{}
	return in, s.Scan(n, protoColumn{in})
}

// Incidents lists incidents, the last opened first.
func (db *DB) Incidents(ctx context.Context, f IncidentFilter, p Page) ([]*raftv1.Incident, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	q, args := "SELECT n, body FROM incidents WHERE n < ?", []any{before}
	if f.Status != "" {
		q += " AND status = ?"
		args = append(args, f.Status)
	}
	if f.Since != 0 {
		q += " AND last_seen >= ? AND n >= (SELECT coalesce(min(+n), 9223372036854775807) FROM incidents WHERE last_seen >= ?)"
		args = append(args, f.Since, f.Since)
	}
	return paged(ctx, db, p, scanIncident, q+" ORDER BY n DESC LIMIT ?", args...)
}

// Incident reads one incident.
func (db *DB) Incident(ctx context.Context, id string) (in *raftv1.Incident, err error) {
	err = db.each(ctx, func(s scanner) error {
		var n int64
		in, err = scanIncident(s, &n)
		return err
	}, "SELECT n, body FROM incidents WHERE id = ?", id)
	if err == nil && in == nil {
		err = fmt.Errorf("incident %q: %w", id, ErrNotFound)
	}
	return in, err
}

// IsolationFilter limits a list of isolations; empty fields do not.
type IsolationFilter struct {
	Host   string // id or name
	Active bool   // only what is pending or applied
}

const isolationColumns = `i.n, o.id, h.id, h.name, i.state, o.requested_by, o.reason, i.lease_expires, o.nonce,
	i.applied_at, i.self_test, i.detail, o.action, o.requested_at, o.signed, i.own FROM isolations i JOIN operations o ON o.n = i.operation JOIN hosts h ON h.n = i.host`

var stateWords = map[sensorv1.IsolationState]string{
	sensorv1.IsolationState_ISOLATION_STATE_PENDING:  "pending",
	sensorv1.IsolationState_ISOLATION_STATE_APPLIED:  "applied",
	sensorv1.IsolationState_ISOLATION_STATE_RELEASED: "released",
	sensorv1.IsolationState_ISOLATION_STATE_REFUSED:  "refused",
	sensorv1.IsolationState_ISOLATION_STATE_FAILED:   "failed",
	sensorv1.IsolationState_ISOLATION_STATE_EXPIRED:  "expired",

	sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED: "previewed",
}

// isolationScanner reads rows; it keeps the grant of the last one, as the next is mostly
// of the same order: ten thousand hosts of one order have one grant.
type isolationScanner struct {
	signed []byte
	grant  *sensorv1.Grant // nil when there is none, or it cannot be read
}

func (i *isolationScanner) of(signed []byte) (*sensorv1.Grant, error) {
	if i.signed != nil && bytes.Equal(i.signed, signed) {
		return i.grant, nil
	}
	m := &sensorv1.SignedGrant{}
	if err := proto.Unmarshal(signed, m); err != nil {
		return nil, fmt.Errorf("decoding a grant: %w", err)
	}
	i.signed, i.grant = append([]byte{}, signed...), nil
	if g, err := grant.Decode(m.GetPayload()); err == nil {
		i.grant = g
	}
	return i.grant, nil
}

func (i *isolationScanner) scan(s scanner, n *int64) (*operatorv1.Isolation, error) {
	r := &operatorv1.Isolation{}
	var state sensorv1.IsolationState
	var action sensorv1.Action
	var nonce, signed sql.RawBytes
	own := &sensorv1.IsolationStatus{}
	if err := s.Scan(n, &r.Operation, &r.Host, &r.HostName, &state, &r.RequestedBy, &r.Reason, &r.LeaseExpires, &nonce,
		&r.AppliedAt, &r.SelfTest, &r.Detail, &action, &r.RequestedAt, &signed, protoColumn{own}); err != nil {
		return nil, err
	}
	r.Id = r.Operation + "/" + r.Host
	r.State = stateWords[state]
	r.Grant = hex.EncodeToString(nonce)
	r.Action = grant.Word(action)
	r.Level, r.Target, r.Local, r.Evidence = grant.LevelWord(own.GetLevel()), own.GetTarget(), own.GetLocal(), own.GetEvidence()
	g, err := i.of(signed)
	if err != nil {
		return nil, err
	}
	if g != nil {
		r.Level, r.Target, r.Evidence = grant.LevelWord(g.GetLevel()), g.GetTarget(), g.GetEvidence()
	}
	if action != sensorv1.Action_ACTION_ISOLATE {
		r.Level = ""
	}
	return r, nil
}

// Isolations lists isolations and releases by host, the last requested first.
func (db *DB) Isolations(ctx context.Context, f IsolationFilter, p Page) ([]*operatorv1.Isolation, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	q, args := "SELECT "+isolationColumns+" WHERE i.n < ?", []any{before}
	if f.Host != "" {
		where, of, err := db.ofHost(ctx, "i.host", f.Host)
		if err != nil {
			return nil, "", err
		}
		q, args = q+where, append(args, of)
	}
	if f.Active {
		q += " AND i.state IN (1, 2)"
	}
	return paged(ctx, db, p, new(isolationScanner).scan, q+" ORDER BY i.n DESC LIMIT ?", args...)
}

// Operation reads all rows of an operation, in the order of the grant's hosts.
func (db *DB) Operation(ctx context.Context, id string) (out []*operatorv1.Isolation, err error) {
	var rows isolationScanner
	err = db.each(ctx, func(s scanner) error {
		var n int64
		r, err := rows.scan(s, &n)
		out = append(out, r)
		return err
	}, "SELECT "+isolationColumns+" WHERE o.id = ? ORDER BY i.n", id)
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("operation %q: %w", id, ErrNotFound)
	}
	return out, err
}

// PendingGrants are the grants that a host has not answered, oldest first, with
// their operations: what ingest hands to a sensor that connects.
func (db *DB) PendingGrants(ctx context.Context, host string) (operations []string, grants []*sensorv1.SignedGrant, err error) {
	err = db.each(ctx, func(s scanner) error {
		var id string
		g := &sensorv1.SignedGrant{}
		if err := s.Scan(&id, protoColumn{g}); err != nil {
			return err
		}
		operations, grants = append(operations, id), append(grants, g)
		return nil
	}, `SELECT o.id, o.signed FROM isolations i JOIN operations o ON o.n = i.operation
		WHERE i.host = (SELECT n FROM hosts WHERE id = ?) AND i.state = 1 ORDER BY i.n`, host)
	return operations, grants, err
}

// OperationHosts are the ids of an operation's hosts, ascending, as its grant has them.
func (db *DB) OperationHosts(ctx context.Context, operation string) (hosts []string, err error) {
	err = db.each(ctx, func(s scanner) error {
		hosts = append(hosts, "")
		return s.Scan(&hosts[len(hosts)-1])
	}, `SELECT h.id FROM isolations i JOIN operations o ON o.n = i.operation JOIN hosts h ON h.n = i.host
		WHERE o.id = ? ORDER BY h.id`, operation)
	return hosts, err
}

// Audit lists entries after the given one, oldest first, and says whether more follow.
func (db *DB) Audit(ctx context.Context, after uint64, limit uint32) (out []*operatorv1.AuditEntry, more bool, err error) {
	size := Page{Size: limit}.limit()
	err = db.each(ctx, func(s scanner) error {
		if len(out) == size {
			more = true
			return nil
		}
		e := &operatorv1.AuditEntry{}
		out = append(out, e)
		return s.Scan(&e.Index, &e.Time, &e.Actor, &e.Action, &e.Subject, &e.Detail, &e.Previous, &e.Hash)
	}, "SELECT idx, time, actor, action, subject, detail, previous, hash FROM audit WHERE idx > ? ORDER BY idx LIMIT ?",
		int64(min(after, math.MaxInt64)), size+1)
	return out, more, err
}
