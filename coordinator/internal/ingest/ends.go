package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// endsDelay gathers ends into one entry: a switch that dies ends thousands at once.
	endsDelay = 50 * time.Millisecond
	// maxEnds in one entry, some 100 bytes each.
	maxEnds = 1000
	// maxWaiting bounds the ends that wait for a leader. Without one no session is
	// opened, so that more than the sessions of this node cannot come.
	maxWaiting = 40_000
	// endsTimeout bounds one attempt to bring them into the log.
	endsTimeout = 5 * time.Second
)

// ends are sessions that have ended here, on their way into the log.
type ends struct {
	wake chan struct{}

	mu      sync.Mutex // guards what follows
	waiting []ending
	of      map[endOf]<-chan struct{} // those that wait
}

// endOf is which session an end is of: a node gives a host no number twice.
type endOf struct {
	host   string
	number uint64
}

type ending struct {
	end   *raftv1.SessionEnd
	noted chan struct{} // closed when the log has it
}

func newEnds() *ends {
	return &ends{wake: make(chan struct{}, 1), of: make(map[endOf]<-chan struct{})}
}

// add queues an end and returns what is closed when the log has it; nil when there is no room.
// One that waits already is not queued again. One that is proposed is: the begin that it ends
// may have come behind it.
func (e *ends) add(end *raftv1.SessionEnd) <-chan struct{} {
	one := ending{end: end, noted: make(chan struct{})}
	of := endOf{end.GetHost(), end.GetSession()}
	e.mu.Lock()
	defer e.mu.Unlock()
	if noted, waits := e.of[of]; waits {
		return noted
	}
	if len(e.waiting) >= maxWaiting {
		return nil
	}
	e.waiting = append(e.waiting, one)
	e.of[of] = one.noted
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return one.noted
}

func (e *ends) take() []ending {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := min(len(e.waiting), maxEnds)
	some := e.waiting[:n:n]
	e.waiting = e.waiting[n:]
	for _, one := range some {
		delete(e.of, endOf{one.end.GetHost(), one.end.GetSession()})
	}
	return some
}

// report brings ends into the log until ctx ends. What is uncertain is reported again:
// an end that the log has changes nothing.
func (s *Server) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ends.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(endsDelay):
		}
		for some := s.ends.take(); len(some) > 0; some = s.ends.take() {
			in := &raftv1.SessionsEnded{Node: s.cfg.NodeID}
			for _, one := range some {
				in.Sessions = append(in.Sessions, one.end)
			}
			if !s.note(ctx, in) {
				return
			}
			for _, one := range some {
				close(one.noted)
			}
		}
	}
}

// note proposes until the log has it; false when ctx ended before.
func (s *Server) note(ctx context.Context, in *raftv1.SessionsEnded) bool {
	for told := false; ctx.Err() == nil; {
		attempt, cancel := context.WithTimeout(ctx, endsTimeout)
		res, err := propose(attempt, s.cfg.Log, &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID,
			Body: &raftv1.Command_SessionsEnded{SessionsEnded: in}})
		cancel()
		if err == nil {
			if res.GetRejected() != "" {
				s.cfg.Logger.Error("ends of sessions refused by the log", "code", res.GetRejected(), "reason", res.GetMessage())
			}
			return true
		}
		if !told && ctx.Err() == nil {
			told = true
			s.cfg.Logger.Warn("ends of sessions not noted yet; trying again", "sessions", len(in.GetSessions()), "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return false
}
