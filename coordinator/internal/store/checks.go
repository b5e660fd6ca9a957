package store

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// Nodes compare what they hold once in a window of so many log indexes, when the first
// entry behind it is applied: the chain of what the window's entries wrote, which
// tells of logic that differs, and a slice of the stored rows, which tells of rows that
// are not what was written (a bad disk, a bad restore, a hand). The slices go round: where the
// next one begins is in the state, and so the same on every node, over restarts and
// snapshots too. A new window begins a new chain, so that a window in which nodes ran different
// programs is not held against those after it.
const (
	// CheckEvery is the window, in log indexes.
	CheckEvery = 1000
	// SliceRows is how many rows a slice has.
	SliceRows = 8192
	// keptChecks is how many windows a node can still be asked about.
	keptChecks = 32
)

// Check is what a node holds at the end of a window.
type Check struct {
	Window uint64 // the indexes from Window*CheckEvery up to the next one's; or see Whole
	// Tag is the program that wrote: checks of different ones cannot be compared.
	Tag string
	// Chain is empty when the window was not written by this program alone; Slice while the
	// rows are still read, and when the slice before it took too long.
	Chain, Slice []byte
}

// checks is the writer's part of it; but for done it is guarded by DB.writing.
type checks struct {
	tag   string
	every uint64 // 0: CheckEvery
	rows  int64  // 0: SliceRows
	chain []byte // up to the applied index; nil: this window cannot be compared

	mu      sync.Mutex // guards what follows
	done    []*Check   // oldest first
	reading bool
	failed  error
	// wholeReading and wholeAgain are CheckWhole's; broken is what it, or a slice, found.
	wholeReading bool
	wholeAgain   time.Time
	broken       error

	// reading goes on in wg until ctx ends.
	wg   sync.WaitGroup
	ctx  context.Context
	stop context.CancelFunc
}

func (k *checks) begin(ctx context.Context) { k.ctx, k.stop = context.WithCancel(ctx) }

// end returns when nothing is being read any more: what was is not compared.
func (k *checks) end() {
	k.stop()
	k.wg.Wait()
}

// Tag says which program this is: nodes with the same one store the same bytes for the
// same entry. It is to be called before the first entry; every and rows are for tests,
// and 0 elsewhere.
func (db *DB) Tag(tag string, every uint64, rows int64) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return ErrClosed
	}
	db.writing.Lock()
	defer db.writing.Unlock()
	db.checks.tag, db.checks.every, db.checks.rows = tag, every, rows
	return db.checks.read(db.writer)
}

// read takes the chain up from the state.
func (k *checks) read(c *sqlite3.SQLiteConn) error {
	k.chain = nil
	k.mu.Lock()
	k.done, k.broken = nil, nil
	k.mu.Unlock()
	return query(c, "SELECT idx, chain, tag FROM applied", func(v []driver.Value) error {
		switch {
		case asInt(v[0]) == 0:
			k.chain = genesis(k.tag, 0)
		case asText(v[2]) == k.tag && len(asBlob(v[1])) > 0:
			k.chain = asBlob(v[1])
		}
		return nil
	})
}

// genesis begins a window's chain.
func genesis(tag string, window uint64) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "vedette-chain-v1 %q %d", tag, window))
	return sum[:]
}

func (db *DB) window(index uint64) uint64 {
	if db.checks.every == 0 {
		return index / CheckEvery
	}
	return index / db.checks.every
}

// Checks are the newest windows that this node has closed, oldest first.
func (db *DB) Checks() []Check {
	k := &db.checks
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Check, len(k.done))
	for i, c := range k.done {
		out[i] = *c
	}
	return out
}

// CheckError is why slices could not be read, nil when they are.
func (db *DB) CheckError() error {
	db.checks.mu.Lock()
	defer db.checks.mu.Unlock()
	return db.checks.failed
}

// closing is a window that the entry being applied closes; nil when it closes none.
type closing struct {
	db       *DB
	check    *Check
	next     uint64  // the window that begins
	frozen   *Frozen // nil: the slice is not read
	from, to place
}

// closeWindow pins the state between the last entry of a window and the first behind it.
func (db *DB) closeWindow(index uint64) *closing {
	applied := db.applied.Load()
	last, next := db.window(applied), db.window(index)
	if next == last || applied == 0 {
		if applied == 0 {
			db.checks.chain = genesis(db.checks.tag, next)
		}
		return nil
	}
	c := &closing{db: db, next: next, check: &Check{Window: last, Tag: db.checks.tag, Chain: db.checks.chain}}
	k := &db.checks
	k.mu.Lock()
	reading := k.reading
	k.mu.Unlock()
	if reading {
		db.logger.Warn("the rows of a window are not compared: those of one before are still being read", "window", last)
		return c
	}
	frozen, err := db.freeze()
	if err != nil {
		db.logger.Warn("the rows of a window are not compared", "window", last, "error", err)
		return c
	}
	c.frozen = frozen
	return c
}

func (db *DB) chainOf(c *closing) []byte {
	if c != nil {
		return genesis(db.checks.tag, c.next)
	}
	return db.checks.chain
}

// drop forgets it: the entry failed.
func (c *closing) drop() {
	if c != nil && c.frozen != nil {
		_ = c.frozen.Close()
	}
}

