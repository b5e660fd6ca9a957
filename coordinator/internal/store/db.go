package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
)

var (
	// ErrApplied is returned by Update for an index that the state already holds.
	ErrApplied = errors.New("index is already applied")
	// ErrNotFound is returned by reads of one thing that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous is returned when a host's name belongs to several hosts: use the id.
	ErrAmbiguous = errors.New("name is not unique, use the id")
	// ErrBadPage is returned for a page token that this store did not make.
	ErrBadPage = errors.New("page token is not valid")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("store is closed")
	// ErrFull is returned by Update when the disk is full: nothing was written, and
	// the same entry may be applied again when there is room.
	ErrFull = errors.New("disk is full")
	// ErrDamaged is returned by Open for a file that is no whole database any more.
	ErrDamaged = errors.New("state is damaged")
	// ErrSnapshot is returned for a snapshot that is torn, changed or not one.
	ErrSnapshot = errors.New("snapshot is damaged")
	// ErrNewer is returned for a snapshot that a later release has written.
	ErrNewer = errors.New("snapshot is of a newer release: upgrade this node's vedette-coordinator")
)

// minSQLite is the first release without the WAL-reset corruption of 3.51.2
// (https://sqlite.org/releaselog/3_51_3.html).
const minSQLite = 3051003

// readers bounds the connections of the pool: SQLite readers are processor-bound.
const readers = 4

// DB is the state of one node. Its methods may be called from any goroutine.
type DB struct {
	path   string
	logger *slog.Logger

	// mu is held for reading by everything that uses the connections, and for
	// writing by Restore and Close, which replace them.
	mu     sync.RWMutex
	closed bool
	pool   *sql.DB

	// writing serialises Update, Snapshot's start and Restore.
	writing sync.Mutex
	writer  *sqlite3.SQLiteConn
	stmts   map[string]statement
	bulks   map[bulkKey]*sqlite3.SQLiteStmt
	args    []driver.NamedValue // of the statement that runs, see Tx.named
	hot     hot
	chain   chain
	checks  checks
	// partitions are the statements that add to history, by table.
	partitions map[string]*bulk

	// ending ends, by Interrupt, what reads or writes a whole state.
	ending context.Context
	end    context.CancelFunc

	applied atomic.Uint64
	// reached is closed and replaced whenever applied grows.
	waiting sync.Mutex
	reached chan struct{}
}

// Open opens the state at path, or makes it. The directory must exist.
func Open(ctx context.Context, path string, logger *slog.Logger) (*DB, error) {
	version, number, _ := sqlite3.Version()
	if err := checkVersion(version, number); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("resolving state path: %w", err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	// A temporary file of a restore or snapshot that a crash interrupted.
	for _, pattern := range []string{path + ".restore-*", path + ".snapshot-*"} {
		left, _ := filepath.Glob(pattern)
		for _, name := range left {
			_ = os.Remove(name)
		}
	}
	db := &DB{path: path, logger: logger, reached: make(chan struct{})}
	db.ending, db.end = context.WithCancel(context.Background())
	if err := db.connect(ctx); err != nil {
		db.end()
		return nil, damaged(err)
	}
	if info, err := os.Stat(path); err == nil && info.Size() <= maxChecked {
		pragma := "PRAGMA quick_check(1)"
		if info.Size() <= maxSounded {
			pragma = "PRAGMA integrity_check(1)"
		}
		if err := db.check(ctx, pragma); err != nil {
			return nil, errors.Join(damaged(err), db.Close())
		}
	}
	return db, nil
}

// maxChecked bounds what Open reads to see whether a state is whole, maxSounded whether its
// indexes say what its rows do, which takes ten times as long: above, a start would take seconds,
// and damage shows when the whole state is compared (CheckWhole).
const (
	maxChecked = 1 << 30
	maxSounded = 64 << 20
)

// check finds pages that are not what they should be. What a page says cannot be
// checked: SQLite keeps no checksums.
func (db *DB) check(ctx context.Context, pragma string) error {
	var found string
	if err := db.each(ctx, func(s scanner) error { return s.Scan(&found) }, pragma); err != nil {
		return fmt.Errorf("checking state %s: %w", db.path, err)
	}
	if found != "ok" {
		return fmt.Errorf("%w: %s: %s", ErrDamaged, db.path, found)
	}
	return nil
}

// damaged makes SQLite's words for it ErrDamaged.
func damaged(err error) error {
	var se sqlite3.Error
	if errors.As(err, &se) && (se.Code == sqlite3.ErrCorrupt || se.Code == sqlite3.ErrNotADB) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// SetAside moves a damaged state to PATH.damaged, in the place of an earlier one,
// so that Open makes an empty one.
func SetAside(path string) (kept string, err error) {
	kept = path + ".damaged"
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if rerr := os.Rename(path+suffix, kept+suffix); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("setting the damaged state aside: %w", rerr))
		}
		failpoint.Hit("aside.renamed")
	}
	return kept, errors.Join(err, syncDir(path))
}

