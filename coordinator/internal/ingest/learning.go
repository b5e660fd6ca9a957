package ingest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Learning is what ingest reads of what hosts are to learn and forget.
type Learning interface {
	// Suspects are the ids of hosts with an open incident.
	Suspects(ctx context.Context) (map[string]bool, error)
	// PendingUnlearns are the orders to forget that the host has not answered, oldest first.
	PendingUnlearns(ctx context.Context, host string, now int64) ([]*sensorv1.SignedUnlearn, error)
	// PendingDispositions are the same of what people said of its findings.
	PendingDispositions(ctx context.Context, host string, now int64) ([]*sensorv1.SignedDisposition, error)
}

const (
	// pauseFor is how long a host with an open incident learns nothing when nobody says so
	// again, and pauseAgain how often somebody does.
	pauseFor   = 2 * time.Hour
	pauseAgain = 30 * time.Minute
)

// learns is a session's part of it.
type learns struct {
	takes  bool // the sensor knows of it: an older one would end the session
	fleets bool // and of the fleet's pack: an older one would take it for its role's

	mu     sync.Mutex
	fresh  bool            // its host has not learnt enough yet
	has    []byte          // the pack that it goes by, or was sent last
	fleet  []byte          // the same of the fleet's
	begun  bool            // it was looked whether its host has an open incident
	paused time.Time       // until when it was told to learn nothing
	orders map[string]bool // ids of orders to forget and dispositions that it was sent

	// sending is held for one pack's parts: a sensor joins one at a time.
	sending sync.Mutex
}

// learnsOf is what a sensor says of it with its first message.
func learnsOf(hello *sensorv1.Hello) *learns {
	return &learns{takes: len(hello.GetPack()) > 0, fleets: len(hello.GetFleetPack()) > 0, has: hello.GetPack(), fleet: hello.GetFleetPack()}
}

// begin notes what the store knows of the host.
func (l *learns) begin(host *operatorv1.Host) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh = host.GetBaseline() == nil || host.GetBaseline().GetLearning()
}

// lacks says whether a pack is news to the sensor.
func (l *learns) lacks(signed *sensorv1.SignedPack, fleet bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.has
	if fleet {
		held = l.fleet
	}
	return signed != nil && !bytes.Equal(pack.Sum(signed), held)
}

func (l *learns) sent(signed *sensorv1.SignedPack, fleet bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fleet {
		l.fleet = pack.Sum(signed)
	} else {
		l.has = pack.Sum(signed)
	}
}

func (l *learns) isFresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fresh
}

// maxOrders go into one message, well below a frame: a sensor lets few messages wait.
const maxOrders = 32

// maxTeaching is how many hosts are told at once what to learn and forget.
const maxTeaching = 8

// suspectHosts are those with open incidents, read once after each change of one: thousands of hosts
// may come back at once.
type suspectHosts struct {
	reading sync.Mutex    // one reads at a time, and whoever applies entries never waits for it
	changes atomic.Uint64 // of incidents
	mu      sync.Mutex    // guards what follows
	hosts   map[string]bool
	known   uint64 // changes, and one, when they were read
}

