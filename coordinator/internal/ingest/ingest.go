// Package ingest speaks with sensors: it enrols them, keeps their sessions, and
// brings what they report into the replicated log.
//
// Its one idea: nothing is acknowledged that a quorum has not on disk. A batch
// is proposed as it came, the log decides whether it fits (by host, boot and
// sequence), and only the log's answer makes an Ack or a Resume. The node itself
// remembers nothing of a batch, so a session can end here and go on at another
// node at any record.
//
// Invariant: who a host is comes from its certificate. No message names it.
package ingest

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Server is one node's side of the link to sensors.
type Server struct {
	cfg     Config
	batcher *batcher
	opener  *opener
	workers *workers
	limiter *limiter
	counts  counters

	mu       sync.Mutex // guards what follows
	sessions map[string]*session
	closed   bool
	// drawn are the newest numbers of sessions here since a time, by host, and drawnBefore those of
	// before: this node's state may not have them.
	drawn, drawnBefore map[string]uint64
	drawnSince         time.Time

	hostSets hostSets
	// places are the addresses of the hosts with a session here; carried what was told to them.
	places  places
	carried carried

	// ends are reported to the log. begun is closed when the log knows that this node
	// has just started: before, an end of all its sessions could end a new one.
	ends     *ends
	begun    chan struct{}
	suspects *suspects
	conducts conducts
	trusted  *trusted

	heldRules *heldRules
	planning  sync.Mutex // one reading of the plan at a time
	plan      atomic.Pointer[rulePlan]

	// closing waits for the goroutines that push to sessions, and running ends with Run.
	closing sync.WaitGroup
	running context.Context
	stop    context.CancelFunc
	// enrolling bounds the enrolments at once.
	enrolling chan struct{}
	teaching  chan struct{} // bounds those who are told what to learn
	owed      owed
	packs     madePacks
	incidents suspectHosts
	room      answerRoom
}

// counters are since the start of the node.
type counters struct {
	enrolRefused                                                             atomic.Uint64
	batches, records, resumes, renewals, enrolled, replaced, malformed, slow atomic.Uint64

	mu      sync.Mutex
	refused map[string]uint64 // by code
}

// Stats are what happened at this node since it started.
type Stats struct {
	Sessions  int
	Batches   uint64
	Records   uint64
	Resumes   uint64
	Renewals  uint64
	Enrolled  uint64
	Replaced  uint64 // sessions ended by a newer one of the same host
	Malformed uint64 // oversized, truncated or senseless messages
	Slow      uint64 // sessions ended because the sensor did not read
	Refused   map[string]uint64
}

// New makes a Server; it does nothing before Run.
func New(cfg Config) (*Server, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	s := &Server{
		running:   running,
		stop:      stop,
		enrolling: make(chan struct{}, maxEnrolling),
		teaching:  make(chan struct{}, maxTeaching),
		cfg:       cfg,
		batcher:   newBatcher(cfg),
		opener:    newOpener(cfg),
		workers:   newWorkers(running.Done()),
		limiter:   newLimiter(cfg.Now),
		counts:    counters{refused: make(map[string]uint64)},
		sessions:  make(map[string]*session),
		hostSets:  hostSets{read: cfg.Orders.OperationHosts},
		drawn:     make(map[string]uint64), drawnSince: cfg.Now(),
		ends:      newEnds(),
		begun:     make(chan struct{}),
		suspects:  newSuspects(cfg.Now),
		conducts:  conducts{of: make(map[string]*conduct)},
		trusted:   &trusted{wake: make(chan struct{}, 1)},
		places:    places{hosts: make(map[netip.Addr][]string), of: make(map[string][]netip.Addr)},
		heldRules: &heldRules{wake: make(chan struct{}, 1)},
	}
	s.figures()
	return s, nil
}

