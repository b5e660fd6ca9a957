package detect

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// told has the window at a time tell one finding of so many bits, and goes on to the next.
func tellOne(c *calibration, at time.Time, id string, bits float64) time.Time {
	c.advance(at, false)
	who := event.ProcessKey{PID: uint32(at.Unix()), Start: 1} //nolint:gosec // any number
	c.note(bits, who, false)
	c.taint(who)
	c.spend(id, event.BehaviourKey{1}, bits)
	at = at.Add(c.window)
	c.advance(at, false)
	return at
}

func say(c *calibration, as disposition, ids ...string) {
	for _, id := range ids {
		for i := range c.told {
			if c.told[i].id == id {
				c.told[i].said = as
			}
		}
	}
	c.settleTold()
	c.set()
}

// Ensure that a finding which a person calls malicious leaves a host as ready to tell the next one as if it had
// not been, that a benign one makes its like less improbable and no more than that, and that each counts once.
func TestDispositionsCalibrate(t *testing.T) {
	const odd = 27.0
	grown := func() (*calibration, time.Time) {
		c := newCalibration(0.5, 10*time.Minute)
		watched(c, epoch, 40, tailed(7, 3, 12, 2))
		return c, epoch.AddDate(0, 0, 40)
	}
	plain, at := grown()
	plain.advance(at, false)
	plain.advance(at.Add(plain.window), false)
	told, at := grown()
	at = tellOne(told, at, "f-1", odd)
	if told.level >= plain.level || told.rate(told.told[len(told.told)-1].at) <= plain.rate(told.told[len(told.told)-1].at) {
		t.Fatalf("a finding takes nothing of the budget: level %v, was %v", told.level, plain.level)
	}

	bad, _ := grown()
	tellOne(bad, at.Add(-bad.window), "f-1", odd)
	say(bad, malicious, "f-1")
	if math.Abs(bad.level-plain.level) > 1e-3 || math.Abs(bad.need-plain.need) > 0.5 {
		t.Errorf("malicious: level %v and %v bits, without the finding %v and %v", bad.level, bad.need, plain.level, plain.need)
	}
	for _, bits := range []float64{16, 20, 24, odd} {
		if got, want := bad.rate(bits), plain.rate(bits); math.Abs(got-want) > 1e-2*want {
			t.Errorf("malicious: %v bits come %v times a day, without the finding %v", bits, got, want)
		}
	}
	level := bad.level
	say(bad, malicious, "f-1")
	if bad.level != level {
		t.Error("said twice it counts twice")
	}

	fine, _ := grown()
	tellOne(fine, at.Add(-fine.window), "f-1", odd)
	like := fine.told[len(fine.told)-1].at + benignBits - 1
	before, beyond := fine.pValue(like), fine.pValue(odd)
	say(fine, benign, "f-1")
	if after := fine.pValue(like); after < 1.03*before {
		t.Errorf("benign: %v bits were as likely as %v and are %v", like, before, after)
	}
	if after := fine.pValue(odd); after > 1.5*beyond {
		t.Errorf("benign: %v bits, far above what was told from, were as likely as %v and are %v", odd, beyond, after)
	}
	if fine.level != told.level || fine.tail(0) != told.tail(0) {
		t.Errorf("benign: level %v and %v windows, before %v and %v", fine.level, fine.tail(0), told.level, told.tail(0))
	}
	if len(fine.told) != len(told.told)-1 {
		t.Errorf("%d findings wait for a word, %d before", len(fine.told), len(told.told))
	}
}

