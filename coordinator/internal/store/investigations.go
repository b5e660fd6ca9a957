package store

import (
	"context"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What is kept: of a host the storylines that were looked at last, of signs those seen first.
const (
	maxInvestigationsOfHost = 1000
	maxPrecedents           = 20_000
	maxSigns                = 500 // of one incident
)

// Investigation reads what was found out about a storyline, nil when nothing was.
func (tx *Tx) Investigation(host int64, storyline string) (in *raftv1.Investigation, err error) {
	err = tx.rows("SELECT body FROM investigations WHERE host = ? AND storyline = ?", func(v []val) error {
		in = &raftv1.Investigation{}
		return proto.Unmarshal(asBlob(v[0]), in)
	}, host, storyline)
	return in, err
}

// PutInvestigation stores an investigation whole, by the entry of index.
func (tx *Tx) PutInvestigation(index uint64, host int64, in *raftv1.Investigation) error {
	body, err := encode(in)
	if err != nil {
		return fmt.Errorf("encoding investigation: %w", err)
	}
	_, err = tx.exec(`INSERT INTO investigations (host, storyline, verdict, ended, idx, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
		ON CONFLICT (host, storyline) DO UPDATE SET verdict = ?3, ended = ?4, idx = ?5, body = ?6`,
		host, in.GetStoryline(), in.GetVerdict(), in.GetEnded(), int64(index), body) //nolint:gosec // an index of the log
	if err != nil {
		return err
	}
	_, err = tx.exec("DELETE FROM investigations WHERE n IN (SELECT n FROM investigations WHERE host = ? ORDER BY idx DESC LIMIT -1 OFFSET ?)",
		host, int64(maxInvestigationsOfHost))
	return err
}

// IncidentFindings are findings of an incident, oldest first: as many as are judged.
func (tx *Tx) IncidentFindings(incident string) (out []*sensorv1.Finding, err error) {
	err = tx.rows("SELECT body FROM findings WHERE incident = ? AND incident <> '' ORDER BY n LIMIT ?", func(v []val) error {
		f := &sensorv1.Finding{}
		out = append(out, f)
		return proto.Unmarshal(asBlob(v[0]), f)
	}, incident, int64(maxSigns))
	return out, err
}

// Judge counts how people judged a sign. When there is no room, a new sign is not counted:
// what is known must not go because somebody closes many incidents.
func (tx *Tx) Judge(sign []byte, malicious bool) error {
	benign, bad := 1, 0
	if malicious {
		benign, bad = 0, 1
	}
	_, err := tx.exec(`INSERT INTO precedents (sign, benign, malicious) SELECT ?1, ?2, ?3
		WHERE EXISTS (SELECT 1 FROM precedents WHERE sign = ?1) OR (SELECT count(*) FROM precedents) < ?4
		ON CONFLICT (sign) DO UPDATE SET benign = benign + ?2, malicious = malicious + ?3`,
		blob(sign), int64(benign), int64(bad), int64(maxPrecedents))
	return err
}

// Precedent is how often people judged a sign as what.
func (db *DB) Precedent(ctx context.Context, sign []byte) (benign, malicious int, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&benign, &malicious) }, "SELECT benign, malicious FROM precedents WHERE sign = ?", sign)
	return benign, malicious, err
}

// InvestigationFilter says which investigations are listed.
type InvestigationFilter struct {
	Verdict string
	Host    string // id or name
	Since   int64  // Unix ns: ended since
}

const investigationColumns = "v.n, h.id, h.name, v.body FROM investigations v JOIN hosts h ON h.n = v.host AND h.removed = 0"

func scanInvestigation(s scanner, n *int64) (*raftv1.Investigation, error) {
	in := &raftv1.Investigation{}
	var host, name string
	if err := s.Scan(n, &host, &name, protoColumn{in}); err != nil {
		return nil, err
	}
	in.Host, in.HostName = host, name
	return in, nil
}

// Investigations lists them, the last begun first.
func (db *DB) Investigations(ctx context.Context, f InvestigationFilter, p Page) ([]*raftv1.Investigation, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	q, args := "SELECT "+investigationColumns+" WHERE v.n < ?", []any{before}
	if f.Verdict != "" {
		q += " AND v.verdict = ?"
		args = append(args, f.Verdict)
	}
	if f.Host != "" {
		where, arg, err := db.ofHost(ctx, "v.host", f.Host)
		if err != nil {
			return nil, "", fmt.Errorf("reading host: %w", err)
		}
		q += where
		args = append(args, arg)
	}
	if f.Since != 0 {
		q += " AND v.ended >= ?"
		args = append(args, f.Since)
	}
	return paged(ctx, db, p, scanInvestigation, q+" ORDER BY v.n DESC LIMIT ?", args...)
}

// Investigation reads what was found out about a host's storyline.
func (db *DB) Investigation(ctx context.Context, host, storyline string) (in *raftv1.Investigation, err error) {
	err = db.each(ctx, func(s scanner) error {
		var n int64
		in, err = scanInvestigation(s, &n)
		return err
	}, "SELECT "+investigationColumns+" WHERE h.id = ? AND v.storyline = ?", host, storyline)
	if err == nil && in == nil {
		err = fmt.Errorf("investigation of storyline %q of host %s: %w", storyline, host, ErrNotFound)
	}
	return in, err
}

// InvestigationsSince are those that entries after index stored, oldest first, and the index
// to ask with next. Most entries store one; who closes an incident of more than limit storylines
// has what is beyond the page passed over, of which only the disposition is new.
func (db *DB) InvestigationsSince(ctx context.Context, index uint64, limit uint32) (out []*raftv1.Investigation, next uint64, err error) {
	next = index
	err = db.each(ctx, func(s scanner) error {
		in := &raftv1.Investigation{}
		var host, name string
		var idx int64
		if err := s.Scan(&idx, &host, &name, protoColumn{in}); err != nil {
			return err
		}
		in.Host, in.HostName = host, name
		out, next = append(out, in), uint64(idx)
		return nil
	}, `SELECT v.idx, h.id, h.name, v.body FROM investigations v JOIN hosts h ON h.n = v.host WHERE v.idx > ? ORDER BY v.idx LIMIT ?`,
		int64(min(index, math.MaxInt64)), Page{Size: limit}.limit())
	return out, next, err
}
