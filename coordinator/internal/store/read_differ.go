package store

import (
	"context"
	"math"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// NodeDiffered is the audit's word for a node that did not hold what the majority holds, and took
// the state over from one of them.
const NodeDiffered = "node-differed"

// Differences are the newest entries of the audit about such nodes, after one of them and since a time
// (Unix ns), oldest first; at most DefaultPage.
func (db *DB) Differences(ctx context.Context, after uint64, since int64) (out []*operatorv1.AuditEntry, err error) {
	err = db.each(ctx, func(s scanner) error {
		e := &operatorv1.AuditEntry{}
		out = append([]*operatorv1.AuditEntry{e}, out...)
		return s.Scan(&e.Index, &e.Time, &e.Actor, &e.Action, &e.Subject, &e.Detail)
	}, "SELECT idx, time, actor, action, subject, detail FROM audit WHERE action = 'node-differed' AND idx > ? AND time >= ? ORDER BY idx DESC LIMIT ?",
		int64(min(after, math.MaxInt64)), since, DefaultPage)
	return out, err
}
