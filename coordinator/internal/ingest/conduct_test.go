package ingest

import (
	"fmt"
	"testing"
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
		if wait := c.spend(batch, now); wait != 0 {
			t.Fatalf("held back after %d bytes", sent)
		}
	}
	began := now
	for range 100 {
		now = now.Add(c.spend(batch, now))
	}
	if took := now.Sub(began); took != 100*batch/sendRate*time.Second {
		t.Errorf("100 batches of %d bytes took %s", batch, took)
	}
	now = now.Add(24 * time.Hour)
	if wait := c.spend(batch, now); wait != 0 {
		t.Errorf("held back for %s after a quiet day", wait)
	}
}

// Ensure that what honest sensors do is not odd, and what they never do is.
func TestOddConduct(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	summary := func(behaviours int) *sensorv1.Record_Summary {
		s := &sensorv1.Summary{}
		for range behaviours {
			s.NewBehaviours = append(s.NewBehaviours, &sensorv1.Behaviour{})
		}
		return &sensorv1.Record_Summary{Summary: s}
	}
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
			did, at, got := conduct{held: c.held}, now, ""
			for range c.batches {
				what, detail := did.odd(&sensorv1.Batch{Records: []*sensorv1.Record{{Time: at.Add(c.ahead).UnixNano(), Body: summary(c.behaviours)}}}, at)
				if what != "" && detail == "" {
					t.Error("does not say what exactly")
				}
				got, at = what, at.Add(c.every+time.Second)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
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
