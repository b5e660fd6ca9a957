package detect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// calibration says how often an ordinary day of this host has a storyline as odd as
// one at hand. It keeps the oddest score of each window in a histogram with bins of half
// a bit (1 KiB, exact to a bin), which is what a conformal p-value needs: a score is
// always made by a baseline that had not seen the window yet (prequential, Dawid 1984),
// so that every window is held out.
//
// A window waits a day before it counts, and never does when it lost events, when a
// storyline in it has a finding, or when its oddest had one by then. What was told because of
// its oddness counts as one window at the score that was told from, whatever it had: else
// the distribution would end where the budget cuts, and what is told would sink for ever.
// While a coordinator has the host learn nothing, all of this stands still: what stays new
// because of that is no measure of an ordinary day, and whoever has a node could else make the
// host deaf.
// A young host goes by the prior, which counts as much as priorDays of its own; above the
// fifth or so oddest window the tail has the prior's slope.
//
// The allowed rate is the budget, corrected by what was really told (adaptive conformal
// inference, Gibbs and Candès 2021): each finding takes stepPerFinding halvings off it, and
// each day gives back as much as the budget's findings took. At most 2^maxLevel either
// way, and the flood of a day counts as floodCounts budgets at most, or as one finding. What
// people say of findings corrects both (Engine.Dispose).
type calibration struct {
	budget float64 // findings a day
	window time.Duration

	bins [binCount]float64 // windows by their oddest score; both fade
	days float64           // that these are of
	// level is the correction, in halvings of the allowed rate.
	level    float64
	realised float64 // findings a day, over the last week or so
	credit   float64 // findings that may still count against the level today
	// anomalies are the findings so far, and told those of them that a person may yet judge.
	anomalies uint64
	told      []toldOdd

	index    int64 // of the window at hand; 0: none
	worst    float64
	who      event.ProcessKey
	excluded bool // the window at hand taught nothing
	frozen   bool // nothing of it counts, what was told neither: learning was paused
	findings int  // in it
	waiting  []waiting
	// need is the score that is told, and plain what it would be without the correction.
	need, plain float64
	unset       float64 // days since they were taken
}

// waiting is a window that may yet turn out to be an intruder's.
type waiting struct {
	index int64
	worst float64
	who   event.ProcessKey
	count float64 // windows that it stands for
	out   bool
}

const (
	maxBits    = 64
	binsPerBit = 2
	binCount   = maxBits * binsPerBit

	// The prior: on a host of which nothing is known the rate of storylines with so many
	// bits halves with every priorSlope of them, and is half a one a day at priorBits. Both
	// are of the benign development weeks of make eval, all roles together.
	priorBits  = 22.0
	priorSlope = 2.5
	priorDays  = 3.0
	leastPeak  = 5.0
	lowestPeak = 10 // bits
	// keepDays is about how many days the histogram is of.
	keepDays = 45.0

	stepPerFinding = 0.4
	maxLevel       = 4.0
	floodCounts    = 4.0
	// realisedDays is over how many days the realised rate is taken.
	realisedDays = 7.0
	// setEvery is how often, in days, what is told from is taken anew.
	setEvery = 1.0 / 24
	// holdFor is how long a window waits, and maxWaiting how many at most.
	holdFor    = 24 * time.Hour
	maxWaiting = 512

	// The score that is told never leaves these bounds, whatever was measured: above, so
	// that nobody can make a host deaf by noise, and below, so that a quiet host's budget is not
	// spent on nothing.
	lowestNeed  = 14.0
	highestNeed = priorBits + 10.0
	// suspectBits below what is told a storyline is suspect, and teaches nothing.
	suspectBits = 3.0
)

func newCalibration(budget float64, window time.Duration) *calibration {
	c := &calibration{budget: budget, window: window, realised: budget}
	c.credit = c.flood()
	c.set()
	return c
}

func (c *calibration) windowDays() float64 { return c.window.Hours() / 24 }

