package ingest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What one sensor may do, far above what an honest one does. A day of an honest one is
// about a MiB, and a full spool comes once after a long absence.
const (
	// burstBytes come at any speed, what is beyond at sendRate bytes a second: the log, the
	// disks and the time in which entries are applied are everybody's. See weight.
	burstBytes = 16 << 20
	sendRate   = 256 << 10
	// held for so long without a pause is no spool that is being emptied.
	maxHeld = 15 * time.Minute
	// maxHelloHeld is how long a session waits at most for what its host owes.
	maxHelloHeld = time.Second
	// maxFresh behaviours are new on a host in freshPeriod: a first hour of learning has
	// hundreds, a distribution's upgrade thousands.
	maxFresh    = 20_000
	freshPeriod = time.Hour
	// maxAhead is far beyond what a wrong time zone, or a node's own clock, explains.
	maxAhead = 24 * time.Hour
	// A clock that is set wrong and right again goes back once or twice, and a dead one's
	// 1970 comes before its stream's other times: only who goes back by a day and more for
	// more than maxTurned times in freshPeriod plays with times. A time that is long past, and
	// those behind it too, is what comes from a spool: nobody can tell that from a lie.
	maxBack   = 24 * time.Hour
	maxTurned = 3
	// maxGaps batches in freshPeriod begin behind what is stored. An honest sensor goes on from
	// where its node is. Only when the cluster was restored from a backup its node is elsewhere,
	// and then for one stream, or for two: four batches of each are on their way.
	maxGaps = 16
	// maxReports of isolations are taken in freshPeriod. What they make is never removed: rows,
	// and entries of the audit. An honest host makes a handful; one whose isolation somebody
	// else breaks again and again tells of it once in five seconds.
	maxReports = 1000
	// maxLeap records are lost at once by no sensor: it would have made a hundred a second for
	// months. A spool that overflowed leaves thousands out, and they are told as loss.
	maxLeap = 1 << 30
	// maxFindings in freshPeriod are told. The state keeps the newest 20,000 of a host: with so many
	// it can push out what others found about it.
	maxFindings = 2000
	// maxDetail bounds what of a sensor's own words is told.
	maxDetail = 300
)

// conduct is what one sensor did at this node, in one session after another: who comes again
// begins with what was left to it.
type conduct struct {
	mu       sync.Mutex // guards what follows
	sessions int
	budget   float64 // bytes that may come now, or what weighs as much
	at       time.Time
	held     time.Duration
	since    time.Time // when what follows was counted from
	fresh    int       // new behaviours
	turned   int       // how often its clock went back
	gaps     int       // batches that began behind what is stored
	reports  int       // of isolations, and a KiB of them counts as one
	findings int
	// The stream that was judged last, up to where, and the time of its last summary.
	boot  string
	last  uint64
	clock int64
}

// oddity is what no honest sensor does, and what exactly it was.
type oddity struct{ conduct, detail string }

// spend takes what something weighs from the budget. What is owed then is for debt to say.
func (c *conduct) spend(weight int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.owes(now)
	if c.budget == burstBytes {
		c.held = 0 // it has slowed down
	}
	c.budget -= float64(weight)
	c.held += c.owes(now) - before
}

// debt is how long it must wait before it may send anything, in this session or in another.
func (c *conduct) debt(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owes(now)
}

// owes needs mu.
func (c *conduct) owes(now time.Time) time.Duration {
	c.refill(now)
	return time.Duration(max(0, -c.budget) / sendRate * float64(time.Second))
}

// refill needs mu.
func (c *conduct) refill(now time.Time) {
	if c.at.IsZero() {
		c.budget = burstBytes
	} else {
		c.budget = min(burstBytes, c.budget+now.Sub(c.at).Seconds()*sendRate)
	}
	c.at = now
}

