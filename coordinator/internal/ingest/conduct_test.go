package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a full spool comes at full speed, and what is beyond it at the rate that one
// host may have for ever.
func TestHostIsHeldBack(t *testing.T) {
	var c conduct
	now := time.Unix(1_700_000_000, 0)
	const batch = 256 << 10
	for sent := 0; sent < burstBytes; sent += batch {
		if c.spend(batch, now); c.debt(now) != 0 {
			t.Fatalf("held back after %d bytes", sent)
		}
	}
	began := now
	for range 100 {
		c.spend(batch, now)
		now = now.Add(c.debt(now))
	}
	if took := now.Sub(began); took != 100*batch/sendRate*time.Second {
		t.Errorf("100 batches of %d bytes took %s", batch, took)
	}
	if c.held.Round(time.Second) != now.Sub(began) {
		t.Errorf("held back for %s, of which %s count", now.Sub(began), c.held)
	}
	now = now.Add(24 * time.Hour)
	if c.spend(batch, now); c.debt(now) != 0 {
		t.Errorf("held back for %s after a quiet day", c.debt(now))
	}
}

func summary(behaviours int) *sensorv1.Record_Summary {
	s := &sensorv1.Summary{}
	for range behaviours {
		s.NewBehaviours = append(s.NewBehaviours, &sensorv1.Behaviour{})
	}
	return &sensorv1.Record_Summary{Summary: s}
}

// names are the conducts, each of which says what exactly it was.
func names(t *testing.T, odd []oddity) string {
	t.Helper()
	var all []string
	for _, o := range odd {
		if o.detail == "" || strings.Contains(o.detail, "%!") {
			t.Errorf("%s does not say what exactly: %q", o.conduct, o.detail)
		}
		all = append(all, o.conduct)
	}
	return strings.Join(all, " ")
}

