package sensor

import (
	"context"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// observe takes one kernel event through all stages; called from one goroutine.
func (s *Sensor) observe(ev event.Event) {
	if exec, ok := ev.(*event.Exec); ok && exec.Parent.PID == s.pid {
		s.canaries.Add(1)
	}
	if p, ok := ev.(*event.Privilege); ok && p.Ours && p.Operation == event.OpBPF {
		s.source.Recheck()
	}
	o := s.enricher.Observe(ev)
	s.record(ev, o)
	s.watchContained(ev, o)
	for _, login := range s.sessions.Observe(ev, o) {
		at := s.enricher.Observe(login)
		s.record(login, at)
		s.judge(at)
	}
	if o != nil {
		s.judge(o)
	}
}

// judge is the part of the way on which findings are made.
func (s *Sensor) judge(o *event.Observation) {
	verdict := s.baseline.Observe(o)
	if s.ownLink(o) {
		return
	}
	findings, notes := s.detector.Evaluate(o, verdict)
	if !slices.ContainsFunc(findings, taints) && (!verdict.Known || verdict.HourBits > 0) && s.detector.Oddness().Suspect {
		s.baseline.MarkSuspect(o.Process.Anchor)
	}
	if len(findings) == 0 {
		s.keepBack(o, verdict)
	}
	for _, f := range findings {
		f.Losses = s.losses.window()
		if taints(f) {
			s.baseline.MarkTainted(f.Process.Anchor)
			s.taint(f.Process)
		}
		if f.Kind != detect.KindTamper {
			if login := s.sessions.Evidence(f.Process); login != "" {
				f.Reason += " " + login
				f.Login = s.sessions.Entry(f.Process)
			}
		}
		s.decide(f)
		s.findings.add(f)
	}
	for _, n := range notes {
		s.append(uplink.RecordFromFlowNote(n), false)
	}
}

// taints says whether a finding has its storyline teach nothing and tell everything. A weak one is
// of what people and programs do as well: were it not learnt, it would be found for ever.
func taints(f *event.Finding) bool {
	return f.Kind != detect.KindTamper && f.Severity != event.Low && f.Severity != event.Informational
}

// ownLink tells the sensor's own flows to its coordinators, which are what it is
// there for wherever it is installed; any other flow of its process is judged.
func (s *Sensor) ownLink(o *event.Observation) bool {
	return o.Flow != nil && o.Process.Key.PID == s.pid && slices.Contains(s.nodes.addresses(), o.Flow.Remote)
}

// append puts a record into the spool; a spool that refuses is a loss, counted and told.
func (s *Sensor) append(record *sensorv1.Record, critical bool) (taken bool) {
	if err := s.spool.Append(record, critical); err != nil {
		s.losses.add("spool", "refused", 1)
		s.log.Error("storing a record for the coordinator", "critical", critical, "error", err)
		return false
	}
	return true
}

// summarise sends a summary every interval, one when another intent is in force, and a
// last one at the end.
func (s *Sensor) summarise(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.SummaryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			<-s.watched
			s.summary(time.Now())
			return nil
		case now := <-tick.C:
			s.summary(now)
		case <-s.intent.took:
			s.summary(time.Now())
		}
	}
}

// summary is for any goroutine: most come by the clock, some at once.
func (s *Sensor) summary(now time.Time) {
	s.summaries.Lock()
	defer s.summaries.Unlock()
	s.takeCounts()
	losses := s.losses.harvest(s.lossTotals(s.source.Losses()))
	s.recorder.NoteLosses(s.losses.all())
	if unseen(losses) {
		s.baseline.MarkLoss()
		s.detector.MarkLoss()
	}
	if err := s.baseline.KeepOdds(s.detector.Odds(), s.detector.Told()); err != nil {
		s.log.Error("keeping how odd this host's storylines are", "error", err)
	}
	summary := s.baseline.Harvest(now, s.health(), losses)
	record := uplink.RecordFromSummary(&summary)
	stats := s.spool.Stats()
	health := record.GetSummary().GetHealth()
	policy, _ := s.intent.current()
	health.IntentVersion = policy.Version()
	health.SpoolBytes, health.SpoolRecords = uint64(max(stats.Bytes, 0)), stats.Records
	for _, dropped := range stats.Dropped {
		health.DroppedRecords += dropped
	}
	if s.append(record, false) {
		s.told()
	}
}

// watchLosses keeps the meter near the truth between summaries: a finding states
// the losses of its window as they were at most this long before it.
func (s *Sensor) watchLosses(ctx context.Context) error {
	const every = 250 * time.Millisecond
	for range pulse.Ticks(ctx, every) {
		s.losses.note(s.lossTotals(s.source.RecentLosses()))
		s.recorder.NoteLosses(s.losses.all())
		if unseen(s.losses.window()) {
			s.baseline.MarkLoss()
			s.detector.MarkLoss()
		}
		s.watchBlindness(time.Now())
	}
	return nil
}

// lossTotals is every stage's cumulative count; the kernel's is read by who asks, who
// knows how exact it must be.
func (s *Sensor) lossTotals(kernel []event.Loss) []event.Loss {
	totals := slices.Concat(kernel, s.spool.Losses(), s.recorder.Losses(), s.sessions.Losses())
	if evicted := s.enricher.Stats().EvictedLiving; evicted > 0 {
		totals = append(totals, event.Loss{Where: "process-tree", Cause: "full", Count: evicted})
	}
	decided := s.detector.Stats()
	if decided.OverBudget > 0 {
		totals = append(totals, event.Loss{Where: findingLosses, Cause: "over-budget", Count: decided.OverBudget})
	}
	if c := decided.Correlations; c.EvictedEvents+c.Unfollowed > 0 {
		totals = append(totals, event.Loss{Where: correlationLosses, Cause: "full", Count: c.EvictedEvents + c.Unfollowed})
	}
	return totals
}

func (s *Sensor) health() event.Health {
	total, suppressed := s.source.Counters()
	used := readUsage()
	_, degraded := s.budget.state()
	health := event.Health{
		RSSBytes:         used.rss,
		CPU:              used.cpu - s.cpuBefore,
		EventsTotal:      total,
		EventsSuppressed: suppressed,
		EventsLost:       s.losses.total(),
		CoverageGaps:     s.gaps.news(s.source.CoverageGaps()),
		Isolation:        s.responder.State(),
		Blind:            s.blind.state(),
		Degraded:         degraded,
	}
	s.cpuBefore = used.cpu
	return health
}