// begin begins another period when one is over. It needs mu.
func (c *conduct) begin(now time.Time) {
	if now.Sub(c.since) > freshPeriod {
		c.fresh, c.turned, c.gaps, c.reports, c.findings, c.since = 0, 0, 0, 0, 0, now
	}
}

// odd names what no honest sensor does in a batch, each once; nothing for an honest one. The
// records of a batch that did not follow what is stored were not taken, and are not judged.
func (c *conduct) odd(batch *sensorv1.Batch, gap bool, now time.Time) (odd []oddity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(now)
	if gap {
		c.gaps++
	} else {
		odd = c.judge(batch, now)
	}
	span := now.Sub(c.since).Round(time.Second)
	for _, count := range []struct {
		conduct, detail string
		have, most      int
	}{
		{state.SuspectFlood, "%d new ones in %s.", c.fresh, maxFresh},
		{state.SuspectClock, "It went back by more than a day, %d times in %s.", c.turned, maxTurned},
		{state.SuspectSequence, "%d batches in %s began behind what it was told is stored.", c.gaps, maxGaps},
	} {
		if count.have > count.most {
			odd = append(odd, oddity{count.conduct, fmt.Sprintf(count.detail, count.have, span)})
		}
	}
	if c.held > maxHeld {
		odd = append(odd, oddity{state.SuspectVolume, fmt.Sprintf("It was held back for %s.", c.held.Round(time.Second))})
	}
	return odd
}

// judge looks at the records that have not come before: what was on its way when a session
// ended comes again. It needs mu.
func (c *conduct) judge(batch *sensorv1.Batch, now time.Time) (odd []oddity) {
	tell := func(conduct, detail string, args ...any) {
		if !slices.ContainsFunc(odd, func(o oddity) bool { return o.conduct == conduct }) {
			odd = append(odd, oddity{conduct, fmt.Sprintf(detail, args...)})
		}
	}
	if boot := string(batch.GetBoot()); boot != c.boot {
		// A stream is of one boot of the kernel: what another has of times says nothing of this one's.
		c.boot, c.last, c.clock = boot, batch.GetPrev(), 0
	}
	c.last = max(c.last, batch.GetPrev()) // it was at another node meanwhile
	for _, r := range batch.GetRecords() {
		if r.GetSequence() <= c.last {
			continue
		}
		if leap := r.GetSequence() - c.last; leap > maxLeap {
			tell(state.SuspectSequence, "Record %d is the next after %d.", r.GetSequence(), c.last)
		}
		c.last = r.GetSequence()
		if r.GetTime() > now.Add(maxAhead).UnixNano() {
			tell(state.SuspectTime, "Record %d is %s ahead.", r.GetSequence(), time.Duration(r.GetTime()-now.UnixNano()).Round(time.Hour))
		}
		if summary := r.GetSummary(); summary != nil {
			c.fresh += len(summary.GetNewBehaviours())
			if c.clock != 0 && r.GetTime() < c.clock && uint64(c.clock-r.GetTime()) > uint64(maxBack) { //nolint:gosec // unsigned, the difference is right however far they are apart
				c.turned++
			}
			c.clock = r.GetTime()
		}
	}
	return odd
}

// unforge takes from a host's findings the names that only coordinators give, before anything
// is proposed: the state gives them others. It says what the first pretends to be; "" for none.
func unforge(batch *sensorv1.Batch) (detail string) {
	for _, r := range batch.GetRecords() {
		f := r.GetFinding()
		if f == nil || !state.Forged(f) {
			continue
		}
		if detail == "" {
			detail = fmt.Sprintf("Record %d is a finding %q of kind %q.", r.GetSequence(), told(f.GetId()), told(f.GetKind()))
		}
		if state.ForgedID(f.GetId()) {
			f.Id = ""
		}
	}
	return detail
}