func checkVersion(version string, number int) error {
	if number < minSQLite {
		return fmt.Errorf("SQLite %s is linked, which can corrupt a WAL database: build with 3.51.3 or later (go-sqlite3 v1.14.53)", version)
	}
	return nil
}

func dsn(path, query string) string {
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query}).String()
}

func openConn(path, query string) (*sqlite3.SQLiteConn, error) {
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn(path, query))
	if err != nil {
		return nil, err
	}
	return c.(*sqlite3.SQLiteConn), nil
}

// writerOptions: no lock of SQLite's own, as db.writing is one.
const writerOptions = "_journal_mode=WAL&_synchronous=NORMAL&_busy_timeout=5000&_cache_size=-8192&_mutex=no"

// readerOptions: a page that is not in a reader's cache is most often in the system's, a copy
// away. Four caches of SQLite's usual 2 MB cost a node as much as a hundred sessions. A sensor
// that connects is a dozen small reads, of which parsing is the larger part: they stay prepared.
// No lock of SQLite's own here either: the pool gives a connection to one goroutine at a time.
const readerOptions = "_query_only=true&_busy_timeout=5000&_cache_size=-512&_stmt_cache_size=40&_mutex=no"

// The WAL may grow to 4,096 pages (16 MiB) before a checkpoint: an fsync each 1,000 pages
// is what would limit the writer.
var writerPragmas = []string{"PRAGMA wal_autocheckpoint=4096", "PRAGMA temp_store=MEMORY"}

// connect opens writer and pool; the caller holds mu, or is the only one to know db.
func (db *DB) connect(ctx context.Context) error {
	writer, err := openConn(db.path, writerOptions)
	if err != nil {
		return fmt.Errorf("opening state %s: %w", db.path, err)
	}
	for _, q := range writerPragmas {
		if _, err := writer.Exec(q, nil); err != nil {
			_ = writer.Close()
			return fmt.Errorf("configuring state %s: %w", db.path, err)
		}
	}
	if err := migrate(writer); err != nil {
		_ = writer.Close()
		return fmt.Errorf("migrating state %s: %w", db.path, err)
	}
	applied, err := readApplied(writer)
	if err != nil {
		_ = writer.Close()
		return fmt.Errorf("reading applied index of %s: %w", db.path, err)
	}
	pool, err := sql.Open("sqlite3", dsn(db.path, readerOptions))
	if err == nil {
		pool.SetMaxOpenConns(readers)
		pool.SetMaxIdleConns(readers)
		err = pool.PingContext(ctx)
	}
	if err != nil {
		_ = writer.Close()
		return fmt.Errorf("opening readers of %s: %w", db.path, err)
	}
	db.writer, db.pool = writer, pool
	db.stmts, db.bulks, db.hot = make(map[string]statement), make(map[bulkKey]*sqlite3.SQLiteStmt), newHot()
	db.partitions = make(map[string]*bulk)
	db.setApplied(applied)
	db.checks.begin(db.ending)
	return db.checks.read(writer)
}

