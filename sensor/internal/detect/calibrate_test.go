package detect

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// watched runs a calibration over days; each window's oddest score is made by score, and
// what reaches the threshold is told.
func watched(c *calibration, from time.Time, days int, score func() float64) (told int) {
	for i := range days * int(24*time.Hour/c.window) {
		now := from.Add(time.Duration(i) * c.window)
		c.advance(now, false)
		who := event.ProcessKey{PID: uint32(i + 2), Start: 1}
		bits := score()
		c.note(bits, who, false)
		if bits >= c.need {
			c.taint(who)
			c.spend("", event.BehaviourKey{}, bits)
			told++
		}
	}
	return told
}

// host is one whose storylines have scores with an exponential tail.
func tailed(seed uint64, perDay, from, slope float64) func() float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	return func() float64 {
		if r.Float64() > perDay/144 {
			return 0
		}
		return from + slope*r.ExpFloat64()
	}
}

// Ensure that whatever a host's tail is, it tells what the budget says within a third, once
// it was watched for some weeks; and that a young one goes by the prior.
func TestBudgetIsMet(t *testing.T) {
	young := newCalibration(0.5, 10*time.Minute)
	if young.need != priorBits || math.Abs(young.rate(priorBits)-0.5) > 1e-9 {
		t.Errorf("a young host tells from %.1f bits, rate %.2f", young.need, young.rate(priorBits))
	}
	for _, tt := range []struct {
		name                        string
		budget, perDay, from, slope float64
		within                      float64 // of the budget: few findings are measured slowly
	}{
		{"quiet", 0.5, 3, 12, 2, 0.3}, {"as the prior", 0.5, 2, 17, 3.6, 0.3}, {"noisy", 0.5, 8, 14, 3.6, 0.3},
		{"a large budget", 2, 8, 14, 3.6, 0.3}, {"a small one", 0.1, 4, 14, 3, 0.6},
	} {
		told, days := 0, 0
		for seed := range uint64(12) {
			c := newCalibration(tt.budget, 10*time.Minute)
			score := tailed(seed, tt.perDay, tt.from, tt.slope)
			watched(c, epoch, 28, score)
			told += watched(c, epoch.AddDate(0, 0, 28), 28, score)
			days += 28
		}
		if rate := float64(told) / float64(days); math.Abs(rate-tt.budget) > tt.within*tt.budget {
			t.Errorf("%s: %.3f a day, budget %g", tt.name, rate, tt.budget)
		}
	}
}

// Ensure that a flood cannot make a host deaf: the threshold stays within its bound,
// however long it goes on, and returns.
func TestFloodIsBounded(t *testing.T) {
	c := newCalibration(0.5, 10*time.Minute)
	ordinary := tailed(1, 3, 12, 3)
	watched(c, epoch, 28, ordinary)
	before := c.need
	at := epoch.AddDate(0, 0, 28)
	watched(c, at, 60, func() float64 { return c.need + 1 })
	if c.need > highestNeed || c.level < -maxLevel {
		t.Errorf("a flood raised what is told from %.1f to %.1f bits, at most %.1f; level %.1f", before, c.need, highestNeed, c.level)
	}
	day := newCalibration(0.5, 10*time.Minute)
	watched(day, epoch, 28, ordinary)
	was := day.need
	watched(day, at, 1, func() float64 { return day.need + 1 })
	if day.need > was+3.5 {
		t.Errorf("one day's flood raised what is told from %.1f to %.1f bits", was, day.need)
	}
	watched(c, at.AddDate(0, 0, 60), 45, ordinary)
	if c.need > before+3 {
		t.Errorf("45 days later it is %.1f bits, was %.1f", c.need, before)
	}
}

// Ensure that windows with losses, with findings, and those of storylines that have a
// finding within a day do not count, and that others do.
func TestWhatCalibrates(t *testing.T) {
	who := event.ProcessKey{PID: 9, Start: 1}
	for _, tt := range []struct {
		name string
		do   func(c *calibration)
		want float64
	}{
		{"ordinary", func(*calibration) {}, 1},
		{"losses", func(c *calibration) { c.excluded = true }, 0},
		{"tainted", func(c *calibration) { c.note(18, who, true) }, 0},
		{"a rule's finding in it", func(c *calibration) { c.taint(event.ProcessKey{PID: 10, Start: 1}) }, 0},
		{"a finding later", func(c *calibration) { c.advance(epoch.Add(5*time.Hour), false); c.taint(who) }, 0},
		{"a finding of another", func(c *calibration) {
			c.advance(epoch.Add(5*time.Hour), false)
			c.taint(event.ProcessKey{PID: 10, Start: 1})
		}, 1},
		{"learning", func(c *calibration) { c.advance(epoch.Add(time.Hour), true) }, 0},
	} {
		c := newCalibration(0.5, 10*time.Minute)
		c.advance(epoch, false)
		c.note(18, who, false)
		tt.do(c)
		for i := range 30 * 6 {
			c.advance(epoch.Add(6*time.Hour+time.Duration(i)*10*time.Minute), false)
		}
		if got := c.tail(bin(18)); got != tt.want {
			t.Errorf("%s: %v windows with 18 bits, want %v", tt.name, got, tt.want)
		}
		if c.days < 0.2 {
			t.Errorf("%s: %.2f days were counted", tt.name, c.days)
		}
	}
}

// Ensure that it outlives a restart, and that other bytes are refused.
func TestCalibrationKept(t *testing.T) {
	c := newCalibration(0.5, 10*time.Minute)
	watched(c, epoch, 20, tailed(3, 5, 14, 3))
	again := newCalibration(0.5, 10*time.Minute)
	if err := again.decode(c.encode()); err != nil {
		t.Fatal(err)
	}
	if math.Abs(again.need-c.need) > 0.5 || math.Abs(again.rate(20)-c.rate(20)) > 1e-6 || again.level != c.level {
		t.Errorf("told from %.1f, was %.1f; rate %.4f, was %.4f", again.need, c.need, again.rate(20), c.rate(20))
	}
	for _, bad := range [][]byte{nil, {1}, c.encode()[:100], append([]byte{2}, c.encode()[1:]...)} {
		if err := again.decode(bad); err == nil {
			t.Errorf("%d bytes were taken", len(bad))
		}
	}
}

func FuzzCalibration(f *testing.F) {
	f.Add(newCalibration(0.5, time.Minute).encode())
	f.Fuzz(func(t *testing.T, in []byte) {
		c := newCalibration(0.5, time.Minute)
		if c.decode(in) != nil {
			return
		}
		if p := c.pValue(20); !(p >= 0 && p <= 1) || !(c.need >= lowestNeed && c.need <= highestNeed) {
			t.Errorf("p %v, told from %v", p, c.need)
		}
	})
}

// Ensure a host that nobody lets learn is not made deaf by what stays new because of it: neither its
// oddest storylines nor what was told of them move the score that is told.
func TestPausedLearningCalibratesNothing(t *testing.T) {
	for name, told := range map[string]bool{"odd": false, "told": true} {
		c := newCalibration(0.5, 10*time.Minute)
		before := c.need
		for i := range 14 * 144 {
			c.advance(epoch.Add(time.Duration(i)*10*time.Minute), false)
			c.frozen = true
			c.note(before-1, event.ProcessKey{PID: uint32(i), Start: 1}, false)
			if told {
				c.spend("", event.BehaviourKey{}, before)
			}
		}
		if c.need != before {
			t.Errorf("%s: after two weeks of a pause it tells from %.1f bits, before from %.1f", name, c.need, before)
		}
	}
}
