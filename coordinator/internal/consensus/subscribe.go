package consensus

import (
	"sync"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// backlog is how many commits a subscriber may be behind before it misses some.
const backlog = 4096

type commit struct {
	index  uint64
	cmd    *raftv1.Command
	result *raftv1.Result
}

type subscriber struct {
	queue  chan commit
	missed uint64 // the last index that did not fit; guarded by subscribers.mu
}

type subscribers struct {
	mu     sync.Mutex
	closed bool
	all    map[*subscriber]struct{}
	wg     sync.WaitGroup
}

func newSubscribers() *subscribers { return &subscribers{all: make(map[*subscriber]struct{})} }

// Subscribe calls fn after each commit that this node has applied, in order,
// from one goroutine of its own. A subscriber that is too slow to follow does
// not hold up the cluster: it misses commits, and is told so by a call with a
// nil command and the last index missed, after which it must read the store.
// cancel waits for a running call to end; it must not be called from fn.
func (n *Node) Subscribe(fn func(index uint64, cmd *raftv1.Command, res *raftv1.Result)) (cancel func()) {
	return n.subs.add(fn)
}

func (s *subscribers) add(fn func(uint64, *raftv1.Command, *raftv1.Result)) func() {
	sub := &subscriber{queue: make(chan commit, backlog)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return func() {}
	}
	s.all[sub] = struct{}{}
	done := make(chan struct{})
	s.wg.Go(func() {
		defer close(done)
		for c := range sub.queue {
			fn(c.index, c.cmd, c.result)
		}
	})
	return sync.OnceFunc(func() {
		s.remove(sub)
		<-done
	})
}

func (s *subscribers) remove(sub *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.all[sub]; ok {
		delete(s.all, sub)
		close(sub.queue)
	}
}

func (s *subscribers) publish(index uint64, cmd *raftv1.Command, result *raftv1.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.all {
		if sub.missed != 0 {
			// Room for two: what was missed is told first.
			if len(sub.queue) > backlog-2 {
				sub.missed = index
				continue
			}
			sub.queue <- commit{index: sub.missed}
			sub.missed = 0
		}
		select {
		case sub.queue <- commit{index, cmd, result}:
		default:
			sub.missed = index
		}
	}
}

func (s *subscribers) close() {
	s.mu.Lock()
	s.closed = true
	for sub := range s.all {
		delete(s.all, sub)
		close(sub.queue)
	}
	s.mu.Unlock()
	s.wg.Wait()
}