// admit takes what a batch weighs from the budget before it is proposed: who hangs up meanwhile
// has sent it all the same. It says what the host floods the state with; "" for nothing.
func (c *conduct) admit(batch *sensorv1.Batch, size int, now time.Time) (flood string) {
	c.mu.Lock()
	c.begin(now)
	before, shed := c.findings, 0
	for _, r := range batch.GetRecords() {
		if string(batch.GetBoot()) == c.boot && r.GetSequence() <= c.last {
			continue // it is stored
		}
		switch body := r.GetBody().(type) {
		case *sensorv1.Record_Finding:
			c.findings++
		case *sensorv1.Record_Isolation:
			if c.reports += 1 + proto.Size(body.Isolation)>>10; c.reports > maxReports {
				r.Body = nil // the state makes a loss of it
				shed++
			}
		}
	}
	late, span := c.findings-max(before, maxFindings), now.Sub(c.since).Round(time.Second)
	switch {
	case shed > 0:
		flood = fmt.Sprintf("These were reports of isolations: as much as %d in %s, of which %d are kept.", c.reports, span, maxReports)
	case late > 0:
		flood = fmt.Sprintf("These were findings: %d in %s. Its newest push out its oldest, and what was found about it.", c.findings, span)
	}
	c.mu.Unlock()
	c.spend(weight(batch, size)+lateWeight*max(0, late), now)
	return flood
}

// told is a sensor's own words, in as many as are told.
func told(words string) string {
	words = strings.ToValidUTF8(words, "?")
	return strings.ToValidUTF8(words[:min(len(words), maxDetail)], "")
}

// maxAway hosts without a session are remembered: as many as a node has sessions for.
const maxAway = 20_000

// conducts are of the hosts that have a session at this node, and of those that had one and
// have not made up for what they did in it: to come again must not be worth it.
type conducts struct {
	mu   sync.Mutex
	of   map[string]*conduct
	idle int // without a session
}

func (t *conducts) enter(host string) *conduct {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.of[host]
	switch {
	case c == nil:
		c = &conduct{}
		t.of[host] = c
	case c.sessions == 0:
		t.idle--
	}
	c.sessions++
	return c
}

func (t *conducts) leave(host string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.of[host]
	if c == nil {
		return
	}
	if c.sessions--; c.sessions > 0 {
		return
	}
	if c.spotless(now) {
		delete(t.of, host)
		return
	}
	if t.idle++; t.idle > maxAway {
		maps.DeleteFunc(t.of, func(_ string, c *conduct) bool { return c.sessions == 0 })
		t.idle = 0
	}
}

// spotless: who forgets it forgets nothing.
func (c *conduct) spotless(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refill(now)
	return c.budget == burstBytes && (c.fresh == 0 && c.turned == 0 && c.gaps == 0 && c.reports == 0 && c.findings == 0 || now.Sub(c.since) > freshPeriod)
}

// conducted judges a batch before it is answered, so that nobody gets past it who does not
// take the answer.
func (s *Server) conducted(n *session, batch *sensorv1.Batch, gap bool) {
	for _, one := range n.conduct.odd(batch, gap, s.cfg.Now()) {
		s.suspects.add(&raftv1.SuspectSensor{Host: n.host, Conduct: one.conduct, Detail: one.detail})
	}
}

// admits takes the price of a session from its host's budget. Who owes waits before it has one,
// but for a moment only: a session is how a host shows that it lives.
func (s *Server) admits(ctx context.Context, n *session) error {
	hold(ctx, min(n.conduct.debt(s.cfg.Now()), maxHelloHeld))
	n.conduct.spend(helloWeight, s.cfg.Now())
	return ctx.Err()
}

// holdBack lets a host wait for what it owes, before a message of its is taken and memory used for
// it. A wait behind the message would end with the session, and the next one begin without.
//
//go:noinline
func (s *Server) holdBack(ctx context.Context, n *session) {
	hold(ctx, n.conduct.debt(s.cfg.Now()))
}

