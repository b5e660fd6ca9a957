package detect

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// What a rule that comes with a question may be, whoever asks: its bytes, and the instructions of
// all its regular expressions, which are a step each for each byte of what was recorded.
const (
	maxHuntRule    = 16 << 10
	maxHuntProgram = 16 << 10
)

// untold are the fields that recorded events do not tell: what the sensor knew only then.
// A rule is judged as if an event had none of them, and who asks is told so.
var untold = []struct {
	name  string
	field int
}{
	{"vedette.Known", taxonomy.Known},
	{"vedette.PreviousImage", taxonomy.PreviousImage},
	{"vedette.Installs", taxonomy.Installs},
	{"vedette.InSession", taxonomy.InSession},
	{"vedette.OriginIp", taxonomy.OriginIP},
	{"vedette.ServesConnection", taxonomy.Serves},
	{"vedette.Marks", taxonomy.Marks},
	{"ses", taxonomy.AuditSession},
}

// Hunt is a rule that looks for what was recorded. It is for one goroutine.
type Hunt struct {
	matchers map[string][]*sigma.Matcher
	record   recorded
	// Untold are the fields of the rule that recorded events do not tell.
	Untold []string
}

// NewHunt reads one rule. Correlations look at more than one event and are refused.
func NewHunt(text string) (*Hunt, error) {
	if len(text) > maxHuntRule {
		return nil, fmt.Errorf("it has %d bytes, the most is %d", len(text), maxHuntRule)
	}
	file, refused := sigma.ParseFile("the rule", []byte(text))
	switch {
	case len(refused) > 0:
		return nil, errors.Join(refused...)
	case len(file.Correlations) > 0:
		return nil, errors.New("it counts events, which a hunt does not: ask with the rule that it refers to")
	case len(file.Rules) != 1:
		return nil, fmt.Errorf("it holds %d rules: ask with one at a time", len(file.Rules))
	}
	matchers, err := sigma.CompileWithin(file.Rules[0], taxonomy.Schema, maxHuntProgram)
	if err != nil {
		return nil, err
	}
	h := &Hunt{matchers: map[string][]*sigma.Matcher{}}
	for _, m := range matchers {
		h.matchers[m.Of] = append(h.matchers[m.Of], m)
	}
	for _, u := range untold {
		if namesField(text, u.name) {
			h.Untold = append(h.Untold, u.name)
		}
	}
	return h, nil
}

// namesField looks for a field as a key, with or without modifiers.
func namesField(text, name string) bool {
	for rest := text; ; {
		at := strings.Index(rest, name)
		if at < 0 {
			return false
		}
		before, after := at == 0 || strings.IndexByte(" \t\n\"'-{,", rest[at-1]) >= 0, rest[at+len(name):]
		if before && after != "" && strings.IndexByte(":|\"'", after[0]) >= 0 {
			return true
		}
		rest = after
	}
}

// Match says whether a recorded event is what the rule looks for.
func (h *Hunt) Match(o *event.Observation) bool {
	matchers := h.matchers[categoryOf(o.Event)]
	if len(matchers) == 0 {
		return false
	}
	h.record.reset(o, event.Verdict{})
	for _, m := range matchers {
		if m.Match(&h.record) {
			return true
		}
	}
	return false
}

// recorded is a record of an event that was: what it does not tell has no value.
type recorded struct{ record }

// Field implements sigma.Record.
func (r *recorded) Field(n int) []string {
	if isUntold(n) {
		return nil
	}
	return r.record.Field(n)
}

// Folded implements sigma.Record.
func (r *recorded) Folded(n int) []string {
	if isUntold(n) {
		return nil
	}
	return r.record.Folded(n)
}

func isUntold(n int) bool {
	for _, u := range untold {
		if u.field == n {
			return true
		}
	}
	return false
}
