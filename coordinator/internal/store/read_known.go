package store

import (
	"context"
	"fmt"
)

// KnowsHost is ErrNotFound unless a host has that id or name. One that was removed is
// still known: what it told stays.
func (db *DB) KnowsHost(ctx context.Context, idOrName string) error {
	known := false
	err := db.each(ctx, func(s scanner) error { return s.Scan(&known) },
		"SELECT EXISTS (SELECT 1 FROM hosts WHERE id = ?1 OR name = ?1)", idOrName)
	if err == nil && !known {
		err = fmt.Errorf("host %q: %w", idOrName, ErrNotFound)
	}
	return err
}
