package ingest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// noteRulesEvery gathers what hosts say of the rules that they use.
	noteRulesEvery = time.Second
	// maxRulesHeld bounds what a host says of its rules, in bytes, and maxHeldRules how many are in
	// one entry of the log.
	maxRulesHeld = 32 << 10
	maxHeldRules = 500
	// heldRulesBytes bounds the sum of them: an entry that is too large would never go through.
	heldRulesBytes = consensus.MaxCommand / 2
)

// Rules is which sets of detection rules there are.
type Rules interface {
	// RuleSet is a version, the newest for 0; nil when there is none at all.
	RuleSet(ctx context.Context, version uint64) (*store.RuleSet, error)
}

// rulePlan is the newest set, how far it has gone, and what it goes back to.
type rulePlan struct {
	newest, base *store.RuleSet // nil: none
}

// order is what a host is to be told that says it uses held; nil: nothing new.
func (p *rulePlan) order(host string, held *sensorv1.RulesHeld) *sensorv1.Rules {
	if p == nil || p.newest == nil {
		return nil
	}
	if ruleset.Covers(p.newest.State, p.newest.Ring, p.newest.FirstHost, host) {
		out := &sensorv1.Rules{Use: p.newest.Version}
		if held.GetNewest() != p.newest.Version {
			out.Sets = append(out.Sets, p.newest.Signed)
		}
		return out
	}
	out := &sensorv1.Rules{Use: p.newest.Base}
	if p.base != nil && held.GetNewest() != p.base.Version {
		out.Sets = append(out.Sets, p.base.Signed)
	}
	return out
}

// heldRules is what hosts said that they use and the log does not have yet.
type heldRules struct {
	mu    sync.Mutex
	hosts map[string]*raftv1.HostRules
	wake  chan struct{}
}

func (t *heldRules) add(h *raftv1.HostRules, overwrite bool) {
	t.mu.Lock()
	if t.hosts == nil {
		t.hosts = make(map[string]*raftv1.HostRules)
	}
	if overwrite || t.hosts[h.GetHost()] == nil {
		t.hosts[h.GetHost()] = h
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *heldRules) take() (some []*raftv1.HostRules) {
	t.mu.Lock()
	defer t.mu.Unlock()
	size := 0
	for host, h := range t.hosts {
		if size += proto.Size(h); len(some) == maxHeldRules || len(some) > 0 && size > heldRulesBytes {
			break
		}
		some = append(some, h)
		delete(t.hosts, host)
	}
	return some
}

// rulesOf is a session's part: what its host uses, as it said.
type rulesOf struct {
	held     atomic.Pointer[sensorv1.RulesHeld] // nil: it takes none
	instance []byte
	told     atomic.Uint64 // the version that it was told to use, plus one
}

// usesRules is what a host says of the rules that it uses, which is about itself alone; nil:
// its sensor takes none, which the log is told as well since it may have been a newer release
// before. Before the first set there is nothing to tell of.
func (s *Server) usesRules(ctx context.Context, n *session, held *sensorv1.RulesHeld) {
	if proto.Size(held) > maxRulesHeld {
		return
	}
	n.rules.held.Store(held)
	plan := s.rulePlan(ctx)
	if plan == nil || plan.newest == nil {
		return
	}
	s.heldRules.add(&raftv1.HostRules{Host: n.host, Instance: n.rules.instance, Held: held}, true)
	s.orderRules(n, plan)
}

// orderRules tells a host which rules to use, when it was not told so in this session. It
// goes by the newest plan also when that came while it was at it: of two entries that follow
// each other the later one's order is the last.
func (s *Server) orderRules(n *session, plan *rulePlan) {
	held := n.rules.held.Load()
	for held != nil {
		if newest := s.plan.Load(); newest != nil {
			plan = newest
		}
		order := plan.order(n.host, held)
		if order == nil || n.rules.told.Swap(order.GetUse()+1) == order.GetUse()+1 {
			return
		}
		n.send(&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Rules{Rules: order}})
		if newest := s.plan.Load(); newest == nil || newest == plan {
			return
		}
	}
}

// rulePlan is what the store has, read again when an entry changed it.
func (s *Server) rulePlan(ctx context.Context) *rulePlan {
	if plan := s.plan.Load(); plan != nil {
		return plan
	}
	return s.readPlan(ctx)
}

func (s *Server) readPlan(ctx context.Context) *rulePlan {
	s.planning.Lock()
	defer s.planning.Unlock()
	plan := &rulePlan{}
	var err error
	if plan.newest, err = s.cfg.Rules.RuleSet(ctx, 0); err == nil && plan.newest != nil && plan.newest.Base != 0 {
		plan.base, err = s.cfg.Rules.RuleSet(ctx, plan.newest.Base)
	}
	if err != nil {
		s.cfg.Logger.Warn("rules not read; sensors keep what they use", "error", err)
		return nil
	}
	s.plan.Store(plan)
	return plan
}

// pushRules tells the sensors of this node what an entry changed, a burst of them at a time.
func (s *Server) pushRules() {
	ctx, cancel := context.WithTimeout(s.running, s.cfg.CommitTimeout)
	defer cancel()
	plan := s.readPlan(ctx)
	if plan == nil || plan.newest == nil {
		return
	}
	for _, session := range s.open() {
		if held := session.rules.held.Load(); held != nil {
			s.heldRules.add(&raftv1.HostRules{Host: session.host, Instance: session.rules.instance, Held: held}, false)
			s.orderRules(session, plan)
		}
	}
}

// noteRules has the log told what hosts use until ctx ends.
func (s *Server) noteRules(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.heldRules.wake:
		}
		timer := time.NewTimer(noteRulesEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		for some := s.heldRules.take(); len(some) > 0; some = s.heldRules.take() {
			proposing, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
			_, err := propose(proposing, s.cfg.Log, &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID,
				Body: &raftv1.Command_NoteRules{NoteRules: &raftv1.NoteRules{Hosts: some}}})
			cancel()
			if err == nil {
				continue
			}
			for _, h := range some {
				s.heldRules.add(h, false)
			}
			break
		}
	}
}
