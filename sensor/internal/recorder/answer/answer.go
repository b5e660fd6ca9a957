// Package answer answers a coordinator's question from the flight recorder.
//
// Invariant: who asks is not trusted. What a question may cost has bounds of this host's
// own, whatever it says: rows, bytes, time, and the pace at which records are read. What
// an answer could not say, it says.
package answer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// The most that a question may ask for.
const (
	MaxRows  = 10_000
	MaxBytes = 4 << 20
	MaxTime  = 5 * time.Minute

	// pieceBytes is where a piece is sent: small enough that a grant's answer does not wait
	// long behind it.
	pieceBytes = 32 << 10
	// restEvery is how many records are read between two looks at what that cost, and restAfter
	// how long at most: one record can cost as much as thousands, by what is asked.
	restEvery = 256
	restAfter = time.Millisecond
	// maxSeen and maxSeenBytes bound the processes that are remembered as parents.
	maxSeen      = 8192
	maxSeenBytes = 4 << 20
)

// Config is what answers are made of.
type Config struct {
	// Dir is the recorder's folder.
	Dir string
	// Process is what is known of a process now; nil when nothing is. It may be nil.
	Process func(event.ProcessKey) *event.Process
	// Rule makes a Sigma rule ready, and says which of its fields records do not tell.
	Rule func(text string) (match func(*event.Observation) bool, untold []string, err error)
	// Rest is called again and again while records are read, and waits as long as they are
	// read too fast. Slowed says whether it did. Both may be nil.
	Rest   func(context.Context) error
	Slowed func() bool
}

// Why there may be more (Answer.limited).
const (
	limitRows   = "rows"
	limitBytes  = "bytes"
	limitTime   = "time"
	limitBudget = "budget"
)

// question is one on its way.
type question struct {
	cfg    Config
	judge  func(*view) bool
	only   event.ProcessKey // the storyline that it asks for; zero: any
	send   func(*sensorv1.Answer) error
	since  time.Time
	until  time.Time
	rows   uint32 // left
	bytes  uint64 // left
	piece  *sensorv1.Answer
	filled int // bytes of the piece
	end    *sensorv1.Answer

	read    uint64
	rested  time.Time
	seen    map[event.ProcessKey]*recorder.Process
	held    int // bytes of seen, about
	losses  losses
	absence absence
	unknown bool // the parent of the record at hand was asked for in vain
}