// Run brings batches into the log and pushes grants and node lists to the
// sessions until ctx ends. The handlers work only while it runs.
func (s *Server) Run(ctx context.Context) error {
	cancel := s.cfg.Log.Subscribe(s.committed)
	var tending sync.WaitGroup
	tending.Go(func() { s.sweep(ctx) })
	tending.Go(func() { s.tellSuspects(ctx) })
	tending.Go(func() { s.tendRevoked(ctx) })
	tending.Go(func() { s.noteTrusted(ctx) })
	tending.Go(func() { s.tendLearning(ctx) })
	tending.Go(func() { s.noteRules(ctx) })
	tending.Go(func() {
		// Whatever the log supposes: a node that starts has no session.
		if s.note(ctx, &raftv1.SessionsEnded{Node: s.cfg.NodeID, All: true}) {
			close(s.begun)
			s.report(ctx)
		}
	})
	err := s.batcher.run(ctx)
	s.opener.stop()
	tending.Wait()
	cancel()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, session := range s.open() {
		session.end(link.CodeShutdown, "this node is stopping: another one will take the session")
	}
	s.stop()
	s.closing.Wait()
	return err
}

// Stats reads the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	sessions := len(s.sessions)
	s.mu.Unlock()
	c := &s.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	refused := make(map[string]uint64, len(c.refused))
	for code, n := range c.refused {
		refused[code] = n
	}
	return Stats{Sessions: sessions, Batches: c.batches.Load(), Records: c.records.Load(), Resumes: c.resumes.Load(),
		Renewals: c.renewals.Load(), Enrolled: c.enrolled.Load(), Replaced: c.replaced.Load(), Malformed: c.malformed.Load(),
		Slow: c.slow.Load(), Refused: refused}
}

func (s *Server) countRefusal(code string) {
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	s.counts.refused[code]++
}

// committed runs after every entry that this node applies, a nil command when
// some were missed. It waits for no sensor but for what sendGrant does, which is bounded.
func (s *Server) committed(index uint64, cmd *raftv1.Command, res *raftv1.Result) {
	if res.GetRejected() != "" {
		return
	}
	s.learningCommitted(cmd)
	switch {
	case cmd == nil:
		s.closing.Go(s.catchUp)
	case cmd.GetIngest() != nil:
		s.carry(cmd.GetIngest())
	case cmd.GetHostSession() != nil:
		s.sessionBegan(index, cmd.GetHostSession())
	case cmd.GetBeginSessions() != nil:
		s.sessionsBegan(index, cmd.GetBeginSessions(), res)
	case cmd.GetRequestResponse().GetDecoded().GetApprovals() > 1:
		// It waits for another operator.
	case cmd.GetRequestResponse() != nil:
		request := cmd.GetRequestResponse()
		s.sendGrant(request.GetOperation(), request.GetHosts(), request.GetGrant())
	case cmd.GetApproveOperation() != nil:
		s.closing.Go(func() { s.sendOrder(cmd.GetApproveOperation().GetOperation()) })
	case cmd.GetStartOperation() != nil:
		s.closing.Go(func() { s.sendOrder(cmd.GetStartOperation().GetOperation()) })
	case cmd.GetProposeResponse() != nil:
		s.closing.Go(func() { s.sendOrder(cmd.GetProposeResponse().GetGrant().GetOperation()) })
	case cmd.GetRemoveHost() != nil:
		s.hostRemoved(cmd.GetRemoveHost().GetHost())
	case cmd.GetRetireHost() != nil:
		s.hostRemoved(cmd.GetRetireHost().GetHost())
	case cmd.GetPutIntent() != nil:
		s.pushIntent(cmd.GetPutIntent().GetSigned())
	case cmd.GetPutRules() != nil, cmd.GetAdvanceRules() != nil, cmd.GetHaltRules() != nil:
		s.closing.Go(s.pushRules)
	case cmd.GetSessionsEnded().GetAll() && cmd.GetSessionsEnded().GetNode() == s.cfg.NodeID && cmd.GetActor() != "node:"+s.cfg.NodeID:
		s.lostByOthers()
	case cmd.GetPutNode() != nil, cmd.GetRemoveNode() != nil, cmd.GetConsumeToken().GetNode() != nil, cmd.GetPutSignedNodes() != nil, cmd.GetPutRevocations() != nil, cmd.GetPutTrust() != nil:
		s.closing.Go(s.pushNodes)
	}
}

