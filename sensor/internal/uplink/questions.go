package uplink

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// maxQuestions wait in a session for the one that is being answered. Beyond it a question
	// is answered with that.
	maxQuestions = 16
	// maxAsk bounds one, so that those that wait do not take the sensor's memory.
	maxAsk = 96 << 10
)

// questions are those of one session: answered one at a time, in order, and given up with it.
type questions struct {
	waiting chan *asked
	refused chan uint64

	mu   sync.Mutex
	last uint64                        // the newest id
	open map[uint64]context.CancelFunc // waiting or being answered
}

type asked struct {
	id  uint64
	ask *sensorv1.Ask
	ctx context.Context
}

func newQuestions() *questions {
	return &questions{waiting: make(chan *asked, maxQuestions), refused: make(chan uint64, maxQuestions), open: map[uint64]context.CancelFunc{}}
}

// answers is the newest form of question that this sensor answers.
func (u *Uplink) answers() uint32 {
	if u.cfg.OnQuestion == nil {
		return 0
	}
	return hunt.Version
}

// question takes one up, or takes one back. It does not wait: the session's reader calls it.
func (s *session) question(ctx context.Context, m *sensorv1.Question) error {
	q := s.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	if m.GetCancel() {
		if cancel := q.open[m.GetId()]; cancel != nil {
			cancel()
		}
		return nil
	}
	if size := proto.Size(m); size > maxAsk {
		return fmt.Errorf("%w: a question of %d bytes, the limit is %d", errProtocol, size, maxAsk)
	}
	if m.GetId() <= q.last {
		return fmt.Errorf("%w: question %d came after %d", errProtocol, m.GetId(), q.last)
	}
	q.last = m.GetId()
	if s.u.cfg.OnQuestion == nil {
		return fmt.Errorf("%w: a question, which this sensor said it does not answer", errProtocol)
	}
	ctx, cancel := context.WithCancel(ctx)
	select {
	case q.waiting <- &asked{id: m.GetId(), ask: m.GetAsk(), ctx: ctx}:
		q.open[m.GetId()] = cancel
		return nil
	default:
		cancel()
	}
	select {
	case q.refused <- m.GetId():
		return nil
	default:
		return fmt.Errorf("%w: more than %d questions at once", errProtocol, 2*maxQuestions)
	}
}

// answer answers what waits until ctx ends.
func (s *session) answer(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case q := <-s.questions.waiting:
			err := s.answerOne(q)
			if err != nil && ctx.Err() == nil && q.ctx.Err() == nil {
				return fmt.Errorf("answering a question: %w", err)
			}
		}
	}
}

func (s *session) answerOne(q *asked) error {
	defer func() {
		s.questions.mu.Lock()
		defer s.questions.mu.Unlock()
		s.questions.open[q.id]()
		delete(s.questions.open, q.id)
	}()
	if q.ctx.Err() != nil {
		return nil //nolint:nilerr // it was taken back before its turn
	}
	return s.u.cfg.OnQuestion(q.ctx, q.ask, func(a *sensorv1.Answer) error {
		if q.ctx.Err() != nil {
			return q.ctx.Err()
		}
		a.Id = q.id
		return s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Answer{Answer: a}})
	})
}

// refuse tells at once that too many wait.
func (s *session) refuse(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case id := <-s.questions.refused:
			if err := s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Answer{Answer: &sensorv1.Answer{
				Id: id, Done: true, Error: fmt.Sprintf("%d questions wait at this host already: ask again later", maxQuestions)}}}); err != nil {
				return err
			}
		}
	}
}
