package ingest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// What one sensor may do, far above what an honest one does. A day of an honest one is
// about a MiB, and a full spool comes once after a long absence.
const (
	// burstBytes come at any speed, what is beyond at sendRate bytes a second: the
	// log and the disks are everybody's.
	burstBytes = 16 << 20
	sendRate   = 256 << 10
	// held for so long in one session is no spool that is being emptied.
	maxHeld = 15 * time.Minute
	// maxFresh behaviours are new on a host in freshPeriod: a first hour of learning has
	// hundreds, a distribution's upgrade thousands.
	maxFresh    = 20_000
	freshPeriod = time.Hour
	// maxAhead is far beyond what a wrong time zone, or a node's own clock, explains.
	maxAhead = 24 * time.Hour
	// maxDetail bounds what of a sensor's own words is told.
	maxDetail = 300
)

// conduct is what one sensor did in this session. It belongs to the session's reader.
type conduct struct {
	budget float64 // bytes that may come now
	at     time.Time
	held   time.Duration
	fresh  int
	since  time.Time
	told   map[string]bool // in this session
}

// spend takes a batch's bytes from the budget and answers how long the next must wait.
func (c *conduct) spend(size int, now time.Time) time.Duration {
	if c.at.IsZero() {
		c.budget = burstBytes
	} else {
		c.budget = min(burstBytes, c.budget+now.Sub(c.at).Seconds()*sendRate)
	}
	c.at = now
	c.budget -= float64(size)
	if c.budget >= 0 {
		return 0
	}
	wait := time.Duration(-c.budget / sendRate * float64(time.Second))
	c.held += wait
	return wait
}

// odd names what no honest sensor does in a batch; empty for an honest one.
func (c *conduct) odd(batch *sensorv1.Batch, now time.Time) (conduct, detail string) {
	if now.Sub(c.since) > freshPeriod {
		c.fresh, c.since = 0, now
	}
	for _, r := range batch.GetRecords() {
		c.fresh += len(r.GetSummary().GetNewBehaviours())
		if ahead := time.Duration(r.GetTime() - now.UnixNano()); ahead > maxAhead {
			return state.SuspectTime, fmt.Sprintf("Record %d is %s ahead.", r.GetSequence(), ahead.Round(time.Hour))
		}
	}
	switch {
	case c.fresh > maxFresh:
		return state.SuspectFlood, fmt.Sprintf("%d new ones in %s.", c.fresh, now.Sub(c.since).Round(time.Second))
	case c.held > maxHeld:
		return state.SuspectVolume, fmt.Sprintf("It was held back for %s.", c.held.Round(time.Second))
	}
	return "", ""
}

// conducted judges a batch that was taken, and holds its sensor back when it sends too much.
func (s *Server) conducted(ctx context.Context, n *session, batch *sensorv1.Batch, size int) {
	now := s.cfg.Now()
	wait := n.conduct.spend(size, now)
	if what, detail := n.conduct.odd(batch, now); what != "" && !n.conduct.told[what] {
		if n.conduct.told == nil {
			n.conduct.told = make(map[string]bool)
		}
		n.conduct.told[what] = true
		s.suspects.add(&raftv1.SuspectSensor{Host: n.host, Conduct: what, Detail: detail})
	}
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
	said := strings.ToValidUTF8(err.Error(), "?")
	s.suspects.add(&raftv1.SuspectSensor{Host: host, Conduct: state.SuspectMalformed, Detail: "What was wrong: " + said[:min(len(said), maxDetail)] + "."})
}

// maxSuspects wait for the log; a host's conduct is told once an hour by a node.
const (
	maxSuspects   = 1024
	suspectPeriod = time.Hour
)

// suspects are on their way into the log.
type suspects struct {
	wake chan struct{}
	now  func() time.Time

	mu      sync.Mutex
	waiting []*raftv1.SuspectSensor
	told    map[string]time.Time
}

func newSuspects(now func() time.Time) *suspects {
	return &suspects{wake: make(chan struct{}, 1), now: now, told: make(map[string]time.Time)}
}

// add never waits. What was told a short time ago, or finds no room, is dropped: the
// session's end and its reason are logged and counted all the same.
func (s *suspects) add(one *raftv1.SuspectSensor) {
	key, now := one.GetHost()+"\x00"+one.GetConduct(), s.now()
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

// tellSuspects brings them into the log until ctx ends.
func (s *Server) tellSuspects(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.suspects.wake:
		}
		for _, one := range s.suspects.take() {
			attempt, cancel := context.WithTimeout(ctx, endsTimeout)
			_, err := propose(attempt, s.cfg.Log, &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID,
				Body: &raftv1.Command_SuspectSensor{SuspectSensor: one}})
			cancel()
			if err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn("a sensor's conduct is not noted", "host", one.GetHost(), "conduct", one.GetConduct(), "error", err)
			}
		}
	}
}
