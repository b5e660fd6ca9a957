package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// described is what the fleet knows of a behaviour.
type described struct {
	kind            sensorv1.BehaviourKind
	subject, object []byte
	hosts           uint64
}

// sightings are a host's, in the order of their keys, and what the fleet knows of those
// that choose keeps, by key.
func (db *DB) sightings(ctx context.Context, host string, choose func([]sighting) []sighting) (kept []sighting, known map[string]described, err error) {
	err = db.read(func(pool *sql.DB) error {
		tx, err := pool.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return fmt.Errorf("beginning a read: %w", err)
		}
		defer func() { _ = tx.Rollback() }()
		var n int64
		if err := tx.QueryRowContext(ctx, steady("SELECT n FROM hosts WHERE id = ?"), host).Scan(&n); errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading state: %w", err)
		}
		all, err := shelves(ctx, tx, n)
		if err != nil {
			return fmt.Errorf("reading state: %w", err)
		}
		kept = choose(all)
		if known, err = describedOf(ctx, tx, kept); err != nil {
			return fmt.Errorf("reading state: %w", err)
		}
		return nil
	})
	return kept, known, err
}

func shelves(ctx context.Context, tx *sql.Tx, host int64) (all []sighting, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT body FROM sightings WHERE n BETWEEN ? AND ? ORDER BY n", shelfRow(host, 0), shelfRow(host+1, 0)-1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		for len(body) > 0 {
			var s sighting
			if s, body, err = next(body); err != nil {
				return nil, err
			}
			all = append(all, s)
		}
	}
	return all, rows.Err()
}

func describedOf(ctx context.Context, tx *sql.Tx, all []sighting) (known map[string]described, err error) {
	keys := make([]string, len(all))
	for i, s := range all {
		keys[i] = hex.EncodeToString(s.key())
	}
	list, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, "SELECT key, kind, subject, object, hosts FROM behaviours WHERE key IN (SELECT unhex(value) FROM json_each(?))", string(list))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	known = make(map[string]described, len(all))
	for rows.Next() {
		var key []byte
		var d described
		if err := rows.Scan(&key, &d.kind, &d.subject, &d.object, &d.hosts); err != nil {
			return nil, err
		}
		known[string(key)] = d
	}
	return known, rows.Err()
}

// Behaviours are a host's, the newest first, at most limit (bounded by MaxPage).
func (db *DB) Behaviours(ctx context.Context, host string, limit uint32) (out []*operatorv1.BehaviourRow, err error) {
	kept, known, err := db.sightings(ctx, host, func(all []sighting) []sighting {
		slices.SortStableFunc(all, func(a, b sighting) int { return cmp.Compare(b.first(), a.first()) })
		return all[:min(len(all), Page{Size: limit}.limit())]
	})
	for _, s := range kept {
		d := known[string(s.key())]
		out = append(out, &operatorv1.BehaviourRow{Behaviour: &sensorv1.Behaviour{Key: s.key(), Kind: d.kind, Subject: blob(d.subject), Object: blob(d.object), FirstSeen: s.first()},
			Count: uint64(s.count()), LastSeen: s.last(), Known: s.known(), Hosts: d.hosts, Host: host})
	}
	return out, err
}

// Service is what a host's programs accept connections for, and from whom.
type Service struct {
	Subject, Object string // of the behaviour: the program; "in tcp 10.0.0.7 5432"
	Count           uint64
	LastSeen        int64
}

// Services are a host's inbound flow behaviours, the most used first.
func (db *DB) Services(ctx context.Context, host string, limit int) (out []Service, err error) {
	kept, known, err := db.sightings(ctx, host, func(all []sighting) []sighting { return all })
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(kept, func(a, b sighting) int { return cmp.Compare(b.count(), a.count()) })
	for _, s := range kept {
		d := known[string(s.key())]
		if d.kind == sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW && bytes.HasPrefix(d.object, []byte("in ")) && len(out) < limit {
			out = append(out, Service{string(d.subject), string(d.object), uint64(s.count()), s.last()})
		}
	}
	return out, nil
}