// Ensure that what is said while the window is still at hand counts at its end, and what came in a flood, or
// while nothing was learnt, counts for nothing either way.
func TestDispositionOfWindowAtHand(t *testing.T) {
	early, late := newCalibration(0.5, 10*time.Minute), newCalibration(0.5, 10*time.Minute)
	for _, c := range []*calibration{early, late} {
		c.advance(epoch, false)
		c.note(26, event.ProcessKey{PID: 2}, false)
		c.spend("f-1", event.BehaviourKey{}, 26)
	}
	say(early, benign, "f-1")
	for _, c := range []*calibration{early, late} {
		c.advance(epoch.Add(c.window), false)
	}
	say(late, benign, "f-1")
	early.set()
	if at := bin(priorBits + benignBits); early.bins != late.bins || early.need != late.need || early.bins[at] != 1 {
		t.Errorf("said at once it counts %v, said later %v", early.bins[at], late.bins[at])
	}

	flood := newCalibration(0.5, 10*time.Minute)
	flood.advance(epoch, false)
	for i := range 50 {
		flood.spend(fmt.Sprint(i), event.BehaviourKey{}, 30)
	}
	flood.advance(epoch.Add(flood.window), false)
	counted := flood.tail(1)
	for i := range 50 {
		say(flood, benign, fmt.Sprint(i))
	}
	if got := flood.bins[bin(priorBits+benignBits)]; got == 0 || got > flood.flood() || flood.tail(1) != counted {
		t.Errorf("of a flood %v windows count, at most %v", got, flood.flood())
	}

	paused := newCalibration(0.5, 10*time.Minute)
	before := *paused
	paused.advance(epoch, false)
	paused.frozen = true
	paused.spend("f-1", event.BehaviourKey{}, 30)
	paused.advance(epoch.Add(paused.window), false)
	say(paused, malicious, "f-1")
	if paused.bins != before.bins || paused.level != before.level {
		t.Error("what was told in a pause changes what is told from")
	}
}

// Ensure that nobody makes a host deaf by having everything called benign, for as long as they like.
func TestDispositionsAreBounded(t *testing.T) {
	c := newCalibration(0.5, 10*time.Minute)
	watched(c, epoch, 28, tailed(1, 3, 12, 3))
	at := epoch.AddDate(0, 0, 28)
	for i := range 90 * 24 {
		id := fmt.Sprint(i)
		at = tellOne(c, at, id, 60)
		say(c, benign, id)
		for range 5 {
			at = at.Add(c.window)
			c.advance(at, false)
		}
	}
	if c.need > highestNeed || c.level < -maxLevel || len(c.told) > maxTold {
		t.Errorf("told from %.1f bits, at most %.1f; level %.1f; %d wait", c.need, highestNeed, c.level, len(c.told))
	}
	// What is far above is as rare still, or nothing would be grave any more.
	if often, usual := c.rate(highestNeed+benignBits+10), c.rate(highestNeed+benignBits); often > usual/8 {
		t.Errorf("10 bits above all that was told come %v times a day, what was told %v", often, usual)
	}
	for i := range 90 {
		id := fmt.Sprint("m", i)
		at = tellOne(c, at, id, 60)
		say(c, malicious, id)
	}
	if c.need < lowestNeed || c.level > maxLevel {
		t.Errorf("told from %.1f bits, at least %.1f; level %.1f", c.need, lowestNeed, c.level)
	}
}

// Ensure that one day's words, on a host of any age, move what is told from by some bits and no further, and that they
// leave what is far rarer as rare as it was: else no finding would be grave any more.
func TestOneDaysWords(t *testing.T) {
	for _, days := range []int{0, 1, 28} {
		c := newCalibration(0.5, 10*time.Minute)
		watched(c, epoch, days, tailed(5, 3, 12, 2))
		at := epoch.AddDate(0, 0, days)
		need, rare := c.need, c.rate(c.need+10)
		for i := range 20 {
			at = tellOne(c, at, fmt.Sprint(i), 60)
		}
		unsaid := c.need
		for i := range 20 {
			say(c, benign, fmt.Sprint(i))
		}
		if c.need > unsaid+benignBits || c.need == unsaid && days < 2 {
			t.Errorf("after %d days one day's findings raised what is told from from %.1f to %.1f bits, and words to %.1f", days, need, unsaid, c.need)
		}
		if now := c.rate(need + 10); now > 2*rare {
			t.Errorf("after %d days what came %v times a day comes %v times", days, rare, now)
		}
	}
}

// Ensure a clock that is set back, and one that stands, leave no finding for the next window's count.
func TestClockSetBackWithFinding(t *testing.T) {
	c := newCalibration(0.5, 10*time.Minute)
	c.advance(epoch, false)
	c.spend("f-1", event.BehaviourKey{}, 30)
	c.advance(epoch.Add(-time.Hour), false)
	if c.told[0].open {
		t.Error("its window is still at hand")
	}
}

