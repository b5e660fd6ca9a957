package detect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// toldOdd is a finding that was told because of how odd its storyline was, and of which nobody
// has said yet what it was.
type toldOdd struct {
	id   string
	key  event.BehaviourKey // what it is about
	bits float64            // its storyline's score
	// at is the score that it counts at among the windows, and weight how much of one it still
	// is; 0: it counts for nothing, as it came in a flood, or while nothing was learnt.
	at, weight float64
	open       bool // its window is at hand
	said       disposition
}

// disposition is what a person says that a finding was.
type disposition uint8

const (
	undisposed disposition = iota
	benign
	malicious
)

const (
	// maxTold are remembered: at the default budget those of most of a year.
	maxTold   = 128
	maxToldID = 64
	// benignBits is how far above what was told from a benign one counts at most: enough for what
	// is like it, and too little for anybody to make all that is rarer look usual with one word.
	benignBits = 3.0
)

// About are the behaviours that findings are about, by their ids: those that were told because of their
// oddness, not too long ago, and of which nobody has said what they were.
func (e *Engine) About(findings []string) (keys []event.BehaviourKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.odds.told {
		if t.said == undisposed && slices.Contains(findings, t.id) {
			keys = append(keys, t.key)
		}
	}
	return keys
}

// Dispose takes what a person said of findings, by their ids, once for each of those that About knows.
//
// A benign one shows that an ordinary day of this host has a storyline so odd: it counts from now on at
// its own score, or benignBits above what was told from. A malicious one shows nothing of ordinary days: it counts no more, and
// gives back what it took off the budget, which is one of false alarms. The bounds of the
// score that is told from are the same whatever people say (lowestNeed, highestNeed).
func (e *Engine) Dispose(findings []string, bad bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	said := benign
	if bad {
		said = malicious
	}
	for i := range e.odds.told {
		if t := &e.odds.told[i]; t.said == undisposed && slices.Contains(findings, t.id) {
			t.said = said
		}
	}
	e.odds.settleTold()
}

// Told are the findings that Dispose knows, for Config.Told of the next run.
func (e *Engine) Told() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.odds.encodeTold()
}

// spend notes a finding that the budget is of.
func (c *calibration) spend(id string, key event.BehaviourKey, bits float64) {
	c.findings++
	c.anomalies++
	if len(c.told) >= maxTold {
		c.told = slices.Delete(c.told, 0, 1)
	}
	c.told = append(c.told, toldOdd{id: id, key: key, bits: bits, open: true})
}

// closeTold says how the findings of the window at hand count: the first so many as one at the
// score that was told from.
func (c *calibration) closeTold(counted int) {
	for i := range c.told {
		t := &c.told[i]
		if !t.open {
			continue
		}
		if t.open = false; counted > 0 {
			t.at, t.weight = c.need, 1
			counted--
		}
	}
	c.settleTold()
}

// settleTold counts what was said of findings whose windows have ended. What is told from follows with
// the end of the window at hand, as what was told in it counts at one score.
func (c *calibration) settleTold() {
	c.told = slices.DeleteFunc(c.told, func(t toldOdd) bool {
		if t.said == undisposed || t.open {
			return false
		}
		c.unset = setEvery
		from, to := bin(t.at), bin(min(t.bits, t.at+benignBits))
		moved := min(t.weight, c.bins[from])
		switch {
		case moved <= 0:
		case t.said == malicious:
			c.bins[from] -= moved
			c.level = min(c.level+stepPerFinding, maxLevel)
		case to > from:
			c.bins[from] -= moved
			c.bins[to] += moved
		}
		return true
	})
}

const toldVersion = 1

// errTold: bytes that encodeTold did not write.
var errTold = errors.New("no findings that were told")

// encodeTold writes after a version each one's id with its length, key, and three numbers. Of the
// window at hand nothing outlives the sensor, and so what came in it counts for nothing.
func (c *calibration) encodeTold() []byte {
	out := []byte{toldVersion}
	for _, t := range c.told {
		if t.said != undisposed {
			continue
		}
		out = append(out, byte(len(t.id)))
		out = append(out, t.id...)
		out = append(out, t.key[:]...)
		for _, v := range []float64{t.bits, t.at, t.weight} {
			out = binary.BigEndian.AppendUint64(out, math.Float64bits(v))
		}
	}
	return out
}

// decodeTold takes up what encodeTold wrote, or nothing.
func (c *calibration) decodeTold(in []byte) error {
	if len(in) == 0 || in[0] != toldVersion {
		return fmt.Errorf("%w: %d bytes", errTold, len(in))
	}
	var told []toldOdd
	for in = in[1:]; len(in) > 0; {
		n := int(in[0])
		const rest = len(event.BehaviourKey{}) + 3*8
		if n == 0 || n > maxToldID || len(in) < 1+n+rest || len(told) == maxTold {
			return fmt.Errorf("%w: the one at %d", errTold, len(told))
		}
		t := toldOdd{id: string(in[1 : 1+n])}
		in = in[1+n:]
		copy(t.key[:], in)
		in = in[len(t.key):]
		for _, to := range []*float64{&t.bits, &t.at, &t.weight} {
			*to = math.Float64frombits(binary.BigEndian.Uint64(in))
			if in = in[8:]; !(*to >= 0 && *to < 1e6) {
				return fmt.Errorf("%w: a number of %v", errTold, *to)
			}
		}
		t.weight = min(t.weight, 1)
		told = append(told, t)
	}
	c.told = told
	return nil
}
