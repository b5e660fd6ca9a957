package main

import (
	"math"
	"time"

	"github.com/vedette-edr/vedette/sensor/replay"
)

// unit is what is judged: a storyline in one window of ten minutes. Whoever is at fault,
// it is a session or a service that an investigation would look at.
type unit struct {
	host, window int
	story        string
}

// deed is what all methods saw of a unit.
type deed struct {
	at       time.Time
	label    string // of an attack
	events   float64
	fresh    float64 // behaviours that were never seen before
	rarest   float64 // bits, by frequency alone
	images   map[string]bool
	peers    map[string]bool
	spread   float64 // sum of rarities
	vedette  float64
	findings int
	told     []replay.Finding
	score    [4]float64 // by method, of ordinary work
}

// counts are what the plain methods keep: how often each edge was seen.
type counts struct {
	edges map[[3]string]float64
	all   map[string]float64
}

func newCounts() *counts { return &counts{map[[3]string]float64{}, map[string]float64{}} }

// see counts an edge and says whether it is the first, and how rare it was before.
func (c *counts) see(r replay.Result) (first bool, bits float64) {
	key := [3]string{r.Kind, r.Subject, r.Object}
	n := c.edges[key]
	bits = -math.Log2((n + 1) / (c.all[r.Kind] + 2))
	c.edges[key]++
	c.all[r.Kind]++
	return n == 0, bits
}

// journal gathers the units of one host.
type journal struct {
	host   int
	counts *counts
	units  map[unit]*deed
	order  []unit
}

func newJournal(host int) *journal {
	return &journal{host: host, counts: newCounts(), units: map[unit]*deed{}}
}

func (j *journal) take(at time.Time, label string, r replay.Result) {
	if r.Kind == "" {
		return
	}
	u := unit{j.host, int(at.Sub(monday) / (10 * time.Minute)), r.Storyline}
	d := j.units[u]
	if d == nil {
		d = &deed{at: at, images: map[string]bool{}, peers: map[string]bool{}}
		j.units[u] = d
		j.order = append(j.order, u)
	}
	first, bits := j.counts.see(r)
	d.events++
	if first {
		d.fresh++
	}
	d.rarest, d.spread = max(d.rarest, bits), d.spread+bits
	// What is odd goes by how rare it is on this host; what is not, below it, by its surprise.
	d.vedette = max(d.vedette, r.Surprise/1000)
	if r.Whole > 0 {
		d.vedette = max(d.vedette, 1-math.Log2(r.PValue))
	}
	for _, f := range r.Findings {
		if f.Kind != "follow-up" { // of what was told already; the budget is not of it
			d.findings++
			d.told = append(d.told, f)
		}
	}
	if r.Kind == "exec" {
		d.images[r.Object] = true
	} else {
		d.peers[r.Object] = true
	}
	if label != "" {
		d.label = label
	}
}

// features are what the isolation forest sees.
func (d *deed) features() []float64 {
	hour := float64(d.at.Hour()) + float64(d.at.Minute())/60
	return []float64{
		math.Log1p(d.events), d.fresh, d.fresh / d.events, d.rarest, d.spread / d.events,
		float64(len(d.images)), float64(len(d.peers)), math.Cos(hour / 12 * math.Pi), math.Sin(hour / 12 * math.Pi),
	}
}

// methods score a unit; higher is odder.
var methods = []string{"vedette", "never-seen edge", "frequency count", "isolation forest"}

func scores(d *deed, f *forest) [4]float64 {
	return [4]float64{d.vedette, d.fresh, d.rarest, f.score(d.features())}
}
