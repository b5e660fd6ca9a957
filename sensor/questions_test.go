package sensor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Ensure questions may spend what is saved, then no more than half the sensor's budget,
// however they are asked, and that all of it is known to the budget of the watching.
func TestAskingBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAskingBudget(0.02)
		began := time.Now()
		var used, rested time.Duration
		for time.Since(began) < 10*time.Minute {
			// Work takes time as well.
			work := 5 * time.Millisecond
			time.Sleep(work) //nolint:forbidigo // in a bubble: it is the work
			used += work
			rest, empty := b.take(work)
			if !empty && rest != work {
				t.Fatalf("rests %s while there is credit", rest)
			}
			if empty && used < askingMost {
				t.Fatalf("empty after %s", used)
			}
			rested += rest
			time.Sleep(rest) //nolint:forbidigo // as above
		}
		most := askingMost + time.Duration(0.01*float64(time.Since(began)))
		if used > most+5*time.Millisecond || used < most-time.Second {
			t.Errorf("spent %s in %s, want about %s", used, time.Since(began), most)
		}
		if b.spent() != used {
			t.Errorf("spent %s, told %s", used, b.spent())
		}
		// It is saved up again, and not more than that.
		time.Sleep(24 * time.Hour) //nolint:forbidigo // as above
		if _, empty := b.take(askingMost - time.Millisecond); empty {
			t.Error("nothing was saved in a day")
		}
		if _, empty := b.take(time.Second); !empty {
			t.Error("more was saved than the most")
		}
	})
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
