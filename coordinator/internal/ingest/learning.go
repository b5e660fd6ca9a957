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

// Packs is what ingest reads of baseline packs.
type Packs interface {
	// RoleOf is a host's role group, "" for none.
	RoleOf(ctx context.Context, host string) (string, error)
	RoleHosts(ctx context.Context, role string) ([]string, error)
	// RolePack is the one that an operator signed, nil for none.
	RolePack(ctx context.Context, role string, now int64) (*sensorv1.SignedPack, error)
	// MadePack is one of what most hosts of a role do now, unsigned; nil when there are too few.
	MadePack(ctx context.Context, role string) (*sensorv1.Pack, error)
}

const (
	// pauseFor is how long a host with an open incident learns nothing when nobody says so
	// again, and pauseAgain how often somebody does.
	pauseFor   = 2 * time.Hour
	pauseAgain = 30 * time.Minute
	// madeFor is how long a pack that this node made is given out, maxMade how many are kept.
	madeFor = time.Hour
	maxMade = 64
	// partTime is the most that a pack waits for a sensor that does not read.
	partTime = 2 * time.Second
)

// learns is a session's part of it.
type learns struct {
	takes bool   // the sensor knows of it: an older one would end the session
	fresh bool   // its host has not learnt enough yet
	has   []byte // the pack that it goes by
	fleet []byte // the same of the fleet's; empty: an older sensor, which would take one for its role's
	// sending is held for one pack's parts: a sensor joins one at a time.
	sending sync.Mutex

	mu     sync.Mutex
	paused time.Time       // until when it was told to learn nothing
	orders map[string]bool // ids of orders to forget and dispositions that it was sent
}

func (l *learns) begin(hello *sensorv1.Hello, host *operatorv1.Host) {
	l.takes, l.has, l.fleet = len(hello.GetPack()) > 0, hello.GetPack(), hello.GetFleetPack()
	l.fresh = host.GetBaseline() == nil || host.GetBaseline().GetLearning()
}

// maxOrders go into one message, well below a frame: a sensor lets few messages wait.
const maxOrders = 32

// maxTeaching is how many hosts are told at once what to learn and forget.
const maxTeaching = 8

// madePacks are those that this node made.
type madePacks struct {
	mu   sync.Mutex
	made map[string]madePack
}

type madePack struct {
	signed *sensorv1.SignedPack
	at     time.Time
}

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
	if err != nil || len(n.learns.fleet) == 0 {
		return err
	}
	signed, err = s.cfg.Packs.RolePack(ctx, pack.Fleet, s.cfg.Now().UnixNano())
	if err != nil || signed == nil || bytes.Equal(pack.Sum(signed), n.learns.fleet) {
		return err
	}
	return s.sendPack(ctx, n, signed, true)
}

// packFor is an operator's pack for the host's role, or for a host that knows little yet what its
// peers do; nil when there is none that it lacks.
func (s *Server) packFor(ctx context.Context, n *session) (*sensorv1.SignedPack, error) {
	role, err := s.cfg.Packs.RoleOf(ctx, n.host)
	if err != nil || role == "" {
		return nil, err
	}
	signed, err := s.cfg.Packs.RolePack(ctx, role, s.cfg.Now().UnixNano())
	if err != nil {
		return nil, err
	}
	if signed == nil && n.learns.fresh {
		signed, err = s.made(ctx, role)
	}
	if err != nil || signed == nil || bytes.Equal(pack.Sum(signed), n.learns.has) {
		return nil, err
	}
	return signed, nil
}

// made makes a role's pack, one at a time.
func (s *Server) made(ctx context.Context, role string) (*sensorv1.SignedPack, error) {
	m := &s.packs
	m.mu.Lock()
	defer m.mu.Unlock()
	now := s.cfg.Now()
	if kept, ok := m.made[role]; ok && now.Sub(kept.at) < madeFor {
		return kept.signed, nil
	}
	p, err := s.cfg.Packs.MadePack(ctx, role)
	if err != nil {
		return nil, fmt.Errorf("making a pack of role %s: %w", role, err)
	}
	var signed *sensorv1.SignedPack
	if p != nil {
		p.ClusterId, p.Role, p.MadeAt = s.cfg.Authority.Cluster(), role, now.UnixNano()
		payload, err := pack.Encode(p)
		if err != nil {
			return nil, fmt.Errorf("making a pack of role %s: %w", role, err)
		}
		signed = &sensorv1.SignedPack{Payload: payload}
	}
	if m.made == nil || len(m.made) >= maxMade {
		m.made = make(map[string]madePack)
	}
	m.made[role] = madePack{signed, now}
	return signed, nil
}

// sendPack waits until the sensor has it, or does not read: a pack is large, and one for
// thousands of hosts is not to lie before each of them at once.
func (s *Server) sendPack(ctx context.Context, n *session, signed *sensorv1.SignedPack, fleet bool) error {
	parts, err := pack.Parts(signed)
	if err != nil {
		return err
	}
	n.learns.sending.Lock()
	defer n.learns.sending.Unlock()
	wrote := make(chan struct{}, len(parts))
	for _, part := range parts {
		part.Fleet = fleet
		n.queue(outgoing{&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Pack{Pack: part}}, wrote})
	}
	timer := time.NewTimer(partTime)
	defer timer.Stop()
	for range parts {
		select {
		case <-wrote:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// pushPack gives a pack that was just committed to the role's hosts that are connected here.
func (s *Server) pushPack(signed *sensorv1.SignedPack) {
	p, err := pack.Decode(signed.GetPayload())
	if err != nil || s.cfg.Packs == nil {
		return
	}
	if p.GetRole() == pack.Fleet {
		for _, n := range s.open() {
			if n.learns.takes && len(n.learns.fleet) > 0 && s.sendPack(s.running, n, signed, true) != nil {
				return
			}
		}
		return
	}
	hosts, err := s.cfg.Packs.RoleHosts(s.running, p.GetRole())
	if err != nil {
		s.cfg.Logger.Warn("pack not pushed to the sensors; they get it when they connect", "role", p.GetRole(), "error", err)
		return
	}
	for _, host := range hosts {
		n := s.session(host)
		if n == nil || !n.learns.takes {
			continue
		}
		if err := s.sendPack(s.running, n, signed, false); err != nil {
			return
		}
	}
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
