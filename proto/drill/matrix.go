package drill

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// What is known of a technique.
const (
	CellProven = "proven"         // every last result of its drills says so, or was skipped
	CellMissed = "missed"         // some host's last result of some drill of it does
	CellUnseen = "not-visible"    // its drills could not be done, or not be seen, on any host
	CellNotRun = "not-run"        // there is a drill, and no result
	CellUndone = "not-drilled"    // no drill is for it
	CellParts  = "by-parts"       // drills are for its sub-techniques
	CellBeyond = "not-applicable" // a host's drill makes no sense
)

// Cell is a technique in the matrix.
type Cell struct {
	Technique
	Status string
	Drills []string
	// Hosts of which the last result is proven, and missed.
	ProvenOn, MissedOn []string
	// Named: a finding named the technique, and did not only find what was done.
	Named bool
	// Closed: it was missed on a host, and is proven now.
	Closed bool
	Why    string
}

// Matrix says of each technique what results say.
func Matrix(results []*raftv1.DrillResult) []Cell {
	cells := make([]Cell, 0, len(techniques))
	by := map[string][]*raftv1.DrillResult{}
	for _, r := range results {
		by[r.GetDrill()] = append(by[r.GetDrill()], r)
	}
	drilled := map[string]bool{}
	for _, d := range All() {
		for _, id := range d.IDs() {
			parent, _, _ := strings.Cut(id, ".")
			drilled[parent] = true
		}
	}
	for _, t := range techniques {
		c := Cell{Technique: t, Status: CellUndone}
		done := 0
		for _, d := range All() {
			if !slices.Contains(d.IDs(), t.ID) {
				continue
			}
			c.Drills = append(c.Drills, d.ID)
			for _, r := range by[d.ID] {
				done++
				c.add(d, r)
			}
		}
		c.settle(done, drilled[t.ID])
		cells = append(cells, c)
	}
	return cells
}

func (c *Cell) add(d Drill, r *raftv1.DrillResult) {
	host := r.GetHostName()
	if host == "" {
		host = r.GetHost()
	}
	switch r.GetVerdict() {
	case Proven:
		if !slices.Contains(c.ProvenOn, host) {
			c.ProvenOn = append(c.ProvenOn, host)
		}
		c.Named = c.Named || Names(r.GetNamed(), c.ID)
		c.Closed = c.Closed || r.GetMissedAt() > 0
	case Missed:
		if !slices.Contains(c.MissedOn, host) {
			c.MissedOn = append(c.MissedOn, host)
		}
		c.say(fmt.Sprintf("%s did not find %s", host, d.ID))
	case Skipped, Failed:
		c.say(fmt.Sprintf("%s on %s: %s", d.ID, host, r.GetWhy()))
	}
}

// maxSaid bounds what is said of a technique: a fleet has many hosts.
const maxSaid = 400

func (c *Cell) say(text string) {
	if len(c.Why)+len(text) < maxSaid {
		c.Why = strings.TrimPrefix(c.Why+"; "+text, "; ")
	}
}

func (c *Cell) settle(done int, parts bool) {
	switch {
	case len(c.MissedOn) > 0:
		c.Status, c.Closed = CellMissed, false
	case len(c.ProvenOn) > 0:
		c.Status = CellProven
	case done > 0:
		c.Status = CellUnseen
	case len(c.Drills) > 0:
		c.Status = CellNotRun
	case parts:
		c.Status = CellParts
	case c.Beyond != "":
		c.Status, c.Why = CellBeyond, c.Beyond
	}
}

// Count is how many cells have a status.
func Count(cells []Cell, status string) (n int) {
	for _, c := range cells {
		if c.Status == status {
			n++
		}
	}
	return n
}

// CountClosed is how many gaps were closed.
func CountClosed(cells []Cell) (n int) {
	for _, c := range cells {
		if c.Closed {
			n++
		}
	}
	return n
}
