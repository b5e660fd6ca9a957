package shape

import (
	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Coverage is what drills found out, in techniques.
type Coverage struct {
	Proven uint32 `json:"proven"`
	Missed uint32 `json:"missed"`
	Closed uint32 `json:"gaps_closed"`
	Last   Time   `json:"last"`
}

// FromCoverage shapes it; of no drill at all it is zero.
func FromCoverage(c *operatorv1.DrillCoverage) Coverage {
	return Coverage{c.GetProven(), c.GetMissed(), c.GetClosed(), Time(c.GetLast())}
}

// Drill is a row of `drill list`.
type Drill struct {
	ID         string   `json:"id"`
	Title      string   `json:"title"`
	Tactics    []string `json:"tactics"`
	Techniques []string `json:"techniques"`
	Does       string   `json:"does"`
	Touches    string   `json:"touches"`
	Needs      string   `json:"needs"`
	CleanUp    string   `json:"clean_up"`
	Expect     string   `json:"expect"`
	Control    bool     `json:"control"`
}

// FromDrill shapes a drill.
func FromDrill(d drill.Drill) Drill {
	return Drill{d.ID, d.Title, list(d.Tactics()), list(d.IDs()), d.Does, d.Touches(), d.Needs, d.CleanUp(), d.Expect, d.Control()}
}

// DrillResult is a row of `drill run`.
type DrillResult struct {
	Host         string   `json:"host"`
	Drill        string   `json:"drill"`
	Verdict      string   `json:"verdict"`
	Techniques   []string `json:"techniques"`
	Named        []string `json:"named"`
	Findings     []string `json:"findings"`
	Titles       []string `json:"titles"`
	AfterSeconds float64  `json:"after_seconds"`
	Incident     *string  `json:"incident"`
	Investigated string   `json:"investigated"`
	Respond      string   `json:"respond"`
	Clean        bool     `json:"clean"`
	Why          string   `json:"why"`
	Mark         string   `json:"mark"`
	Time         Time     `json:"time"`
}

// DrillReport is what `drill report` says.
type DrillReport struct {
	Proven     int             `json:"proven"`
	Missed     int             `json:"missed"`
	NotVisible int             `json:"not_visible"`
	NotRun     int             `json:"not_run"`
	NotDrilled int             `json:"not_drilled"`
	Closed     int             `json:"gaps_closed"`
	Coverage   []string        `json:"coverage_gaps"`
	Techniques []DrillCell     `json:"matrix"`
	Results    []DrillLastTime `json:"results"`
}

// DrillCell is a technique in the matrix.
type DrillCell struct {
	Technique string   `json:"technique"`
	Name      string   `json:"name"`
	Tactics   []string `json:"tactics"`
	Status    string   `json:"status"`
	Drills    []string `json:"drills"`
	ProvenOn  []string `json:"proven_on"`
	MissedOn  []string `json:"missed_on"`
	Named     bool     `json:"named"`
	Closed    bool     `json:"closed"`
	Why       string   `json:"why"`
}

// DrillLastTime is the last result of a host and drill.
type DrillLastTime struct {
	Host     string   `json:"host"`
	HostName string   `json:"host_name"`
	Drill    string   `json:"drill"`
	Verdict  string   `json:"verdict"`
	Time     Time     `json:"time"`
	Named    []string `json:"named"`
	Findings uint32   `json:"findings"`
	Why      string   `json:"why"`
	MissedAt Time     `json:"missed_at"`
	ProvenAt Time     `json:"proven_at"`
}

// FromMatrix shapes the matrix and what it was made of.
func FromMatrix(cells []drill.Cell, results []*raftv1.DrillResult, gaps []string) DrillReport {
	out := DrillReport{
		drill.Count(cells, drill.CellProven), drill.Count(cells, drill.CellMissed), drill.Count(cells, drill.CellUnseen),
		drill.Count(cells, drill.CellNotRun), drill.Count(cells, drill.CellUndone), drill.CountClosed(cells), list(gaps), []DrillCell{}, []DrillLastTime{},
	}
	for _, c := range cells {
		out.Techniques = append(out.Techniques, DrillCell{c.ID, c.Name(), list(c.In()), c.Status, list(c.Drills), list(c.ProvenOn), list(c.MissedOn), c.Named, c.Closed, c.Why})
	}
	for _, r := range results {
		out.Results = append(out.Results, DrillLastTime{r.GetHost(), r.GetHostName(), r.GetDrill(), r.GetVerdict(), Time(r.GetTime()), list(r.GetNamed()), r.GetFindings(), r.GetWhy(), Time(r.GetMissedAt()), Time(r.GetProvenAt())})
	}
	return out
}