// Ensure what was told is known over a restart, and other bytes are refused.
func TestToldKept(t *testing.T) {
	c := newCalibration(0.5, 10*time.Minute)
	at := epoch
	for i := range maxTold + 20 {
		at = tellOne(c, at.Add(48*time.Hour), fmt.Sprintf("01J%023d", i), 26)
		for range 300 { // days pass, and the budget fills
			at = at.Add(c.window)
			c.advance(at, false)
		}
	}
	again := newCalibration(0.5, 10*time.Minute)
	if err := again.decode(c.encode()); err != nil {
		t.Fatal(err)
	}
	if err := again.decodeTold(c.encodeTold()); err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("01J%023d", maxTold+19)
	if len(again.told) != maxTold || again.told[maxTold-1].id != last || again.told[maxTold-1] != c.told[maxTold-1] {
		t.Fatalf("%d are known, the last %+v", len(again.told), again.told[len(again.told)-1])
	}
	if c.told[maxTold-1].weight == 0 {
		t.Fatal("the last counts for nothing, so that nothing of it can be lost")
	}
	before := again.bins
	say(c, benign, last)
	say(again, benign, last)
	if again.bins == before {
		t.Error("after a restart a word moves nothing")
	}
	if math.Abs(again.rate(26)-c.rate(26)) > 1e-6 {
		t.Errorf("after a restart 26 bits come %v times a day, without one %v", again.rate(26), c.rate(26))
	}
	whole := c.encodeTold()
	for name, bad := range map[string][]byte{"nothing": nil, "another version": {9}, "cut": whole[:len(whole)-3], "no id": append([]byte{1, 0}, whole...)} {
		if err := again.decodeTold(bad); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if len(whole) > 16<<10 {
		t.Errorf("it takes %d bytes", len(whole))
	}
}

func FuzzTold(f *testing.F) {
	c := newCalibration(0.5, time.Minute)
	tellOne(c, epoch, strings.Repeat("x", maxToldID), 26)
	f.Add(c.encodeTold())
	f.Fuzz(func(t *testing.T, in []byte) {
		c := newCalibration(0.5, time.Minute)
		if c.decodeTold(in) != nil {
			return
		}
		for i := range c.bins {
			c.bins[i] = 2
		}
		for i := range c.told {
			c.told[i].said = disposition(1 + i%2)
		}
		c.settleTold()
		c.set()
		for i, n := range c.bins {
			if !(n >= 0 && n < 2+maxTold+1) {
				t.Errorf("bin %d holds %v", i, n)
			}
		}
		if p := c.pValue(20); !(p >= 0 && p <= 1) || !(c.need >= lowestNeed && c.need <= highestNeed) || len(c.told) != 0 {
			t.Errorf("p %v, told from %v", p, c.need)
		}
	})
}

// Ensure the engine knows its odd findings again by their ids, says what they are about, and knows no others.
func TestDispose(t *testing.T) {
	h, e := newHost(), engine(t)
	web := h.process(nil, "/opt/shop/server", "server")
	e.Evaluate(h.open(web, event.Inbound, "10.0.0.5:50001"), event.Verdict{})
	v := unusual(14)
	v.Behaviour.Key = event.BehaviourKey{7}
	found, _ := e.Evaluate(h.exec(h.process(web, "/usr/bin/dash", "sh", "-c", "id")), v)
	if len(found) != 1 || found[0].PValue == 0 {
		t.Fatalf("got %+v", found)
	}
	id := found[0].ID
	if about := e.About([]string{"", "another"}); len(about) != 0 {
		t.Errorf("what was not told is known as %v", about)
	}
	for range 2 {
		if about := e.About([]string{"another", id, id}); len(about) != 1 || about[0] != v.Behaviour.Key {
			t.Errorf("the finding is about %v", about)
		}
	}
	e.Dispose([]string{"another"}, true)
	e.Dispose([]string{id}, false)
	if about := e.About([]string{id}); len(about) != 0 || e.odds.told[0].said != benign {
		t.Errorf("a finding that was judged may be again: %v", about)
	}
	e.Dispose([]string{id}, true)
	if e.odds.told[0].said != benign {
		t.Error("a finding is judged twice")
	}
	if s := e.Stats(); s.Anomalies != 1 {
		t.Errorf("%d odd findings", s.Anomalies)
	}
}