// disconnect is connect's inverse; it leaves the file alone, without a WAL.
func (db *DB) disconnect() error {
	err := db.pool.Close()
	for _, s := range db.stmts {
		err = errors.Join(err, s.Close())
	}
	for _, s := range db.bulks {
		err = errors.Join(err, s.Close())
	}
	db.stmts, db.bulks = nil, nil
	return errors.Join(err, db.writer.Close())
}

func (db *DB) setApplied(index uint64) {
	db.applied.Store(index)
	db.waiting.Lock()
	close(db.reached)
	db.reached = make(chan struct{})
	db.waiting.Unlock()
}

// AppliedIndex is the index of the last entry whose transaction has committed.
func (db *DB) AppliedIndex() uint64 { return db.applied.Load() }

// WaitApplied returns when entry index is applied.
func (db *DB) WaitApplied(ctx context.Context, index uint64) error {
	for {
		db.waiting.Lock()
		reached := db.reached
		db.waiting.Unlock()
		if db.applied.Load() >= index {
			return nil
		}
		select {
		case <-reached:
		case <-ctx.Done():
			return fmt.Errorf("waiting for index %d, applied is %d: %w", index, db.applied.Load(), ctx.Err())
		}
	}
}

// Update applies the log entry index: it runs fn in one transaction and writes
// the index in the same one. When fn fails, nothing of it remains. An index that
// was applied before is ErrApplied, and fn is not called.
func (db *DB) Update(index uint64, fn func(*Tx) error) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return ErrClosed
	}
	db.writing.Lock()
	defer db.writing.Unlock()
	if index <= db.applied.Load() {
		return ErrApplied
	}
	closing := db.closeWindow(index)
	tx := &Tx{db: db}
	if _, err := tx.exec("BEGIN IMMEDIATE"); err != nil {
		closing.drop()
		return fmt.Errorf("beginning entry %d: %w", index, full(err))
	}
	db.chain.begin(db.chainOf(closing), index)
	err := closing.advance(tx)
	if err == nil {
		err = fn(tx)
	}
	if err == nil {
		err = tx.settle()
	}
	if err == nil {
		err = tx.writeTallies()
	}
	chained := db.chain.end()
	if err == nil {
		_, err = tx.run("UPDATE applied SET idx = ?, chain = ?, tag = ?", int64(index), blob(chained), db.checks.tag)
	}
	if err == nil {
		failpoint.Hit("commit.before")
		_, err = tx.exec("COMMIT")
		failpoint.Hit("commit.after")
	}
	if err != nil {
		closing.drop()
		db.hot = newHot()
		// SQLite may have rolled back by itself (a full disk): then this is an error that says nothing.
		if !db.writer.AutoCommit() {
			if _, rerr := tx.run("ROLLBACK"); rerr != nil {
				err = errors.Join(err, fmt.Errorf("rolling back: %w", rerr))
			}
		}
		return fmt.Errorf("applying entry %d: %w", index, full(err))
	}
	db.checks.chain = chained
	closing.start()
	db.setApplied(index)
	return nil
}

