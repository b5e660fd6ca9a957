package drill

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure the catalogue is whole: every drill says what it does, and stands for techniques that
// ATT&CK has; forty techniques and every tactic of them are drilled.
func TestCatalogue(t *testing.T) {
	seen, drilled, tactics := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, d := range All() {
		if seen[d.ID] || strings.Trim(d.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("drill %q is there twice, or is no name", d.ID)
		}
		seen[d.ID] = true
		if d.Title == "" || d.Does == "" || d.Expect == "" || d.Touches() == "" || d.CleanUp() == "" {
			t.Errorf("drill %s does not say all: %+v", d.ID, d)
		}
		for _, path := range append(strings.Fields(d.Private), strings.Fields(d.Paths)...) {
			if !strings.HasPrefix(path, "/") {
				t.Errorf("drill %s: %q is no path", d.ID, path)
			}
		}
		for _, id := range d.IDs() {
			known, ok := ByID(id)
			if !ok || known.Beyond != "" {
				t.Errorf("drill %s is for %s, which ATT&CK does not have or which needs no drill (%s)", d.ID, id, known.Beyond)
			}
			drilled[id] = true
		}
		if !d.Control() && len(d.Tactics()) == 0 {
			t.Errorf("drill %s is in no tactic", d.ID)
		}
		for _, tactic := range d.Tactics() {
			tactics[tactic] = true
		}
	}
	if len(drilled) < 40 {
		t.Errorf("%d techniques are drilled, want 40 at least", len(drilled))
	}
	for _, tactic := range Tactics() {
		if !tactics[tactic] {
			t.Errorf("nothing is drilled of %s", tactic)
		}
	}
	t.Logf("%d drills, %d techniques of %d", len(seen), len(drilled), len(techniques))
}

// Ensure the table of techniques is in order, for it is searched, and each is in a tactic.
func TestTechniques(t *testing.T) {
	if !slices.IsSortedFunc(techniques, func(a, b Technique) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("the techniques are not in the order of their ids")
	}
	for _, one := range techniques {
		if got, ok := ByID(one.ID); !ok || got.ID != one.ID || len(one.In()) != len(strings.Fields(one.tactics)) || len(one.In()) == 0 {
			t.Errorf("%s: found %v, tactics %v of %q", one.ID, got.ID, one.In(), one.tactics)
		}
	}
	for old, now := range renamed {
		if _, ok := ByID(now); !ok {
			t.Errorf("%s became %s, which is not there", old, now)
		}
	}
	for _, tt := range []struct {
		named []string
		of    string
		want  bool
	}{
		{[]string{"T1053.003"}, "T1053.003", true},
		{[]string{"T1053"}, "T1053.003", true},
		{[]string{"T1053.003"}, "T1053", true},
		{[]string{"T1053.002"}, "T1053.003", false},
		{[]string{"T1070.002"}, "T1685.006", true},
		{[]string{"T10"}, "T1053", false},
		{nil, "T1053", false},
	} {
		if got := Names(tt.named, tt.of); got != tt.want {
			t.Errorf("%v names %s: got %v, want %v", tt.named, tt.of, got, tt.want)
		}
	}
}

