package detect

import (
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// KindTamper is the Kind of findings about the sensor itself. Their process is the
// sensor's own, which they make no suspect: who did it is told by its own events.
const KindTamper = "tamper"

// tampers is how each interference is told. Techniques: Impair Defenses, and of it
// Disable or Modify Tools.
var tampers = map[string]struct {
	title      string
	severity   event.Severity
	techniques []string
}{
	event.TamperDetached: {"A program of the sensor was detached", event.High, []string{"T1562.001"}},
	event.TamperCalls:    {"The sensor's table of system calls was changed", event.High, []string{"T1562.001"}},
	event.TamperKnown:    {"The sensor's table of known behaviours was changed", event.High, []string{"T1562.001"}},
	event.TamperStopped:  {"The sensor was stopped for a while", event.High, []string{"T1562.001"}},
	event.TamperKilled:   {"The sensor was killed", event.High, []string{"T1562.001"}},
	event.TamperBlind:    {"The sensor lost too much to see this host", event.Medium, []string{"T1562"}},
}

// tamper tells what befell the sensor; at most Budget such findings a minute.
func (e *Engine) tamper(o *event.Observation, t *event.Tamper) *event.Finding {
	how, ok := tampers[t.What]
	if !ok {
		return nil
	}
	if !e.tamperBudget.allow(o.Time, e.cfg.StoryBudget) {
		e.stats.Suppressed++
		e.stats.OverBudget++
		return nil
	}
	f := &event.Finding{
		ID: e.ulids.make(e.cfg.Now()), Time: o.Time, Kind: KindTamper, Title: how.title,
		Severity: how.severity, Techniques: how.techniques, Score: scoreOf[how.severity],
		Storyline: storyline(o.Process), Process: o.Process, Reason: sentenceCase(t.Detail) + ".",
	}
	e.stats.Findings++
	return f
}

// sentenceCase begins a text, which is ASCII here, with a capital.
func sentenceCase(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}
