package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Why a host does not answer. Ask's errors are one of these, or of each, or ctx's.
var (
	// ErrAway: it has no session at this node.
	ErrAway = errors.New("the host has no session: it is off, or cut off from the cluster")
	// ErrOldSensor: its sensor knows no questions.
	ErrOldSensor = errors.New("its sensor does not answer questions: upgrade it")
	// ErrLate: it has not answered within the time that the question gave it, and some more.
	ErrLate = errors.New("it did not answer in time")
	// ErrEnded: its session ended before the answer did.
	ErrEnded = errors.New("its session ended before it had answered")
	// ErrNoRoom: this node holds more answers than it has room for, because nobody takes them.
	ErrNoRoom = errors.New("the node has no room for its answer: hunt on fewer hosts at once, or for less")
)

const (
	// answerGrace is how much longer than the question says a sensor may take: it has one
	// question at a time, and its own clock.
	answerGrace = 5 * time.Second
	// maxAnswerTime is when the question says nothing.
	maxAnswerTime = 5 * time.Minute
	// maxPiece is more than a sensor puts into one message: 32 KiB and one row.
	maxPiece = 512 << 10
	// leastPiece is what a piece counts at least: in memory it is more than on the wire.
	leastPiece = 1 << 10
	// maxEmpty is how many pieces of an answer may say nothing.
	maxEmpty = 64
	// maxAnswers bounds all answers that wait at this node, in bytes.
	maxAnswers = 64 << 20
	// maxLate is how many pieces may come for questions that nobody waits for any more: as
	// many as a whole answer has.
	maxLate = 256
	// The lists and texts of an answer's end.
	maxTold = 64
	maxSaid = 2 << 10
	// maxRowsAsked and maxBytesAsked are a sensor's own limits (see sensor/DESIGN.md): it may
	// not send more than them, whatever it was asked.
	maxRowsAsked  = 10_000
	maxBytesAsked = 4 << 20
)

// questions are those that one session's sensor has been asked; made with the first one.
type questions struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*question
	late int
	over bool
}

// question is one that somebody waits for.
type question struct {
	pieces chan struct{} // something is in queue
	rows   uint64        // that it may still send
	bytes  uint64

	mu    sync.Mutex
	queue []*sensorv1.Answer
	held  int64 // bytes of queue
	err   error
	done  bool // the last piece came, or err is set
	empty int  // pieces that said nothing
}

// answerRoom is what the node has for answers.
type answerRoom struct {
	mu   sync.Mutex
	held int64
}

func (r *answerRoom) take(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held+n > maxAnswers {
		return false
	}
	r.held += n
	return true
}

func (r *answerRoom) give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held -= n
}

// Ask puts a question to a host whose session is here, and hands on the answer piece by
// piece; the last one has Done set. It returns when that was handed on, when each fails,
// or with the reason why there is no answer.
func (s *Server) Ask(ctx context.Context, host string, ask *sensorv1.Ask, each func(*sensorv1.Answer) error) error {
	n := s.session(host)
	if n == nil {
		return ErrAway
	}
	if n.answers == 0 {
		return ErrOldSensor
	}
	within := maxAnswerTime
	if d := time.Duration(ask.GetMaxMillis()) * time.Millisecond; d > 0 && d < within {
		within = d
	}
	late := time.NewTimer(within + answerGrace)
	defer late.Stop()
	id, q := n.ask(ask)
	if q == nil {
		return ErrEnded
	}
	defer func() {
		if n.forget(id, q) {
			n.send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Question{Question: &sensorv1.Question{
				Id: id, Body: &sensorv1.Question_Cancel{Cancel: true}}}})
		}
		s.room.give(q.drop())
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("%w (%s)", ErrLate, within+answerGrace)
		case <-q.pieces:
		}
		for {
			piece, size, err := q.take()
			if piece == nil {
				if err != nil {
					return err
				}
				break
			}
			s.room.give(size)
			if err := each(piece); err != nil || piece.GetDone() {
				return err
			}
		}
	}
}

// ask sends a question; nil when the session is ending.
func (n *session) ask(ask *sensorv1.Ask) (uint64, *question) {
	all := n.questions()
	q := &question{pieces: make(chan struct{}, 1), rows: maxRowsAsked, bytes: maxBytesAsked}
	if r := ask.GetMaxRows(); r > 0 {
		q.rows = min(uint64(r), maxRowsAsked)
	}
	if b := ask.GetMaxBytes(); b > 0 {
		q.bytes = min(b, maxBytesAsked)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.over {
		return 0, nil
	}
	all.last++
	all.late = 0
	all.open[all.last] = q
	// Under the lock: ids must leave in their order.
	n.send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Question{Question: &sensorv1.Question{
		Id: all.last, Body: &sensorv1.Question_Ask{Ask: ask}}}})
	return all.last, q
}

