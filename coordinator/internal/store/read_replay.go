package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// PastFinding is a finding as a policy reads it, and what people said of it.
type PastFinding struct {
	Finding *sensorv1.Finding // without what no policy reads
	Host    string
	// Disposition is benign or malicious when its incident was closed as that, else empty.
	Disposition string
}

// errEnough ends a read that has reached its bound.
var errEnough = errors.New("enough")

// PastFindings are the findings since a time (Unix ns, of the finding), the last stored
// first: at most so many, of at most so many bytes as they are stored. more says that a
// bound cut it.
func (db *DB) PastFindings(ctx context.Context, since int64, most, bytes int) (out []PastFinding, more bool, err error) {
	var incidents []string
	err = db.each(ctx, func(s scanner) error {
		var n int64
		var host, disposition, incident string
		var body sql.RawBytes
		if err := s.Scan(&n, &host, &disposition, &incident, &body); err != nil {
			return err
		}
		if bytes -= len(body); len(out) == most || bytes < 0 {
			more = true
			return errEnough
		}
		f := &sensorv1.Finding{}
		if err := proto.Unmarshal(body, f); err != nil {
			return fmt.Errorf("decoding a finding: %w", err)
		}
		if disposition != "closed" {
			incident = ""
		}
		out, incidents = append(out, PastFinding{Finding: judged(f), Host: host}), append(incidents, incident)
		return nil
	}, `SELECT f.n, h.id, f.disposition, f.incident, f.body FROM findings f JOIN hosts h ON h.n = f.host
		WHERE f.time >= ? ORDER BY f.n DESC LIMIT ?`, since, most+1)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, false, err
	}
	said := make(map[string]string)
	for i, id := range incidents {
		if id == "" {
			continue
		}
		disposition, known := said[id]
		if !known {
			incident, err := db.Incident(ctx, id)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return nil, false, err
			}
			if d := incident.GetDisposition(); d == "benign" || d == "malicious" {
				disposition = d
			}
			said[id] = disposition
		}
		out[i].Disposition = disposition
	}
	return out, more, nil
}

// judged keeps what a policy reads, or people are shown beside its verdict: thousands are
// held at once.
func judged(f *sensorv1.Finding) *sensorv1.Finding {
	f.Ancestors, f.Origin, f.Lookups, f.Reason = nil, nil, nil, ""
	if p := f.GetProcess(); p != nil {
		p.Argv, p.Cwd, p.Interpreter, p.Script, p.Cgroup, p.Container = nil, nil, nil, nil, nil, ""
	}
	return f
}
