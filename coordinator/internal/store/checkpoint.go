package store

import (
	"context"
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// MaxCheckpoints bounds the stored checkpoints; the oldest go.
const MaxCheckpoints = 1000

// AuditHash is the hash of an entry of the audit, nil when there is none.
func (tx *Tx) AuditHash(index uint64) (sum []byte, err error) {
	_, err = tx.one("SELECT hash FROM audit WHERE idx = ?", func(v []val) { sum = asBlob(v[0]) }, clamp(index))
	return sum, err
}

// AddCheckpoint keeps a node's word for the audit.
func (tx *Tx) AddCheckpoint(c *raftv1.Checkpoint) error {
	body, err := encode(c)
	if err != nil {
		return fmt.Errorf("encoding checkpoint: %w", err)
	}
	if _, err := tx.exec("INSERT INTO checkpoints (idx, node, time, body) VALUES (?, ?, ?, ?)", clamp(c.GetIndex()), c.GetNode(), c.GetTime(), body); err != nil {
		return err
	}
	_, err = tx.exec("DELETE FROM checkpoints WHERE n <= (SELECT max(n) FROM checkpoints) - ?", int64(MaxCheckpoints))
	return err
}

// Checkpoints are the newest, newest first.
func (db *DB) Checkpoints(ctx context.Context, limit uint32) (out []*raftv1.Checkpoint, err error) {
	err = db.each(ctx, func(s scanner) error {
		c := &raftv1.Checkpoint{}
		out = append(out, c)
		return s.Scan(protoColumn{c})
	}, "SELECT body FROM checkpoints ORDER BY n DESC LIMIT ?", Page{Size: limit}.limit())
	return out, err
}

// AuditEnd is the last entry of the audit on this node, and the index and time of the
// newest checkpoint of a node; 0 where there is none.
func (db *DB) AuditEnd(ctx context.Context, node string) (index uint64, hash []byte, signed uint64, at int64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&index, &hash) }, "SELECT idx, hash FROM audit ORDER BY idx DESC LIMIT 1")
	if err == nil {
		err = db.each(ctx, func(s scanner) error { return s.Scan(&signed, &at) },
			"SELECT idx, time FROM checkpoints WHERE node = ? ORDER BY n DESC LIMIT 1", node)
	}
	return index, hash, signed, at, err
}