// Run answers ask in pieces. Its error is that of ctx or send: what else goes wrong is
// part of the answer. Untouched by what ask wants, it ends within MaxTime.
func Run(ctx context.Context, cfg Config, ask *sensorv1.Ask, send func(*sensorv1.Answer) error) error {
	q := &question{cfg: cfg, send: send, piece: &sensorv1.Answer{}, end: &sensorv1.Answer{Done: true},
		seen: map[event.ProcessKey]*recorder.Process{}, rows: MaxRows, bytes: MaxBytes, rested: time.Now()}
	err := q.prepare(ask)
	if err == nil {
		err = q.answer(ctx, within(ask.GetMaxMillis()))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var lost *lostError
	switch {
	case errors.As(err, &lost):
		return lost.error
	case errors.Is(err, recorder.ErrNone):
		q.end.Error = "this host records nothing: its flight recorder is off (recorder.enabled in the sensor's configuration)"
	case errors.Is(err, fs.ErrPermission):
		q.end.Error = "the sensor may not read its own flight recorder"
	case err != nil:
		q.end.Error = err.Error()
	}
	q.end.Rows = q.piece.GetRows()
	q.end.Losses, q.end.Unwatched = q.losses.told(), q.absence.told()
	q.end.Scanned = q.read
	return send(q.end)
}

// lostError: the answer went nowhere.
type lostError struct{ error }

func within(millis uint32) time.Duration {
	if d := time.Duration(millis) * time.Millisecond; d > 0 && d < MaxTime {
		return d
	}
	return MaxTime
}

// prepare reads what is asked for.
func (q *question) prepare(ask *sensorv1.Ask) error {
	if n := ask.GetMaxRows(); n > 0 {
		q.rows = min(n, MaxRows)
	}
	if n := ask.GetMaxBytes(); n > 0 {
		q.bytes = min(n, MaxBytes)
	}
	if ns := ask.GetSince(); ns > 0 {
		q.since = time.Unix(0, ns)
	}
	if ns := ask.GetUntil(); ns > 0 {
		q.until = time.Unix(0, ns)
	}
	if !q.since.IsZero() && !q.until.IsZero() && q.until.Before(q.since) {
		return errors.New("the time asked for ends before it begins")
	}
	switch what := ask.GetWhat().(type) {
	case *sensorv1.Ask_Expression:
		e, err := hunt.Parse(what.Expression)
		if err != nil {
			return fmt.Errorf("this sensor does not understand the expression (is it older than what asked?): %w", err)
		}
		q.only = storylineOf(e.Storyline())
		m := e.Matcher()
		q.judge = func(v *view) bool { return m.Match(v) }
	case *sensorv1.Ask_Rule:
		match, untold, err := q.cfg.Rule(what.Rule)
		if err != nil {
			return fmt.Errorf("this sensor cannot use the rule: %w", err)
		}
		q.end.Untold = untold
		q.judge = func(v *view) bool {
			o := v.observation()
			return o != nil && match(o)
		}
	default:
		return errors.New("the question asks for nothing that this sensor knows: upgrade it")
	}
	return nil
}

func (q *question) answer(ctx context.Context, limit time.Duration) error {
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	reached, err := recorder.Recent(timed, q.cfg.Dir, q.since, q.until, q.wanted(timed), func(r *recorder.Record) error { return q.take(timed, r) })
	q.end.Damaged = reached.Damaged
	q.end.ReachesBack, q.end.CoveredFrom = nanos(reached.Oldest), nanos(reached.Covered)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		q.end.Limited = limitTime
		if q.cfg.Slowed != nil && q.cfg.Slowed() {
			q.end.Limited = limitBudget
		}
		return nil
	}
	return err
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// wanted says which records are looked at: nil, all of them, when the question is not about one
// storyline alone. Those that are passed over are read too, at the same pace.
func (q *question) wanted(ctx context.Context) func(event.ProcessKey) bool {
	if q.only == (event.ProcessKey{}) {
		return nil
	}
	return func(storyline event.ProcessKey) bool {
		if storyline == q.only {
			return true
		}
		q.read++
		_ = q.rest(ctx) // that ctx has ended is seen by who reads the next block
		return false
	}
}

// take looks at one record.
func (q *question) take(ctx context.Context, r *recorder.Record) error {
	q.read++
	if err := q.rest(ctx); err != nil {
		return err
	}
	if p := r.Process; p != nil && p.Described {
		q.remember(p)
	}
	// When the sensor did not run is told by its next start, which may be later.
	q.absence.take(r, q.since, q.until)
	if !q.since.IsZero() && r.Time.Before(q.since) || !q.until.IsZero() && r.Time.After(q.until) {
		return nil
	}
	if r.Type == recorder.TypeLoss {
		q.losses.take(r)
	}
	v := &view{q: q, r: r, kind: kindOf(r.Type)}
	q.unknown = false
	if !q.judge(v) {
		if q.unknown {
			q.end.ParentUnknown++
		}
		return nil
	}
	return q.found(v)
}

// rest is between two records: who asked may have gone, and what they cost is held to its pace.
func (q *question) rest(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if q.cfg.Rest == nil || q.read%restEvery != 0 && time.Since(q.rested) < restAfter {
		return nil
	}
	err := q.cfg.Rest(ctx)
	q.rested = time.Now()
	return err
}

// remember keeps a process as a parent of what is read next.
func (q *question) remember(p *recorder.Process) {
	before := q.seen[p.Key]
	if before == p {
		return
	}
	size := sizeOf(p)
	if len(q.seen) >= maxSeen || q.held+size > maxSeenBytes {
		clear(q.seen)
		q.held, before = 0, nil
	}
	if before != nil {
		q.held -= sizeOf(before)
	}
	q.seen[p.Key] = p
	q.held += size
}

// sizeOf is about what a process takes of memory.
func sizeOf(p *recorder.Process) int {
	size := 512 + len(p.Image) + len(p.User) + len(p.Cwd) + len(p.Unit) + len(p.Container) + len(p.Interpreter) + len(p.Script)
	for _, texts := range [][]string{p.Argv, p.Traits} {
		for _, s := range texts {
			size += 16 + len(s)
		}
	}
	return size
}

// found puts a record into the answer, unless there is no room.
func (q *question) found(v *view) error {
	if q.rows == 0 {
		q.end.Limited = limitRows
		return recorder.ErrStop
	}
	row := v.sighting()
	size := proto.Size(row)
	if uint64(size) > q.bytes { //nolint:gosec // a size
		q.end.Limited = limitBytes
		return recorder.ErrStop
	}
	q.rows--
	q.bytes -= uint64(size) //nolint:gosec // checked
	q.piece.Rows = append(q.piece.Rows, row)
	if q.filled += size; q.filled < pieceBytes {
		return nil
	}
	full := q.piece
	q.piece, q.filled = &sensorv1.Answer{}, 0
	if err := q.send(full); err != nil {
		return &lostError{err}
	}
	return nil
}