// Ensure that what honest sensors do is not odd, and what they never do is.
func TestOddConduct(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		ahead      time.Duration
		behaviours int
		batches    int
		every      time.Duration
		held       time.Duration
		want       string
	}{
		"in time":                     {behaviours: 100, batches: 3},
		"a spool of a week":           {ahead: -7 * 24 * time.Hour, behaviours: 100, batches: 3},
		"a node's clock an hour slow": {ahead: time.Hour, batches: 1},
		"a year ahead":                {ahead: 365 * 24 * time.Hour, batches: 1, want: state.SuspectTime},
		"a distribution's upgrade":    {behaviours: 5000, batches: 3},
		"a flood":                     {behaviours: 5000, batches: 5, want: state.SuspectFlood},
		"as many in a day":            {behaviours: 5000, batches: 24, every: time.Hour},
		"a spool is emptied":          {batches: 1, held: 5 * time.Minute},
		"no end":                      {batches: 1, held: time.Hour, want: state.SuspectVolume},
	} {
		t.Run(name, func(t *testing.T) {
			did, at, got := &conduct{held: c.held}, now, ""
			for i := range uint64(c.batches) {
				got = names(t, did.odd(&sensorv1.Batch{Prev: i, Records: []*sensorv1.Record{{Sequence: i + 1, Time: at.Add(c.ahead).UnixNano(), Body: summary(c.behaviours)}}}, false, at))
				at = at.Add(c.every + time.Second)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Ensure who plays with times is told, and no clock that was wrong and is set right, no dead
// one and no old spool.
func TestClockThatTurns(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const day, years = 24 * time.Hour, 10 * 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		times []time.Duration // of summaries in one stream, as far from now
		boots bool            // each in a stream of its own
		want  string
	}{
		"a spool of a month, then now": {times: []time.Duration{-30 * day, -20 * day, -10 * day, 0}},
		"a dead clock that is set":     {times: []time.Duration{-years, -years + time.Second, 0, time.Second}},
		"many boots with a dead clock": {times: []time.Duration{-years, 0, -years, 0, -years, 0, -years, 0, -years, 0}, boots: true},
		"set wrong and right again":    {times: []time.Duration{0, -years, 0, -2 * day, 0}},
		"hours back and forth":         {times: []time.Duration{0, -2 * time.Hour, 0, -2 * time.Hour, 0, -2 * time.Hour, 0, -2 * time.Hour, 0, -2 * time.Hour}},
		"years back and forth":         {times: []time.Duration{0, -years, 0, -years, 0, -years, 0, -years}, want: state.SuspectClock},
		"further back each time":       {times: []time.Duration{0, -2 * day, -4 * day, -6 * day, -8 * day}, want: state.SuspectClock},
		"as far as a number goes":      {times: []time.Duration{math.MinInt64, 0, math.MinInt64, 0, math.MinInt64, 0, math.MinInt64, 0, math.MinInt64}, want: state.SuspectClock},
	} {
		t.Run(name, func(t *testing.T) {
			did, got := &conduct{}, ""
			for i, at := range c.times {
				b := &sensorv1.Batch{Prev: uint64(i), Records: []*sensorv1.Record{{Sequence: uint64(i) + 1, Time: now.Add(at).UnixNano(), Body: summary(0)}}}
				if c.boots {
					b.Boot, b.Prev = []byte{byte(i)}, 0
				}
				if at == math.MinInt64 {
					b.Records[0].Time = math.MinInt64
				}
				got = names(t, did.odd(b, false, now.Add(time.Duration(i)*time.Second)))
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Ensure leaps of the sequence that no loss explains are told, as is who does not go on from
// where its node is, and neither a spool that overflowed nor a cluster that was restored.
func TestSequences(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		prev      uint64
		sequences []uint64
		gaps      int
		want      string
	}{
		"one after another":              {sequences: []uint64{1, 2, 3}},
		"a stream begun elsewhere":       {prev: 1 << 40, sequences: []uint64{1<<40 + 1}},
		"a million lost in the spool":    {sequences: []uint64{1, 1_000_000, 1_000_001}},
		"more than anybody makes":        {sequences: []uint64{1, 1 << 31}, want: state.SuspectSequence},
		"the last number there is":       {prev: 7, sequences: []uint64{math.MaxInt64}, want: state.SuspectSequence},
		"four streams after a restore":   {gaps: 16, sequences: []uint64{1}},
		"again and again not from there": {gaps: 40, want: state.SuspectSequence},
	} {
		t.Run(name, func(t *testing.T) {
			did, got := &conduct{}, ""
			far := &sensorv1.Batch{Prev: 1000, Records: []*sensorv1.Record{{Sequence: 1 << 40, Time: math.MaxInt64, Body: summary(maxFresh + 1)}}}
			for range c.gaps {
				got = names(t, did.odd(far, true, now)) // nothing of it was taken
			}
			if len(c.sequences) > 0 {
				b := &sensorv1.Batch{Prev: c.prev}
				for _, sequence := range c.sequences {
					b.Records = append(b.Records, &sensorv1.Record{Sequence: sequence, Time: now.UnixNano()})
				}
				got = names(t, did.odd(b, false, now))
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Ensure one oddity hides no other.
func TestAllThatIsOdd(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	did := &conduct{held: time.Hour}
	got := names(t, did.odd(&sensorv1.Batch{Records: []*sensorv1.Record{
		{Sequence: 1, Time: now.Add(48 * time.Hour).UnixNano(), Body: summary(maxFresh + 1)},
		{Sequence: 2, Time: now.Add(72 * time.Hour).UnixNano()},
		{Sequence: 1 << 40, Time: now.UnixNano()},
	}}, false, now))
	want := strings.Join([]string{state.SuspectTime, state.SuspectSequence, state.SuspectFlood, state.SuspectVolume}, " ")
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Ensure a finding that pretends to be a coordinator's loses the name and is told, and no other.
func TestForgedFinding(t *testing.T) {
	finding := func(id, kind string) *sensorv1.Record {
		return &sensorv1.Record{Sequence: 7, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: id, Kind: kind}}}
	}
	batch := &sensorv1.Batch{Records: []*sensorv1.Record{
		{Body: summary(1)}, finding("01JABC", "rule"), finding(state.SuspectPrefix+strings.Repeat("\xff", 1000), "rule"), finding("01JABD", state.KindSilent),
	}}
	if got := unforge(batch); !strings.HasPrefix(got, "Record 7 is a finding \"sus-?") || len(got) > 2*maxDetail {
		t.Errorf("got %q", got)
	}
	var ids []string
	for _, r := range batch.GetRecords()[1:] {
		ids = append(ids, r.GetFinding().GetId())
	}
	if got := strings.Join(ids, ","); got != "01JABC,,01JABD" {
		t.Errorf("they are called %q", got)
	}
	if got := unforge(&sensorv1.Batch{Records: []*sensorv1.Record{{Body: summary(1)}, finding("01JABC", "rule"), finding("", "blind")}}); got != "" {
		t.Errorf("honest findings: %q", got)
	}
}

// Ensure what comes again because a session ended on its way counts once.
func TestSentAgain(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	did := &conduct{}
	b := &sensorv1.Batch{Boot: []byte("a"), Records: []*sensorv1.Record{{Sequence: 1, Time: now.UnixNano(), Body: summary(maxFresh / 2)}}}
	for range 5 {
		if got := names(t, did.odd(b, false, now)); got != "" {
			t.Fatalf("got %q of one batch that came again", got)
		}
	}
}

// Ensure a sensor that ends its session and comes again has spent what it has spent, and that
// nothing is kept of the many that did little.
func TestComingAgain(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	all := conducts{of: make(map[string]*conduct)}
	held, told := false, ""
	for i := range uint64(10) {
		c := all.enter("h-1")
		next := all.enter("h-1") // takes its place before it ends
		c.spend(burstBytes/4, now)
		held = c.debt(now) > 0
		told = names(t, next.odd(&sensorv1.Batch{Prev: i, Records: []*sensorv1.Record{{Sequence: i + 1, Time: now.UnixNano(), Body: summary(maxFresh / 4)}}}, false, now))
		all.leave("h-1", now)
		all.leave("h-1", now)
	}
	if !held || told != state.SuspectFlood {
		t.Errorf("after ten sessions: held back: %v, told: %q", held, told)
	}
	for i := range 100 {
		host := fmt.Sprintf("h-%d", i+2)
		all.enter(host).spend(sendRate, now)
		all.leave(host, now.Add(time.Second))
	}
	if len(all.of) != 1 {
		t.Errorf("%d are remembered, want the one that did much", len(all.of))
	}
	for i := range 2 * maxAway {
		host := fmt.Sprintf("h-%d", i+2)
		all.enter(host).spend(burstBytes, now)
		all.leave(host, now)
	}
	if len(all.of) > maxAway {
		t.Errorf("%d are remembered, at most %d may", len(all.of), maxAway)
	}
	all.leave("h-unknown", now)
	later := now.Add(2 * freshPeriod)
	for host := range all.of {
		all.enter(host)
		all.leave(host, later)
	}
	if len(all.of) != 0 {
		t.Errorf("%d are remembered after a quiet time", len(all.of))
	}
}

// Ensure that what one sensor or thousands of them provoke is told seldom, and bounded.
func TestSuspectsAreBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	s := newSuspects(func() time.Time { return now })
	for range 3 {
		s.add(&raftv1.SuspectSensor{Host: "h-1", Conduct: state.SuspectTime})
	}
	if got := len(s.take()); got != 1 {
		t.Errorf("told %d times, want once", got)
	}
	for i := range 3 * maxSuspects {
		s.add(&raftv1.SuspectSensor{Host: fmt.Sprintf("h-%d", i+2), Conduct: state.SuspectTime})
	}
	if got := len(s.take()); got > maxSuspects || len(s.told) > maxSuspects {
		t.Errorf("%d wait and %d are remembered, at most %d may", got, len(s.told), maxSuspects)
	}
	now = now.Add(suspectPeriod)
	s.add(&raftv1.SuspectSensor{Host: fmt.Sprintf("h-%d", 3*maxSuspects), Conduct: state.SuspectTime})
	if got := len(s.take()); got != 1 {
		t.Errorf("told %d times an hour later, want once", got)
	}
}

// Ensure what the log could not take is told when it can, each once, and that what waits stays bounded.
func TestConductIsToldWhenTheLogTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &keptLog{fakeLog: fakeLog{fail: errors.New("no leader")}}
		s := &Server{cfg: Config{NodeID: "n1", Log: log, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, suspects: newSuspects(time.Now)}
		ctx, stop := context.WithCancel(t.Context())
		var telling sync.WaitGroup
		telling.Go(func() { s.tellSuspects(ctx) })
		tell := func(host string) { s.suspects.add(&raftv1.SuspectSensor{Host: host, Conduct: state.SuspectForged}) }
		tell("h-1")
		tell("h-2")
		hold(ctx, time.Minute)
		tell("h-1") // again, while it waits
		log.mu.Lock()
		log.fail, log.kept = nil, nil
		log.mu.Unlock()
		hold(ctx, time.Minute)
		tell("h-2") // and when it is told
		stop()
		telling.Wait()
		var told []string
		for _, cmd := range log.kept {
			told = append(told, cmd.GetSuspectConduct().GetSensor().GetHost())
		}
		slices.Sort(told)
		if got := strings.Join(told, " "); got != "h-1 h-2" {
			t.Errorf("told of %q", got)
		}
	})
	s := newSuspects(time.Now)
	one := &raftv1.SuspectSensor{Host: "h-1", Conduct: state.SuspectForged}
	s.add(one)
	some := s.take()
	s.waiting = many(maxSuspects, &raftv1.SuspectSensor{Host: "h-2"}) // came meanwhile
	s.back(some)
	if len(s.waiting) != maxSuspects {
		t.Fatalf("%d wait, %d may", len(s.waiting), maxSuspects)
	}
	s.take()
	s.add(one)
	if len(s.take()) != 1 {
		t.Error("what found no room cannot be told again")
	}
}