// charge takes from the budget what a message of so many bytes weighs that is no batch. Answers
// are what the host was asked for, and bounded.
func (s *Server) charge(n *session, m *sensorv1.SensorMessage, size uint32) {
	if m.GetBatch() != nil || m.GetAnswer() != nil {
		return
	}
	n.conduct.spend(max(int(size), messageWeight), s.cfg.Now())
}

func hold(ctx context.Context, wait time.Duration) {
	if wait == 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// misconduct is what ended a session.
func (s *Server) misconduct(host string, err error) {
	s.suspects.add(&raftv1.SuspectSensor{Host: host, Conduct: state.SuspectMalformed, Detail: "What was wrong: " + told(err.Error()) + "."})
}

// maxSuspects wait for the log; a host's conduct is told once an hour by a node. What the log does
// not take is told again after suspectPause.
const (
	maxSuspects   = 1024
	suspectPeriod = time.Hour
	suspectPause  = time.Second
)

// suspects are on their way into the log.
type suspects struct {
	wake chan struct{}
	now  func() time.Time

	mu      sync.Mutex
	waiting []*raftv1.SuspectSensor
	told    map[string]time.Time // or waiting
}

func newSuspects(now func() time.Time) *suspects {
	return &suspects{wake: make(chan struct{}, 1), now: now, told: make(map[string]time.Time)}
}

// add never waits. What was told a short time ago, or finds no room, is dropped: the
// session's end and its reason are logged and counted all the same.
func (s *suspects) add(one *raftv1.SuspectSensor) {
	key, now := suspectKey(one), s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.told[key]; ok && now.Sub(at) < suspectPeriod || len(s.waiting) >= maxSuspects {
		return
	}
	if len(s.told) >= maxSuspects {
		clear(s.told) // the log tells each once a day, whoever asks
	}
	s.told[key] = now
	s.waiting = append(s.waiting, one)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *suspects) take() (some []*raftv1.SuspectSensor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	some, s.waiting = s.waiting, nil
	return some
}

// back keeps what the log did not take, as far as there is room. What has none is as if it had
// never been added: whoever sees it again tells it.
func (s *suspects) back(some []*raftv1.SuspectSensor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := min(len(some), maxSuspects-len(s.waiting))
	for _, one := range some[room:] {
		delete(s.told, suspectKey(one))
	}
	s.waiting = append(some[:room:room], s.waiting...)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func suspectKey(one *raftv1.SuspectSensor) string { return one.GetHost() + "\x00" + one.GetConduct() }

// tellSuspects brings them into the log until ctx ends.
func (s *Server) tellSuspects(ctx context.Context) {
	for warned := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.suspects.wake:
		}
		some := s.suspects.take()
		for i, one := range some {
			err := s.suspect(ctx, one)
			if err == nil {
				warned = false
				continue
			}
			if errors.Is(err, consensus.ErrInvalid) {
				s.cfg.Logger.Error("a sensor's conduct is not noted", "host", one.GetHost(), "conduct", one.GetConduct(), "error", err)
				continue
			}
			if !warned && ctx.Err() == nil {
				warned = true
				s.cfg.Logger.Warn("sensors' conduct is not noted yet; trying again", "host", one.GetHost(), "conduct", one.GetConduct(), "error", err)
			}
			// Behind the others: what fails for a reason of its own must not keep them out.
			s.suspects.back(append(some[i+1:len(some):len(some)], one))
			hold(ctx, suspectPause)
			break
		}
	}
}

func (s *Server) suspect(ctx context.Context, one *raftv1.SuspectSensor) error {
	attempt, cancel := context.WithTimeout(ctx, endsTimeout)
	defer cancel()
	cmd := &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID, Body: &raftv1.Command_SuspectSensor{SuspectSensor: one}}
	if !state.FirstConduct(one.GetConduct()) {
		cmd.Body = &raftv1.Command_SuspectConduct{SuspectConduct: &raftv1.SuspectConduct{Sensor: one}}
	}
	_, err := propose(attempt, s.cfg.Log, cmd)
	return err
}