func (n *session) questions() *questions {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked == nil {
		n.asked = &questions{open: map[uint64]*question{}, over: n.over}
	}
	return n.asked
}

// forget says whether the sensor may still be answering.
func (n *session) forget(id uint64, q *question) bool {
	all := n.questions()
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.open, id)
	q.mu.Lock()
	defer q.mu.Unlock()
	return (!q.done || q.err != nil) && !all.over
}

// answer takes a piece that the sensor sent, and never waits. Its error is the sensor's
// misconduct, and ends the session.
func (s *Server) answer(n *session, piece *sensorv1.Answer) error {
	size := proto.Size(piece)
	n.mu.Lock()
	all := n.asked
	n.mu.Unlock()
	if all == nil {
		return fmt.Errorf("%w: an answer to no question", errProtocol)
	}
	all.mu.Lock()
	q := all.open[piece.GetId()]
	switch {
	case size > maxPiece:
		all.mu.Unlock()
		return fmt.Errorf("%w: a piece of an answer of %d bytes, the limit is %d", errProtocol, size, maxPiece)
	case piece.GetId() == 0 || piece.GetId() > all.last:
		all.mu.Unlock()
		return fmt.Errorf("%w: an answer to no question", errProtocol)
	case q == nil:
		all.late++
		late := all.late
		all.mu.Unlock()
		if late > maxLate {
			return fmt.Errorf("%w: more than %d pieces of answers that nobody waits for", errProtocol, maxLate)
		}
		return nil
	}
	all.mu.Unlock()
	return q.add(&s.room, piece, int64(size))
}

func (q *question) add(room *answerRoom, piece *sensorv1.Answer, size int64) error {
	rows, bytes := uint64(len(piece.GetRows())), uint64(0)
	for _, row := range piece.GetRows() {
		bytes += uint64(proto.Size(row)) //nolint:gosec // a size
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wake()
	switch {
	case q.err != nil:
		return nil // who waits has been told, and takes it back
	case q.done:
		return fmt.Errorf("%w: an answer goes on behind its end", errProtocol)
	}
	if rows == 0 && !piece.GetDone() { // it says nothing, and is not kept
		if q.empty++; q.empty > maxEmpty {
			q.done, q.err = true, errors.New("it answered with nothing again and again")
			return fmt.Errorf("%w: more than %d empty pieces of an answer", errProtocol, maxEmpty)
		}
		return nil
	}
	if rows > q.rows || bytes > q.bytes {
		q.done, q.err = true, errors.New("it answered with more than was asked for")
		return fmt.Errorf("%w: an answer of more than was asked for", errProtocol)
	}
	q.rows -= rows
	q.bytes -= bytes
	if size = max(size, leastPiece); !room.take(size) {
		q.done, q.err = true, ErrNoRoom
		return nil
	}
	bound(piece)
	q.queue = append(q.queue, piece)
	q.held += size
	q.done = piece.GetDone()
	return nil
}

// bound cuts what a sensor may say beside rows.
func bound(a *sensorv1.Answer) {
	// Cloned: what is cut off would stay behind the rest, and be many times what it was on the wire.
	a.Losses = slices.Clone(a.GetLosses()[:min(len(a.GetLosses()), maxTold)])
	a.Unwatched = slices.Clone(a.GetUnwatched()[:min(len(a.GetUnwatched()), maxTold)])
	a.Untold = slices.Clone(a.GetUntold()[:min(len(a.GetUntold()), maxTold)])
	if len(a.GetError()) > maxSaid {
		a.Error = strings.ToValidUTF8(a.GetError()[:maxSaid], "") + "…"
	}
}

func (q *question) wake() {
	select {
	case q.pieces <- struct{}{}:
	default:
	}
}

// take is the oldest piece that waits; without one, why no more will come.
func (q *question) take() (piece *sensorv1.Answer, size int64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		return nil, 0, q.err
	}
	piece, q.queue = q.queue[0], q.queue[1:]
	size = max(int64(proto.Size(piece)), leastPiece)
	size = min(size, q.held)
	if len(q.queue) == 0 {
		size = q.held // what bound cut is given back too
	}
	q.held -= size
	return piece, size, nil
}

// drop forgets what waits, and says how much that was.
func (q *question) drop() (size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size, q.held, q.queue = q.held, 0, nil
	return size
}

// endQuestions tells all who wait for this session's sensor.
func (n *session) endQuestions() {
	n.mu.Lock()
	all := n.asked
	n.mu.Unlock()
	if all == nil {
		return
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.over = true
	for _, q := range all.open {
		q.mu.Lock()
		if !q.done {
			q.done, q.err = true, ErrEnded
		}
		q.mu.Unlock()
		q.wake()
	}
}
