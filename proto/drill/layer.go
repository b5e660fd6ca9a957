package drill

import (
	"fmt"
	"strings"
)

// Layer is what ATT&CK Navigator shows (layer format 4.5).
type Layer struct {
	Name        string           `json:"name"`
	Versions    LayerVersions    `json:"versions"`
	Domain      string           `json:"domain"`
	Description string           `json:"description"`
	Filters     LayerFilters     `json:"filters"`
	Sorting     int              `json:"sorting"`
	Layout      LayerLayout      `json:"layout"`
	Techniques  []LayerTechnique `json:"techniques"`
	Gradient    LayerGradient    `json:"gradient"`
	Legend      []LayerLegend    `json:"legendItems"`
}

// LayerVersions are of ATT&CK, of the Navigator and of the format.
type LayerVersions struct {
	Attack    string `json:"attack"`
	Navigator string `json:"navigator"`
	Layer     string `json:"layer"`
}

// LayerFilters limit what is shown.
type LayerFilters struct {
	Platforms []string `json:"platforms"`
}

// LayerLayout is how it is shown.
type LayerLayout struct {
	Layout   string `json:"layout"`
	ShowID   bool   `json:"showID"`
	ShowName bool   `json:"showName"`
	Expanded string `json:"expandedSubtechniques"`
}

// LayerTechnique is one annotated technique. Score 100 is proven and 0 missed; there is
// none where no drill decided.
type LayerTechnique struct {
	ID      string `json:"techniqueID"`
	Score   *int   `json:"score,omitempty"`
	Color   string `json:"color"`
	Comment string `json:"comment"`
	Enabled bool   `json:"enabled"`
	Show    bool   `json:"showSubtechniques"`
}

// LayerGradient colours scores.
type LayerGradient struct {
	Colors []string `json:"colors"`
	Min    int      `json:"minValue"`
	Max    int      `json:"maxValue"`
}

// LayerLegend explains a colour.
type LayerLegend struct {
	Label string `json:"label"`
	Color string `json:"color"`
}

// Colours, told apart by who sees no red and green too.
const (
	colourMissed = "#d7301f"
	colourProven = "#41ab5d"
	colourUnseen = "#fdcc8a"
	colourUndone = "#d9d9d9"
)

// attackVersion is the edition that techniques.go is of.
const attackVersion = "19"

// NewLayer draws a matrix.
func NewLayer(name string, cells []Cell) Layer {
	l := Layer{
		Name: name, Versions: LayerVersions{attackVersion, "5.2.0", "4.5"}, Domain: "enterprise-attack",
		Description: fmt.Sprintf("Drills of Vedette: %d techniques proven, %d missed, %d not visible, %d without a result, %d without a drill, %d gaps closed.",
			Count(cells, CellProven), Count(cells, CellMissed), Count(cells, CellUnseen), Count(cells, CellNotRun), Count(cells, CellUndone), CountClosed(cells)),
		Filters: LayerFilters{[]string{"Linux"}}, Layout: LayerLayout{Layout: "side", ShowID: true, ShowName: true, Expanded: "annotated"},
		Techniques: []LayerTechnique{}, Gradient: LayerGradient{[]string{colourMissed, colourProven}, 0, 100},
		Legend: []LayerLegend{{"proven", colourProven}, {"missed", colourMissed}, {"not visible on any host, or not done", colourUnseen}, {"not drilled", colourUndone}},
	}
	for _, c := range cells {
		t := LayerTechnique{ID: c.ID, Enabled: c.Status != CellBeyond, Show: c.Status == CellParts, Comment: c.Comment()}
		switch c.Status {
		case CellProven:
			t.Score = score(100)
		case CellMissed:
			t.Score = score(0)
		case CellUnseen, CellNotRun:
			t.Color = colourUnseen
		case CellUndone:
			t.Color = colourUndone
		}
		l.Techniques = append(l.Techniques, t)
	}
	return l
}

func score(n int) *int { return &n }

// Comment says in a line what is known of a technique.
func (c Cell) Comment() string {
	said := []string{c.Status}
	if len(c.Drills) > 0 {
		said = append(said, "drills: "+strings.Join(c.Drills, ", "))
	}
	if len(c.ProvenOn) > 0 {
		said = append(said, fmt.Sprintf("proven on %d hosts", len(c.ProvenOn)))
	}
	if c.Status == CellProven && !c.Named {
		said = append(said, "found, and not called by this technique's name")
	}
	if c.Closed {
		said = append(said, "it was missed before")
	}
	if c.Why != "" {
		said = append(said, c.Why)
	}
	return strings.Join(said, "; ")
}