func (l *suspectHosts) of(ctx context.Context, read func(context.Context) (map[string]bool, error)) (map[string]bool, error) {
	if hosts, ok := l.current(); ok {
		return hosts, nil
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	if hosts, ok := l.current(); ok {
		return hosts, nil
	}
	at := l.changes.Load()
	hosts, err := read(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading open incidents: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts, l.known = hosts, at+1
	return hosts, nil
}

func (l *suspectHosts) current() (map[string]bool, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts, l.known == l.changes.Load()+1
}

func (l *suspectHosts) changed() { l.changes.Add(1) }

// tellLearning brings a host that connects up to date.
func (s *Server) tellLearning(n *session) {
	if s.cfg.Learning == nil || s.cfg.Packs == nil || !n.learns.takes {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed { // else nobody waits for it any more
		s.closing.Go(func() { s.learningOf(n) })
	}
}

func (s *Server) learningOf(n *session) {
	// A pack is read, and cut into parts, for each: not for thousands at once.
	select {
	case s.teaching <- struct{}{}:
		defer func() { <-s.teaching }()
	case <-n.conn.Context().Done():
		return
	case <-s.running.Done():
		return
	}
	ctx, cancel := context.WithTimeout(s.running, s.cfg.CommitTimeout)
	defer cancel()
	if err := s.bringLearning(ctx, n); err != nil && s.running.Err() == nil {
		s.cfg.Logger.Warn("host not told what to learn; it is with its next session", "host", n.host, "error", err)
	}
}

// rolesChanged gives hosts that came to a role its pack, one after another.
func (s *Server) rolesChanged(hosts []*raftv1.HostRole) {
	for _, h := range hosts {
		if s.running.Err() != nil {
			return
		}
		if n := s.session(h.GetHost()); n != nil && n.learns.takes && h.GetRole() != "" && s.cfg.Packs != nil && s.cfg.Learning != nil {
			s.learningOf(n)
		}
	}
}

func (s *Server) bringLearning(ctx context.Context, n *session) error {
	suspects, err := s.incidents.of(ctx, s.cfg.Learning.Suspects)
	if err != nil {
		return err
	}
	s.pauseLearning(n, suspects[n.host])
	if err := s.bringOrders(ctx, n); err != nil {
		return err
	}
	signed, err := s.packFor(ctx, n)
	if err == nil && signed != nil {
		err = s.sendPack(ctx, n, signed, false)
	}
	if err != nil || !n.learns.fleets {
		return err
	}
	signed, err = s.cfg.Packs.RolePack(ctx, pack.Fleet, s.cfg.Now().UnixNano())
	if err != nil || !n.learns.lacks(signed, true) {
		return err
	}
	return s.sendPack(ctx, n, signed, true)
}

// bringOrders sends what waits for a host and was not sent in this session: what the store has, and
// not what an entry brought, of which it may have taken nothing.
func (s *Server) bringOrders(ctx context.Context, n *session) error {
	now := s.cfg.Now().UnixNano()
	unlearns, err := s.cfg.Learning.PendingUnlearns(ctx, n.host, now)
	if err != nil {
		return fmt.Errorf("reading orders to forget: %w", err)
	}
	dispositions, err := s.cfg.Learning.PendingDispositions(ctx, n.host, now)
	if err != nil {
		return fmt.Errorf("reading dispositions: %w", err)
	}
	n.learns.mu.Lock()
	defer n.learns.mu.Unlock()
	if !n.learns.begun {
		return nil // an order would end a pause that nobody has looked for yet; they come when somebody has
	}
	for some := range slices.Chunk(unlearns, maxOrders) {
		n.order(&sensorv1.Learning{Unlearn: slices.DeleteFunc(some, func(signed *sensorv1.SignedUnlearn) bool {
			u, err := pack.DecodeUnlearn(signed.GetPayload())
			return err != nil || !n.learns.first(u.GetId())
		})})
	}
	for some := range slices.Chunk(dispositions, maxOrders) {
		n.order(&sensorv1.Learning{Dispositions: slices.DeleteFunc(some, func(signed *sensorv1.SignedDisposition) bool {
			d, err := pack.DecodeDisposition(signed.GetPayload())
			return err != nil || !n.learns.first(d.GetId())
		})})
	}
	return nil
}

// first says whether an order was not sent in this session, and notes that it is; the lock is held.
func (l *learns) first(id string) bool {
	if _, sent := l.orders[id]; sent {
		return false
	}
	if l.orders == nil {
		l.orders = make(map[string]bool)
	}
	l.orders[id] = true
	return true
}

// order sends what operators signed; the lock is held, so that no older word on the pause overtakes a newer one.
func (n *session) order(what *sensorv1.Learning) {
	if len(what.GetUnlearn())+len(what.GetDispositions()) > 0 {
		n.send(learning(n.learns.paused, what))
	}
}

func learning(until time.Time, what *sensorv1.Learning) *sensorv1.CoordinatorMessage {
	if !until.IsZero() {
		what.PauseUntil = until.UnixNano()
	}
	return &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Learning{Learning: what}}
}

// pushOrders brings hosts that are connected here what was just committed for them.
func (s *Server) pushOrders(hosts []string) {
	if s.cfg.Learning == nil {
		return
	}
	for _, host := range hosts {
		n := s.session(host)
		if n == nil || !n.learns.takes {
			continue
		}
		if err := s.bringOrders(s.running, n); err != nil && s.running.Err() == nil {
			s.cfg.Logger.Warn("host not told what an operator signed; it is with its next session", "host", host, "error", err)
		}
	}
}

// disposedHosts are those that dispositions are for.
func disposedHosts(all []*sensorv1.SignedDisposition) (hosts []string) {
	for _, signed := range all {
		if d, err := pack.DecodeDisposition(signed.GetPayload()); err == nil {
			hosts = append(hosts, d.GetHost())
		}
	}
	return hosts
}

// pauseLearning tells a host whether it may learn, when that is news to it.
func (s *Server) pauseLearning(n *session, suspect bool) {
	now := s.cfg.Now()
	n.learns.mu.Lock()
	defer n.learns.mu.Unlock()
	n.learns.begun = true
	until := time.Time{}
	if suspect {
		until = now.Add(pauseFor)
	}
	told := n.learns.paused.After(now) && suspect && n.learns.paused.Sub(now) > pauseFor-pauseAgain || !suspect && n.learns.paused.IsZero()
	if !told {
		n.learns.paused = until
	}
	if !told && n.learns.takes {
		n.send(learning(until, &sensorv1.Learning{}))
	}
}

// incidentsChanged tells every host that is connected here whether it may learn.
func (s *Server) incidentsChanged() {
	if s.cfg.Learning == nil {
		return
	}
	s.incidents.changed()
	suspects, err := s.incidents.of(s.running, s.cfg.Learning.Suspects)
	if err != nil {
		if s.running.Err() == nil {
			s.cfg.Logger.Warn("hosts with open incidents not told to learn nothing; trying again", "error", err)
		}
		return
	}
	for _, n := range s.open() {
		s.pauseLearning(n, suspects[n.host])
	}
}

// tendLearning says again what would end by itself.
func (s *Server) tendLearning(ctx context.Context) {
	tick := time.NewTicker(pauseAgain / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.incidentsChanged()
		}
	}
}

// learningCommitted does what an entry asks for that is about learning.
func (s *Server) learningCommitted(cmd *raftv1.Command) {
	if cmd == nil || cmd.GetPutIncident() != nil || cmd.GetCloseIncident() != nil {
		s.incidents.changed()
	}
	switch {
	case cmd.GetLearningOrder().GetPack() != nil:
		s.closing.Go(func() { s.pushPack(cmd.GetLearningOrder().GetPack()) })
	case cmd.GetLearningOrder().GetUnlearn() != nil:
		if u, err := pack.DecodeUnlearn(cmd.GetLearningOrder().GetUnlearn().GetPayload()); err == nil {
			s.closing.Go(func() { s.pushOrders([]string{u.GetHost()}) })
		}
	case cmd.GetPutDispositions() != nil:
		s.closing.Go(func() { s.pushOrders(disposedHosts(cmd.GetPutDispositions().GetDispositions())) })
	case cmd.GetSetRoles() != nil:
		s.closing.Go(func() { s.rolesChanged(cmd.GetSetRoles().GetHosts()) })
	case cmd.GetCloseIncident() != nil, len(cmd.GetPutIncident().GetMerged()) > 0:
		s.closing.Go(s.incidentsChanged)
	case cmd.GetPutIncident() != nil:
		for _, host := range cmd.GetPutIncident().GetIncident().GetHosts() {
			if n := s.session(host); n != nil {
				s.pauseLearning(n, true)
			}
		}
	}
}

// unlearnt brings a host's answer into the log, once for each order that it was sent.
func (s *Server) unlearnt(ctx context.Context, n *session, answer *sensorv1.Unlearnt) error {
	n.learns.mu.Lock()
	asked := n.learns.orders[answer.GetId()]
	if asked {
		n.learns.orders[answer.GetId()] = false
	}
	n.learns.mu.Unlock()
	if !asked {
		return fmt.Errorf("%w: an answer to an order that was not given", errProtocol)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	_, err := propose(ctx, s.cfg.Log, &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "host:" + n.host, Body: &raftv1.Command_LearningOrder{
		LearningOrder: &raftv1.LearningOrder{Body: &raftv1.LearningOrder_Unlearnt{Unlearnt: &raftv1.UnlearntBy{Host: n.host, Unlearnt: answer}}}}})
	if err != nil {
		// The host is asked again with its next session, and answers the same.
		s.cfg.Logger.Warn("answer to an order not noted", "host", n.host, "order", answer.GetId(), "error", err)
	}
	return nil
}
