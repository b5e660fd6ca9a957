package detect

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// correlation is what a finding needs of a correlation rule.
type correlation struct {
	*sigma.Correlation
	id         string
	severity   event.Severity
	techniques []string
	silent     bool // it is told by the correlations that refer to it alone
}

// correlatorLimits are some 500 KiB: a host's sensor has no more to give, and groups are of storylines.
var correlatorLimits = sigma.CorrelatorLimits{Groups: 2048, Entries: 4096}

// makeCorrelator takes the correlations up when all rules are there. One that refers to
// what is not used here is refused alone. The built-in rules are told by themselves
// whatever an operator's correlation says of them: it must not make a blind spot.
func (b *book) makeCorrelator(parsed []*sigma.Correlation, builtin map[*sigma.Rule]bool) {
	var matchers []*sigma.Matcher
	for _, rules := range b.rules {
		for _, r := range rules {
			matchers = append(matchers, r.Matcher)
		}
	}
	var refused []error
	b.correlator, refused = sigma.NewCorrelator(correlatorLimits, matchers, parsed)
	unsupported := 0
	for _, err := range refused {
		unsupported += b.reject(err, unsupported)
		var at *sigma.Error
		if errors.As(err, &at) && strings.HasPrefix(at.Path, pushedPath) {
			b.pushed = append(b.pushed, err)
		}
	}
	used := b.correlator.Correlations()
	silent := sigma.Silent(used)
	alone := func(h *sigma.Header) bool { return h.ID != "" && silent[h.ID] || h.Name != "" && silent[h.Name] }
	for _, rules := range b.rules {
		for _, r := range rules {
			r.silent = alone(&r.Rule.Header) && !builtin[r.Rule]
		}
	}
	for _, c := range used {
		b.correlations[c] = &correlation{
			Correlation: c, id: sigma.IDOf(&c.Header), severity: event.Severity(c.Level), techniques: c.Techniques(), silent: alone(&c.Header),
		}
	}
}

// tells says whether what a level stands for becomes a finding.
func (b *book) tells(level event.Severity) bool {
	return b.severity[level] >= b.severity[b.cfg.MinLevel]
}

// correlated are the findings of correlations that were fulfilled. The observation of each
// is the newest that it counts, which for one that waited for its window's end is not now's.
func (e *Engine) correlated(hits []sigma.Hit, v event.Verdict) (findings []*event.Finding) {
	for _, hit := range hits {
		c := e.correlations[hit.Correlation]
		o, _ := hit.Ref.(*event.Observation)
		if c == nil || o == nil || c.silent || !e.tells(c.severity) {
			continue
		}
		s, ok := e.stories.get(o.Process.Anchor)
		if !ok {
			s = &story{}
			e.stories.put(o.Process.Anchor, s)
		}
		f := e.draft(o, v, s)
		f.Kind, f.Title, f.RuleID = "rule", c.Title, c.id
		f.Severity, f.Techniques = c.severity, append([]string(nil), c.techniques...)
		f.Score = scoreOf[c.severity]
		if s.within(alertFor, o.Time) {
			f.Score = min(100, f.Score+5)
		}
		f.Reason = fmt.Sprintf("%s %s. %s.", who(o.Process), deed(o), counted(hit))
		if first := sentence(c.Description); first != "" {
			f.Reason += " " + first
		}
		if o.Process.Origin != nil {
			f.Reason += " " + session(o.Process) + "."
		}
		if f = e.tell(f, c.id, s); f != nil {
			findings = append(findings, f)
		}
	}
	return findings
}

// counted says what a correlation saw.
func counted(hit sigma.Hit) string {
	c := hit.Correlation
	var text string
	switch c.Type {
	case "event_count":
		text = fmt.Sprintf("Of this, %d were seen", hit.Count)
	case "value_count":
		text = fmt.Sprintf("Of this, %d different values of %s were seen", hit.Count, strings.Join(c.Values, ", "))
	case "temporal_ordered":
		text = fmt.Sprintf("It is the last of %d steps, one after the other,", hit.Count)
	default:
		text = fmt.Sprintf("It is one of %d things that were seen together", hit.Count)
		if words := c.Condition(); words != "" {
			text = "What was seen together fulfils “" + plain(words, 200) + "”"
		}
	}
	text += " within " + within(hit.Last.Sub(hit.First))
	var of []string
	for i, name := range c.GroupBy {
		of = append(of, name+" "+plain(hit.Group[i], 80))
	}
	if len(of) > 0 {
		text += ", for " + strings.Join(of, " and ")
	}
	return text
}

// within rounds a time up for people.
func within(d time.Duration) string {
	if d < time.Second {
		return "a second"
	}
	return d.Round(time.Second).String()
}
