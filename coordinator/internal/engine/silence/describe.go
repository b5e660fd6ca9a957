package silence

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// before is how long before its silence a host's findings are part of its story.
	before = time.Hour
	// lately bounds how many of them are looked at.
	lately = 50
	// named is how many of many hosts are named.
	named = 10
	// A sensor that falls silent is a reason to look; one that does so after findings,
	// or many at once, are a reason to look now.
	scoreAlone, scoreAfter = 60, 85
)

// impair is ATT&CK's Impair Defenses: Disable or Modify Tools.
const impair = "T1562.001"

var severities = []string{"informational", "low", "medium", "high", "critical"}

// describe makes the finding about a group. Its id follows from the first host and its
// session: two leaders that tell the same silence name it the same.
func (e *Engine) describe(ctx context.Context, group []store.Unheard, now time.Time) (*sensorv1.Finding, error) {
	lead := group[0]
	f := &sensorv1.Finding{
		Id: silenceID(lead), Time: now.UnixNano(), Kind: state.KindSilent, Severity: "medium", Score: scoreAlone,
		Techniques: []string{impair}, Storyline: "silence-" + fmt.Sprint(lead.Session),
	}
	if len(group) > 1 {
		f.Severity, f.Score, f.RuleId = "high", scoreAfter, state.RuleManySilent
		f.Title, f.Reason = manyWords(group)
		return f, nil
	}
	f.Title = "The sensor fell silent"
	f.Reason = words(lead, e.cfg)
	last, err := e.lastFinding(ctx, lead, now)
	if err != nil || last == nil {
		return f, err
	}
	f.Severity, f.Score, f.Storyline = "high", scoreAfter, last.GetStoryline()
	f.Title = "The sensor fell silent after findings"
	f.Reason += fmt.Sprintf(" Shortly before, at %s, it had told %q (%s): take it that the sensor was silenced, and consider 'vedette isolate'.",
		clock(last.GetTime()), last.GetTitle(), last.GetSeverity())
	return f, nil
}

// lastFinding is the newest of the host that says something by itself; nil when none does.
func (e *Engine) lastFinding(ctx context.Context, m store.Unheard, now time.Time) (*sensorv1.Finding, error) {
	rows, _, err := e.cfg.DB.Findings(ctx, store.FindingFilter{Host: m.Host, Since: now.Add(-before).UnixNano()}, store.Page{Size: lately})
	if err != nil {
		return nil, fmt.Errorf("reading findings: %w", err)
	}
	for _, row := range rows {
		f := row.GetFinding()
		if f.GetKind() == state.KindSilent || f.GetKind() == state.KindReturned || f.GetLearning() || f.GetStoryline() == "" {
			continue
		}
		if slices.Index(severities, f.GetSeverity()) >= slices.Index(severities, "medium") {
			return f, nil
		}
	}
	return nil, nil
}

// words say what is known of one host's silence, and what to do.
func words(m store.Unheard, cfg Config) string {
	name := cmp.Or(m.Name, m.Host)
	heard := fmt.Sprintf("%s was last heard at %s, over node %s (from %s).", name, clock(m.Heard), m.Node, cmp.Or(m.Address, "an unknown address"))
	var how string
	switch m.How {
	case "unheard":
		how = "Then nothing came any more, not even answers to the transport; there was no goodbye: its sensor was killed, stopped or frozen, the machine went down, or its network is cut."
	case "failed":
		how = "Its sensor ended with an error and did not start again: " + m.Detail + "."
	case "node":
		how = fmt.Sprintf("Node %s, which it was connected to, was lost, and it came to no other node within %s.", m.Node, cfg.NodeGrace)
	default:
		how = "Its sensor closed the connection without a goodbye"
		if m.Detail != "" {
			how += " (" + m.Detail + ")"
		}
		how += ", and it came to no other node."
	}
	return heard + " " + how + " It sees nothing until it is back. Check the machine by another way in: 'systemctl status vedette-sensor', and who stopped it; if it is up and nobody did, take it for an attack."
}

// manyWords are about hosts that fell silent at about the same time.
func manyWords(group []store.Unheard) (title, reason string) {
	nodes := make(map[string]int)
	first, last := group[0].Heard, group[0].Heard
	var names []string
	for _, m := range group {
		nodes[m.Node]++
		first, last = min(first, m.Heard), max(last, m.Heard)
		if len(names) < named {
			names = append(names, cmp.Or(m.Name, m.Host))
		}
	}
	if len(group) > named {
		names = append(names, "…")
	}
	order := slices.SortedFunc(maps.Keys(nodes), func(a, b string) int { return cmp.Or(nodes[b]-nodes[a], strings.Compare(a, b)) })
	over := make([]string, len(order))
	for i, node := range order {
		over[i] = fmt.Sprintf("%s (%d)", node, nodes[node])
	}
	title = fmt.Sprintf("%d hosts fell silent at once", len(group))
	look := "what they have in common: a switch, a rack, a firewall, a change that was rolled out"
	if len(order) == 1 {
		title += ", all over node " + order[0]
		look = fmt.Sprintf("node %s and its network, then %s", order[0], look)
	}
	return title, fmt.Sprintf("%d hosts were last heard between %s and %s, over node %s, and came to no other node. Look first at %s. They are: %s. 'vedette host list' shows who is still silent.",
		len(group), clock(first), clock(last), strings.Join(over, ", "), look, strings.Join(names, ", "))
}

func clock(ns int64) string {
	if ns == 0 {
		return "an unknown time"
	}
	return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05Z")
}

func silenceID(m store.Unheard) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", m.Host, m.Session))
	return state.SilencePrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:16]
}