// priorRate is how many storylines a day have at least so many bits before anything was measured.
func priorRate(bits float64) float64 {
	return 0.5 * math.Exp2((priorBits-bits)/priorSlope)
}

// rate is how many storylines a day have at least so many bits.
func (c *calibration) rate(bits float64) float64 {
	return max(c.mix(bits, c.tail(bin(bits))), c.peak().beyond(bits))
}

// peak is the highest score that enough windows reached, and their rate: above it the few
// that are there say less than the slope does.
type peak struct{ bits, rate float64 }

func (c *calibration) peak() peak {
	seen := 0.0
	for i := binCount - 1; i >= lowestPeak*binsPerBit; i-- {
		above := seen
		if seen += c.bins[i]; seen >= leastPeak {
			// As if the bin were evenly full: one window more must never make its like rarer.
			part := (leastPeak - above) / c.bins[i]
			bits := (float64(i) + 1 - part) / binsPerBit
			return peak{bits, c.mix(bits, leastPeak)}
		}
	}
	return peak{}
}

func (p peak) beyond(bits float64) float64 {
	if bits < p.bits {
		return 0 // measured
	}
	return p.rate * math.Exp2((p.bits-bits)/priorSlope)
}

func (c *calibration) mix(bits, seen float64) float64 {
	return (priorDays*priorRate(bits) + seen) / (priorDays + c.days)
}

func (c *calibration) tail(from int) (n float64) {
	for _, count := range c.bins[from:] {
		n += count
	}
	return n
}

func bin(bits float64) int { return min(max(int(bits*binsPerBit), 0), binCount-1) }

// pValue is how likely a window has at least one such storyline.
func (c *calibration) pValue(bits float64) float64 {
	return -math.Expm1(-c.rate(bits) * c.windowDays())
}

// flood is how many findings of a day count against the level at most; one always does, or
// a small budget would not be held.
func (c *calibration) flood() float64 { return max(floodCounts*c.budget, 1) }

// allowed is the rate at which storylines may be told.
func (c *calibration) allowed() float64 { return c.budget * math.Exp2(c.level) }

func (c *calibration) set() {
	c.unset = 0
	c.need, c.plain = c.threshold(c.allowed()), c.threshold(c.budget)
}

// threshold is the least score whose rate is allowed.
func (c *calibration) threshold(allowed float64) float64 {
	seen, top := 0.0, c.peak()
	at := highestNeed
	for i := len(c.bins) - 1; i >= 0; i-- {
		seen += c.bins[i]
		bits := float64(i) / binsPerBit
		if bits > highestNeed {
			continue
		}
		if max(c.mix(bits, seen), top.beyond(bits)) > allowed*(1+1e-9) {
			break
		}
		at = bits
	}
	return max(at, lowestNeed)
}

// advance closes the windows that ended before now.
func (c *calibration) advance(now time.Time, learning bool) {
	index := now.UnixNano() / int64(c.window)
	if index == c.index {
		return
	}
	if c.index != 0 && index > c.index {
		// Windows in which nothing at all came count, but for a gap: then the machine slept,
		// or the clock was set.
		n := min(index-c.index, max(1, int64(time.Hour/c.window)))
		if !learning && !c.frozen {
			c.close(float64(n))
		}
	}
	c.closeTold(0)
	c.index, c.worst, c.who, c.excluded, c.frozen, c.findings = index, 0, event.ProcessKey{}, false, false, 0
}

// close takes the window at hand in, and n-1 without anything.
func (c *calibration) close(n float64) {
	days := n * c.windowDays()
	c.credit = min(c.credit+c.flood()*days, max(c.flood(), 2))
	counted := min(float64(c.findings), math.Floor(c.credit))
	c.credit -= counted
	c.level = min(max(c.level+stepPerFinding*(c.budget*days-counted), -maxLevel), maxLevel)
	fade := math.Exp(-days / realisedDays)
	c.realised = c.realised*fade + float64(c.findings)*(1-fade)/max(days, 1e-9)

	switch {
	case counted > 0:
		c.take(waiting{worst: c.need, count: n})
		c.bins[bin(c.need)] += counted - 1
		c.closeTold(int(counted))
	case !c.excluded && c.findings == 0:
		c.wait(n)
	}
	for len(c.waiting) > 0 && (len(c.waiting) > maxWaiting || time.Duration(c.index-c.waiting[0].index)*c.window >= holdFor) {
		if w := c.waiting[0]; !w.out {
			c.take(w)
		}
		c.waiting = c.waiting[1:]
	}
	// What changes by the clock changes slowly.
	if c.unset += days; counted > 0 || c.unset >= setEvery {
		c.set()
	}
}

