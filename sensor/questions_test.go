package sensor

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Ensure questions may spend what is saved, then no more than half the sensor's budget,
// however they are asked, and that all of it is known to the budget of the watching.
func TestAskingBudget(t *testing.T) {
	b := newAskingBudget(0.02)
	began := b.at
	now := began
	b.now = func() time.Time { return now }
	var used time.Duration
	for now.Sub(began) < 10*time.Minute {
		const work = 5 * time.Millisecond // which takes time as well
		now = now.Add(work)
		used += work
		rest, empty := b.take(work)
		if !empty && rest != work {
			t.Fatalf("rests %s while there is credit", rest)
		}
		if empty && used < askingMost {
			t.Fatalf("empty after %s", used)
		}
		now = now.Add(rest)
	}
	most := askingMost + time.Duration(0.01*float64(now.Sub(began)))
	if used > most+5*time.Millisecond || used < most-time.Second {
		t.Errorf("spent %s in %s, want about %s", used, now.Sub(began), most)
	}
	if b.spent() != used {
		t.Errorf("spent %s, told %s", used, b.spent())
	}
	// It is saved up again, and not more than that.
	now = now.Add(24 * time.Hour)
	if _, empty := b.take(askingMost - time.Millisecond); empty {
		t.Error("nothing was saved in a day")
	}
	if _, empty := b.take(time.Second); !empty {
		t.Error("more was saved than the most")
	}
}

// Ensure a question that is taken back does not rest to the end.
func TestPaceEnds(t *testing.T) {
	b := newAskingBudget(0.02)
	b.credit = -time.Hour
	p := &pace{budget: &b, before: -time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.rest(ctx); !errors.Is(err, context.Canceled) || !p.slowed {
		t.Errorf("got %v, slowed %v", err, p.slowed)
	}
}
