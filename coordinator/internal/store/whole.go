package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// A page whose content was changed on the disk is a whole page to SQLite, which keeps no
// checksums: its own check finds it only where it breaks the structure. The slices find it,
// but take their time, and come with entries. So the whole state is read and compared
// once when any node has started, which is when a disk's damage is met first.

// wholeCheck marks Check.Window: the rest of it is the index at which the whole state was read.
const wholeCheck = 1 << 63

// Whole says whether it is of all rows, and at which index.
func (c Check) Whole() (index uint64, whole bool) {
	return c.Window &^ wholeCheck, c.Window&wholeCheck != 0
}

// CheckWhole reads the state as it is now, beside the entries that follow: SQLite's own check
// of structure and indexes, and all rows. The caller sees to it that no entry is applied meanwhile.
// Nothing is read while the last is, nor for as long afterwards as it took.
func (db *DB) CheckWhole() error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return ErrClosed
	}
	k := &db.checks
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wholeReading || time.Now().Before(k.wholeAgain) {
		return nil
	}
	frozen, err := db.freeze()
	if err != nil {
		return fmt.Errorf("comparing the whole state: %w", err)
	}
	check := &Check{Window: wholeCheck | frozen.Index(), Tag: k.tag}
	k.done = append(k.done, check)
	k.done = k.done[max(0, len(k.done)-keptChecks):]
	k.wholeReading = true
	k.wg.Go(func() {
		began := time.Now()
		sum, err := frozen.whole(k.ctx)
		_ = frozen.Close()
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.wholeReading = false; k.ctx.Err() != nil {
			return
		}
		k.wholeAgain = time.Now().Add(time.Since(began))
		if err = damaged(err); errors.Is(err, ErrDamaged) {
			k.broken = err
		} else if err == nil {
			check.Slice = sum
		}
	})
	return nil
}

// whole is the digest of all rows, of a state whose structure and indexes are right.
func (f *Frozen) whole(ctx context.Context) ([]byte, error) {
	if err := sound(ctx, f.conn); err != nil {
		return nil, err
	}
	return readSlice(ctx, f.conn, place{}, place{})
}

// sound asks SQLite whether all pages, rows and indexes fit together.
// It takes a minute for some GiB, and ends with ctx.
func sound(ctx context.Context, c *sqlite3.SQLiteConn) error {
	rows, err := c.QueryContext(ctx, "PRAGMA integrity_check(1)", nil)
	if err != nil {
		return fmt.Errorf("checking integrity: %w", err)
	}
	verdict := ""
	err = eachRow(rows, func(v []driver.Value) error {
		verdict = asText(v[0])
		return nil
	})
	if err = errors.Join(err, rows.Close(), ctx.Err()); err != nil {
		return fmt.Errorf("checking integrity: %w", err)
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", ErrDamaged, verdict)
	}
	return nil
}

// Broken is what proves that this state is wrong, whatever other nodes hold; nil is nothing.
func (db *DB) Broken() error {
	db.checks.mu.Lock()
	defer db.checks.mu.Unlock()
	return db.checks.broken
}
