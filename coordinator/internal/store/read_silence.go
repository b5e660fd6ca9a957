package store

import "context"

// Unheard is a host whose session has ended otherwise than by a goodbye, and of whom
// no silence was told yet.
type Unheard struct {
	Host, Name, Address, Node string
	Session                   uint64
	How, Detail               string
	Heard, EndedAt            int64 // Unix ns, both by the node's clock
}

// Unheard lists them in the order in which they were heard last, at most limit.
func (db *DB) Unheard(ctx context.Context, limit int) (out []Unheard, err error) {
	err = db.each(ctx, func(s scanner) error {
		var u Unheard
		err := s.Scan(&u.Host, &u.Name, &u.Address, &u.Node, &u.Session, &u.How, &u.Detail, &u.Heard, &u.EndedAt)
		out = append(out, u)
		return err
	}, `SELECT id, name, address, node, session, ended, ended_detail, heard, ended_at FROM hosts
		WHERE connected = 0 AND silence = '' AND ended NOT IN ('', 'stopped') AND removed = 0 ORDER BY heard, n LIMIT ?`, limit)
	return out, err
}

// SessionNodes are the nodes that hosts have sessions with, as far as the log knows.
func (db *DB) SessionNodes(ctx context.Context) (out []string, err error) {
	err = db.each(ctx, func(s scanner) error {
		var node string
		err := s.Scan(&node)
		out = append(out, node)
		return err
	}, "SELECT DISTINCT node FROM hosts WHERE connected = 1 ORDER BY node")
	return out, err
}

// SessionsAt are the hosts that have their session at a node, as far as the log knows, and its number.
func (db *DB) SessionsAt(ctx context.Context, node string) (map[string]uint64, error) {
	out := make(map[string]uint64)
	err := db.each(ctx, func(s scanner) error {
		var host string
		var number uint64
		err := s.Scan(&host, &number)
		out[host] = number
		return err
	}, "SELECT id, session FROM hosts WHERE connected = 1 AND node = ?", node)
	return out, err
}

// ReturnOf is the finding that a host's return at this time (the command's) made; empty when none.
func (db *DB) ReturnOf(ctx context.Context, host string, at int64) (id string, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&id) },
		`SELECT id FROM findings WHERE host = (SELECT n FROM hosts WHERE id = ?) AND stored_at = ? AND id GLOB 'ret-*' LIMIT 1`, host, at)
	return id, err
}