func full(err error) error {
	var se sqlite3.Error
	if errors.As(err, &se) && se.Code == sqlite3.ErrFull {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// Close ends every use. It is idempotent.
func (db *DB) Close() error {
	db.Interrupt()
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	db.checks.end()
	return db.disconnect()
}

// Interrupt ends what takes long for a large state, a snapshot written or staged and the
// rows being compared, and lets none begin: a node that stops has some seconds. What is
// short goes on until Close.
func (db *DB) Interrupt() { db.end() }

// Tx is one log entry's transaction. It is used by one goroutine, inside Update.
type Tx struct {
	db *DB
	// Time is the command's, Unix ns: state says it, as a transaction has no clock.
	Time    int64
	later   later
	tallies map[int64]*Tally
}

// steady keeps SQLite from compiling a prepared statement anew at every use. It looks
// at a parameter behind "=" when it plans, notes that another value might be planned
// otherwise, and compiles again when the driver clears the old values, whatever the
// new ones are: 20 to 40 µs instead of one. Behind a unary plus, which is no
// operation on any type, it does not look.
func steady(q string) string { return strings.ReplaceAll(q, "= ?", "= +?") }

// statement is a prepared one; it settles first when it meets what is written later.
type statement struct {
	*sqlite3.SQLiteStmt
	settles bool
	mark    int64 // what the chain calls it; 0: it changes no row
}

func (tx *Tx) prepare(q string) (*sqlite3.SQLiteStmt, error) {
	ds, err := tx.db.writer.Prepare(steady(q))
	if err != nil {
		return nil, fmt.Errorf("preparing %q: %w", q, err)
	}
	return ds.(*sqlite3.SQLiteStmt), nil
}

func (tx *Tx) stmt(q string) (statement, error) {
	if s, ok := tx.db.stmts[q]; ok {
		return s, nil
	}
	ds, err := tx.prepare(q)
	if err != nil {
		return statement{}, err
	}
	s := statement{ds, late.MatchString(q), markOf(q)}
	tx.db.stmts[q] = s
	return s, nil
}

// settled is a statement that may be run: what it would miss is written.
func (tx *Tx) settled(q string) (statement, error) {
	s, err := tx.stmt(q)
	if err == nil && s.settles {
		err = tx.settle()
	}
	return s, err
}

// exec runs q and returns how many rows it changed. The driver is used directly:
// database/sql would cost about as much as SQLite does for a narrow row.
func (tx *Tx) exec(q string, args ...driver.Value) (int64, error) {
	s, err := tx.settled(q)
	if err != nil {
		return 0, err
	}
	n, err := tx.change(s, args)
	tx.noteStatement(s.mark, args, n)
	return n, err
}

// unnoted is exec for a write that its caller has noted.
func (tx *Tx) unnoted(q string, args ...driver.Value) (int64, error) {
	s, err := tx.settled(q)
	if err != nil {
		return 0, err
	}
	return tx.change(s, args)
}

// run is exec before anything that is left for later.
func (tx *Tx) run(q string, args ...driver.Value) (int64, error) {
	s, err := tx.stmt(q)
	if err != nil {
		return 0, err
	}
	return tx.change(s, args)
}

func (tx *Tx) change(s statement, args []driver.Value) (int64, error) {
	r, err := s.ExecContext(unending, tx.named(args))
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// unending is the context of what a transaction does: the driver has nothing to watch.
var unending = context.Background()

// named are arguments as the driver takes them. It would make such a list for each statement,
// a sixth of all that a node allocates while sensors report, and has bound them when it returns.
func (tx *Tx) named(args []driver.Value) []driver.NamedValue {
	list := tx.db.args[:0]
	for i, v := range args {
		list = append(list, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	tx.db.args = list
	return list
}

// rows calls each for every row of q; the values are only valid during the call.
func (tx *Tx) rows(q string, each func([]driver.Value) error, args ...driver.Value) (err error) {
	s, err := tx.settled(q)
	if err != nil {
		return err
	}
	tx.noteStatement(s.mark, args, 0)
	rows, err := s.QueryContext(unending, tx.named(args))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	return eachRow(rows, each)
}

// one reads the first row of q and says whether there was one.
func (tx *Tx) one(q string, get func([]driver.Value), args ...driver.Value) (bool, error) {
	found := false
	err := tx.rows(q, func(v []driver.Value) error {
		if !found {
			found = true
			get(v)
		}
		return nil
	}, args...)
	return found, err
}