// advance moves the place of the next slice in the entry's transaction.
func (c *closing) advance(tx *Tx) (err error) {
	if c == nil {
		return nil
	}
	if _, err := tx.one("SELECT tbl, key FROM slice", func(v []val) { c.from = place{asText(v[0]), asBlob(v[1])} }); err != nil {
		return err
	}
	rows := c.db.checks.rows
	if rows == 0 {
		rows = SliceRows
	}
	if c.to, err = sliceEnd(tx.db.writer, c.from, rows); err != nil {
		return fmt.Errorf("finding the end of a slice: %w", err)
	}
	_, err = tx.run("UPDATE slice SET tbl = ?, key = ?", c.to.table, blob(c.to.key))
	return err
}

// start reads the slice beside the entries that follow.
func (c *closing) start() {
	if c == nil {
		return
	}
	k := &c.db.checks
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done = append(k.done, c.check)
	k.done = k.done[max(0, len(k.done)-keptChecks):]
	if c.frozen == nil {
		return
	}
	k.reading = true
	k.wg.Go(func() {
		sum, err := readSlice(k.ctx, c.frozen.conn, c.from, c.to)
		_ = c.frozen.Close()
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.reading = false; k.ctx.Err() != nil {
			return
		}
		k.failed = damaged(err)
		if errors.Is(k.failed, ErrDamaged) {
			k.broken = k.failed
		}
		if err == nil {
			c.check.Slice = sum
		}
	})
}

// place is behind a key of a table; the zero place is before everything, and behind it.
type place struct {
	table string
	key   []byte
}

// tables are those whose rows are compared, and their keys. What a comparison itself
// writes is left out: it says which program wrote.
func tables(c *sqlite3.SQLiteConn) (names []string, keys map[string][]string, err error) {
	keys = make(map[string][]string)
	err = query(c, `SELECT s.name, p.name FROM sqlite_schema s JOIN pragma_table_info(s.name) p ON p.pk > 0
		WHERE s.type = 'table' AND s.name NOT LIKE 'sqlite_%' AND s.name NOT IN ('applied', 'slice') ORDER BY s.name, p.pk`,
		func(v []driver.Value) error {
			name := asText(v[0])
			if _, known := keys[name]; !known {
				names = append(names, name)
			}
			keys[name] = append(keys[name], `"`+asText(v[1])+`"`)
			return nil
		})
	return names, keys, err
}

// between is the condition for the rows behind one place and up to another of a table, and its values.
func between(table string, keys []string, from, to place) (where string, args []val, err error) {
	columns := "(" + strings.Join(keys, ", ") + ")"
	marks := "(" + strings.TrimSuffix(strings.Repeat("?, ", len(keys)), ", ") + ")"
	for _, end := range []struct {
		place
		is string
	}{{from, " > "}, {to, " <= "}} {
		if end.table != table || len(end.key) == 0 {
			continue
		}
		where += " AND " + columns + end.is + marks
		for rest := end.key; len(rest) > 0; {
			var v val
			if v, rest, err = cutValue(rest); err != nil {
				return "", nil, err
			}
			args = append(args, v)
		}
	}
	if where == "" {
		return "", nil, nil
	}
	if marks := strings.Count(where, "?"); marks != len(args) {
		return "", nil, fmt.Errorf("%w: the place of the next comparison in %s has %d values, not %d", ErrDamaged, table, len(args), marks)
	}
	return " WHERE " + strings.TrimPrefix(where, " AND "), args, nil
}

// sliceEnd is the place that many rows further, or the end.
func sliceEnd(c *sqlite3.SQLiteConn, from place, rows int64) (place, error) {
	names, keys, err := tables(c)
	if err != nil {
		return place{}, err
	}
	for _, name := range names {
		if name < from.table {
			continue
		}
		by := strings.Join(keys[name], ", ")
		where, args, err := between(name, keys[name], from, place{})
		if err != nil {
			return place{}, err
		}
		var end *place
		one := func(v []driver.Value) error {
			end = &place{table: name}
			for _, part := range v {
				end.key = appendValue(end.key, part)
			}
			return nil
		}
		if err := queryWith(c, fmt.Sprintf(`SELECT %s FROM "%s"%s ORDER BY %s LIMIT 1 OFFSET %d`, by, name, where, by, rows-1), args, one); err != nil || end != nil {
			if err != nil {
				return place{}, err
			}
			return *end, nil
		}
		if err := queryWith(c, fmt.Sprintf(`SELECT count(*) FROM "%s"%s`, name, where), args, func(v []driver.Value) error {
			rows -= asInt(v[0])
			return nil
		}); err != nil {
			return place{}, err
		}
	}
	return place{}, nil
}

// readSlice is the digest of the rows behind one place and up to another.
func readSlice(ctx context.Context, c *sqlite3.SQLiteConn, from, to place) ([]byte, error) {
	names, keys, err := tables(c)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	buf := fmt.Appendf(make([]byte, 0, chainBuffer), "%q %x %q %x", from.table, from.key, to.table, to.key)
	for _, name := range names {
		if name < from.table || to.table != "" && name > to.table {
			continue
		}
		where, args, err := between(name, keys[name], from, to)
		if err != nil {
			return nil, err
		}
		buf = fmt.Appendf(buf, "%q", name)
		if err := queryWith(c, fmt.Sprintf(`SELECT * FROM "%s"%s ORDER BY %s`, name, where, strings.Join(keys[name], ", ")), args, func(v []driver.Value) error {
			for _, part := range v {
				buf = appendValue(buf, part)
			}
			buf = drain(sum, buf)
			return ctx.Err()
		}); err != nil {
			return nil, err
		}
	}
	_, _ = sum.Write(buf)
	return sum.Sum(nil), nil
}

func drain(sum hash.Hash, buf []byte) []byte {
	if len(buf) < chainBuffer/2 {
		return buf
	}
	_, _ = sum.Write(buf)
	return buf[:0]
}