// catchUp does for every session what a missed entry may have asked for.
func (s *Server) catchUp() {
	s.endRemoved(s.running)
	s.compareSessions(s.running)
	s.pushNodes()
	if signed, err := s.cfg.Orders.Intent(s.running, 0); err == nil && signed != nil {
		s.pushIntent(signed)
	}
	s.incidentsChanged()
	s.pushRules()
	for _, session := range s.open() {
		s.resendGrants(s.running, session)
		s.tellLearning(session)
	}
}

// sendGrant queues a grant for those of its hosts that have a session here, so many at
// once that what else the node does keeps its share of the processors: raft's
// heartbeats would wait behind thousands of sessions that all have something to write.
func (s *Server) sendGrant(operation string, hosts []string, signed *sensorv1.SignedGrant) {
	set, err := s.hostSets.remember(operation, hosts)
	if err != nil { // the log has rejected it
		return
	}
	var burst sendBurst
	for _, host := range set.Hosts() {
		if session := s.session(host); session != nil {
			burst.next(s.running)
			session.grant(signed, set, burst.wrote)
		}
	}
}

// sendOrder sends an operation that may have gone out with an entry.
func (s *Server) sendOrder(operation string) {
	ctx, cancel := context.WithTimeout(s.running, s.cfg.CommitTimeout)
	defer cancel()
	order, err := s.cfg.Orders.Order(ctx, operation, s.cfg.Now())
	if err != nil {
		s.cfg.Logger.Warn("order not sent; sensors get it when they connect", "operation", operation, "error", err)
		return
	}
	if order.GetState() == store.OrderOrdered {
		s.sendGrant(operation, order.GetHosts(), order.GetGrant())
	}
}

// pushIntent tells every sensor the newest intent: the kill switch is one.
func (s *Server) pushIntent(signed *sensorv1.SignedIntent) {
	message := &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Intent{Intent: signed}}
	for _, session := range s.open() {
		session.send(message)
	}
}

// nodeList is the members as the log has them, and what an admin signed of them.
func (s *Server) nodeList(ctx context.Context) (*sensorv1.NodeList, error) {
	nodes, err := s.cfg.Members.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	signed, err := s.cfg.Members.SignedNodes(ctx)
	if err != nil {
		return nil, err
	}
	revocations, err := s.cfg.Members.Revocations(ctx)
	if err != nil {
		return nil, err
	}
	trusted, err := s.cfg.Trust.Trust(ctx)
	if err != nil {
		return nil, err
	}
	return &sensorv1.NodeList{Nodes: nodes, Signed: signed, Revocations: revocations, Trust: trusted}, nil
}

func (s *Server) pushNodes() {
	ctx, cancel := context.WithTimeout(s.running, s.cfg.CommitTimeout)
	defer cancel()
	nodes, err := s.nodeList(ctx)
	if err != nil {
		s.cfg.Logger.Warn("node list not pushed to the sensors", "error", err)
		return
	}
	message := &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Nodes{Nodes: nodes}}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions {
		session.send(message)
	}
}

func (s *Server) session(host string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[host]
}

// register makes the session the host's only one here: the newest wins, since a
// sensor that comes again has lost the older one, whatever it looks like from here.
func (s *Server) register(n *session) *refusal {
	s.mu.Lock()
	old := s.sessions[n.host]
	if s.closed || old == nil && len(s.sessions) >= s.cfg.MaxSessions {
		s.mu.Unlock()
		return &refusal{code: "busy", message: "this node takes no more sessions: try another one", retry: 5}
	}
	s.sessions[n.host] = n
	s.mu.Unlock()
	if old != nil {
		s.counts.replaced.Add(1)
		s.cfg.Logger.Warn("host opened a second session; the older one is closed. If this recurs, two machines use one identity: enrol one of them again",
			"host", n.host, "old_address", old.conn.RemoteAddr().String(), "new_address", n.conn.RemoteAddr().String(),
			"same_machine", old.machine == n.machine)
		old.end(link.CodeSuperseded, "a newer session of this host has taken over")
	}
	return nil
}

// refusal is an answer that says what to do.
type refusal struct {
	code, message string
	retry         uint32
}

func (r *refusal) proto() *sensorv1.Refusal {
	return &sensorv1.Refusal{Code: r.code, Message: r.message, RetryAfterSeconds: r.retry}
}