// Ensure the matrix says the worst of a technique's drills and hosts, and knows a closed gap.
func TestMatrix(t *testing.T) {
	of := func(cells []Cell, id string) Cell {
		i := slices.IndexFunc(cells, func(c Cell) bool { return c.ID == id })
		return cells[i]
	}
	result := func(host, name, verdict string, missed int64) *raftv1.DrillResult {
		return &raftv1.DrillResult{Host: host, Drill: name, Verdict: verdict, MissedAt: missed, Named: []string{"T1053.003"}}
	}
	cells := Matrix([]*raftv1.DrillResult{
		result("a", "cron-entry", Proven, 7), result("b", "cron-entry", Proven, 0),
		result("a", "timer-unit", Proven, 0), result("b", "timer-unit", Missed, 1),
		result("a", "at-job", Skipped, 0), result("a", "no-such-drill", Missed, 1),
	})
	for id, want := range map[string]string{
		"T1053.003": CellProven, "T1053.006": CellMissed, "T1053.002": CellUnseen, "T1053": CellParts,
		"T1543.002": CellNotRun, "T1001": CellUndone, "T1566": CellBeyond,
	} {
		if got := of(cells, id); got.Status != want {
			t.Errorf("%s is %s, want %s (%s)", id, got.Status, want, got.Why)
		}
	}
	if cron := of(cells, "T1053.003"); !cron.Closed || !cron.Named || len(cron.ProvenOn) != 2 {
		t.Errorf("the closed gap: %+v", cron)
	}
	if CountClosed(cells) != 1 || Count(cells, CellMissed) != 1 {
		t.Errorf("%d closed, %d missed, want one of each", CountClosed(cells), Count(cells, CellMissed))
	}

	raw, err := json.Marshal(NewLayer("test", cells))
	if err != nil {
		t.Fatal(err)
	}
	var layer struct {
		Versions   map[string]string `json:"versions"`
		Domain     string            `json:"domain"`
		Techniques []struct {
			ID    string `json:"techniqueID"`
			Score *int   `json:"score"`
			Color string `json:"color"`
		} `json:"techniques"`
	}
	if err := json.Unmarshal(raw, &layer); err != nil {
		t.Fatal(err)
	}
	if layer.Versions["layer"] != "4.5" || layer.Domain != "enterprise-attack" || len(layer.Techniques) != len(techniques) {
		t.Errorf("layer %v of %s with %d techniques", layer.Versions, layer.Domain, len(layer.Techniques))
	}
	for _, one := range layer.Techniques {
		switch {
		case one.ID == "T1053.003" && (one.Score == nil || *one.Score != 100), one.ID == "T1053.006" && (one.Score == nil || *one.Score != 0), one.ID == "T1001" && one.Score != nil:
			t.Errorf("%s has score %v", one.ID, one.Score)
		}
	}
}

// Ensure what an operator's program says of drills is taken only when it makes sense.
func TestCheckResult(t *testing.T) {
	good := func() *raftv1.DrillResult {
		return &raftv1.DrillResult{Host: "h-1", Drill: "cron-entry", Verdict: Proven, Time: 1, Mark: Mark("0badc0de", "cron-entry")}
	}
	if problem := CheckResult(good(), 100); problem != "" {
		t.Errorf("a good one: %s", problem)
	}
	for name, spoil := range map[string]func(*raftv1.DrillResult){
		"verdict": func(r *raftv1.DrillResult) { r.Verdict = "found" }, "name": func(r *raftv1.DrillResult) { r.Drill = "a b" }, "no name": func(r *raftv1.DrillResult) { r.Drill = "" },
		"long text": func(r *raftv1.DrillResult) { r.Why = strings.Repeat("x", 101) }, "bytes": func(r *raftv1.DrillResult) { r.Why = "\xff" },
		"no time": func(r *raftv1.DrillResult) { r.Time = 0 }, "too many": func(r *raftv1.DrillResult) { r.Named = make([]string, maxNamed+1) },
		"missed at": func(r *raftv1.DrillResult) { r.MissedAt = 1 },
	} {
		r := good()
		spoil(r)
		if CheckResult(r, 100) == "" {
			t.Errorf("%s: taken", name)
		}
	}
	if OfMark("0badc0de", Mark("0badc0de", "x")) != "x" || OfMark("0badc0de", Mark("0badc0df", "x")) != "" {
		t.Error("a mark is not its run's")
	}
}

// FuzzResults shows any results that were to be kept: none is too much for a report.
func FuzzResults(f *testing.F) {
	for _, r := range []*raftv1.DrillResult{
		{}, {Host: "h-1", Drill: "cron-entry", Verdict: Proven, Time: 1, Named: []string{"T1053.003", "T1", "\n"}, Why: "\x1b[31m"},
		{Drill: "nobody-knows-it", Verdict: Missed, Time: 1 << 62}, {Drill: "cron-entry", Verdict: Noisy, Time: 1, After: 1 << 62, Findings: 1<<32 - 1},
	} {
		raw, err := proto.Marshal(&raftv1.PutDrills{Results: []*raftv1.DrillResult{r, r}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := &raftv1.PutDrills{}
		if proto.Unmarshal(raw, in) != nil {
			return
		}
		var kept []*raftv1.DrillResult
		for _, r := range in.GetResults() {
			if CheckResult(r, 1024) == "" {
				kept = append(kept, r)
			}
		}
		cells := Matrix(kept)
		if _, err := json.Marshal(NewLayer("x", cells)); err != nil {
			t.Error(err)
		}
		for _, c := range cells {
			_ = c.Comment()
		}
		if n := CountClosed(cells); n < 0 || n > len(cells) {
			t.Errorf("%d of %d cells are closed", n, len(cells))
		}
	})
}