// wait puts the window at hand behind the others; quiet ones share a place.
func (c *calibration) wait(n float64) {
	if last := len(c.waiting) - 1; last >= 0 && c.worst == 0 && c.waiting[last].worst == 0 &&
		time.Duration(c.index-c.waiting[last].index)*c.window < holdFor/maxWaiting {
		c.waiting[last].count += n
		return
	}
	c.waiting = append(c.waiting, waiting{c.index, c.worst, c.who, n, false})
}

func (c *calibration) take(w waiting) {
	c.bins[bin(w.worst)]++
	c.bins[0] += w.count - 1
	c.days += w.count * c.windowDays()
	if c.days > keepDays {
		// Fading a little each time keeps the sum there.
		share := keepDays / c.days
		for i := range c.bins {
			c.bins[i] *= share
		}
		for i := range c.told {
			c.told[i].weight *= share
		}
		c.days = keepDays
	}
}

// note takes a score into the window at hand.
func (c *calibration) note(bits float64, who event.ProcessKey, tainted bool) {
	if tainted {
		c.excluded = true
		return
	}
	if bits > c.worst {
		c.worst, c.who = bits, who
	}
}

// taint notes that a storyline has a finding: no window of it, nor the one at hand,
// is an ordinary one.
func (c *calibration) taint(who event.ProcessKey) {
	c.excluded = true
	for i := range c.waiting {
		if c.waiting[i].who == who && c.waiting[i].worst > 0 {
			c.waiting[i].out = true
		}
	}
}

const calibrationVersion = 1

// errCalibration: bytes that no calibration wrote.
var errCalibration = errors.New("no calibration")

// encode is what outlives the sensor: not the window at hand, nor those that wait.
func (c *calibration) encode() []byte {
	out := []byte{calibrationVersion}
	for _, v := range []float64{c.days, c.level, c.realised, c.credit} {
		out = binary.BigEndian.AppendUint64(out, math.Float64bits(v))
	}
	for _, n := range c.bins {
		out = binary.BigEndian.AppendUint32(out, math.Float32bits(float32(n)))
	}
	return out
}

// decode takes up what encode wrote. What is not finite or out of bounds is refused whole.
func (c *calibration) decode(in []byte) error {
	if len(in) != 1+4*8+4*binCount || in[0] != calibrationVersion {
		return fmt.Errorf("%w: %d bytes", errCalibration, len(in))
	}
	in = in[1:]
	var head [4]float64
	for i := range head {
		head[i] = math.Float64frombits(binary.BigEndian.Uint64(in))
		in = in[8:]
	}
	var bins [binCount]float64
	for i := range bins {
		bins[i] = float64(math.Float32frombits(binary.BigEndian.Uint32(in)))
		in = in[4:]
		if !(bins[i] >= 0 && bins[i] < 1e9) {
			return fmt.Errorf("%w: a bin of %v", errCalibration, bins[i])
		}
	}
	if !(head[0] >= 0 && head[0] <= keepDays && math.Abs(head[1]) <= maxLevel && head[2] >= 0 && head[2] < 1e9 && head[3] >= 0 && head[3] < 1e9) {
		return fmt.Errorf("%w: %v", errCalibration, head)
	}
	c.days, c.level, c.realised, c.credit, c.bins = head[0], head[1], head[2], min(head[3], max(c.flood(), 2)), bins
	c.set()
	return nil
}
