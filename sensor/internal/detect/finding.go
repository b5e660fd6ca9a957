package detect

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// scoreOf a rule's level; what else the storyline did adds to it.
var scoreOf = map[event.Severity]float64{
	event.Informational: 10, event.Low: 25, event.Medium: 50, event.High: 75, event.Critical: 95,
}

func storyline(p *event.Process) string {
	return strconv.FormatUint(uint64(p.Anchor.PID), 10) + "." + strconv.FormatUint(p.Anchor.Start, 10)
}

// draft fills what every finding has.
func (e *Engine) draft(o *event.Observation, v event.Verdict, s *story) *event.Finding {
	var current *event.Flow
	if _, open := o.Event.(*event.FlowOpen); open {
		current = o.Flow
	}
	flows, lookups := s.evidence(o.Process, current)
	return &event.Finding{
		Time: o.Time, Storyline: storyline(o.Process), Process: o.Process,
		Flows: flows, Lookups: lookups, Origin: o.Process.Origin, Learning: v.Learning,
	}
}

func (e *Engine) ruleFinding(o *event.Observation, v event.Verdict, s *story, r *rule) *event.Finding {
	key := tellKey{what: r.id, who: o.Process.Key}
	did := "" // what of a rule's one finding is a different thing from another
	switch ev := o.Event.(type) {
	case *event.Exec:
		// One process may become several programs; each is its own fact.
		key.peer = o.Process.Image
	case *event.File:
		key.peer = string(ev.Path)
	case *event.Privilege:
		// Who has detached a link may still change a map, and to another victim.
		did = " " + ev.CommandName()
		key.peer = did
		if o.Target != nil {
			key.peer += "\x00" + o.Target.Image
		}
	}
	if !e.told.first(key) {
		return nil
	}
	f := e.draft(o, v, s)
	f.Kind, f.Title, f.RuleID = "rule", r.Rule.Title, r.id
	f.Severity, f.Techniques = r.severity, slices.Clone(r.techniques)
	f.Score = scoreOf[r.severity]
	if s.within(alertFor, o.Time) {
		f.Score = min(100, f.Score+5)
	}
	f.Reason = fmt.Sprintf("%s %s.", who(o.Process), deed(o))
	if first := sentence(r.Rule.Description); first != "" {
		f.Reason += " " + first
	}
	if o.Process.Origin != nil {
		f.Reason += " " + session(o.Process) + "."
	}
	return e.tell(f, r.id+did, s)
}

// FollowUpRule is the RuleID of findings for a connection of a process that has a
// finding, or that descends from one within its storyline.
const FollowUpRule = "7be5a0f1-43a5-4a92-8e0d-6e3f6f4b1a57"

// applicationLayer is Application Layer Protocol, the least that a connection of
// such a process says.
const applicationLayer = "T1071"

func (e *Engine) followUp(o *event.Observation, v event.Verdict, s *story) *event.Finding {
	open, ok := o.Event.(*event.FlowOpen)
	if !ok || (open.Proto == 17 && open.Remote.Port() == 53) {
		// Names that it asks for are evidence by themselves; the resolver is no peer of it.
		return nil
	}
	m, from, found := e.markOf(o.Process)
	if !found {
		return nil
	}
	key := tellKey{what: FollowUpRule, who: o.Process.Key, peer: o.Flow.Remote.String()}
	if o.Flow.Dir == event.Inbound {
		key.peer = "in " + o.Flow.Remote.Addr().String()
	}
	if !e.told.first(key) {
		return nil
	}
	f := e.draft(o, v, s)
	f.Kind, f.RuleID = "follow-up", FollowUpRule
	f.Title = "Connection of a suspect process: " + plain(base(o.Process.Image), 60)
	f.Severity = m.severity
	f.Score = min(100, scoreOf[m.severity]+5)
	f.Techniques = slices.Clone(m.techniques)
	if !slices.Contains(f.Techniques, applicationLayer) {
		f.Techniques = append(f.Techniques, applicationLayer)
	}
	f.Reason = fmt.Sprintf("%s %s.", who(o.Process), deed(o))
	if from.Key == o.Process.Key {
		f.Reason += fmt.Sprintf(" It already has the finding %q.", m.title)
	} else {
		f.Reason += fmt.Sprintf(" It descends from %s, which has the finding %q.", who(from), m.title)
	}
	return e.tell(f, FollowUpRule, s)
}

// markOf finds the nearest process with a finding: p itself or an ancestor of its storyline.
func (e *Engine) markOf(p *event.Process) (mark, *event.Process, bool) {
	depth := 0
	for a := p; a != nil && a.Anchor == p.Anchor && depth < 32; a = a.Parent {
		if m, ok := e.marked.get(a.Key); ok {
			return m, a, true
		}
		depth++
	}
	return mark{}, nil, false
}

// who names a process in a sentence.
func who(p *event.Process) string {
	name := plain(p.Image, 120)
	if p.Script != "" {
		name = plain(path.Base(p.Image), 60) + " " + plain(p.Script, 100)
	}
	if p.User == "" {
		return fmt.Sprintf("%s (pid %d)", name, p.Key.PID)
	}
	return fmt.Sprintf("%s (pid %d, %s)", name, p.Key.PID, plain(p.User, 40))
}

// deed says what an observation shows its process to have done.
func deed(o *event.Observation) string {
	switch ev := o.Event.(type) {
	case *event.Exec:
		by := ""
		if o.Process.Parent != nil {
			by = " by " + who(o.Process.Parent)
		}
		return fmt.Sprintf("was started%s as: %s", by, command(o.Process))
	case *event.FlowOpen:
		return connection(o.Flow)
	case *event.DNS:
		return "looked up " + plain(ev.Name, 200)
	case *event.Socket:
		verb := map[string]string{"made": "opened", "refused": "was refused", "asked": "asked for"}[socketResult(ev)]
		kind := socketFamily(ev.Family)
		if ev.Type == event.SocketTypeRaw {
			kind = "raw " + kind
		}
		return fmt.Sprintf("%s a socket: %s, protocol %d", verb, kind, ev.Protocol)
	case *event.Login:
		return "is the login of " + plain(ev.User, 40)
	case *event.File:
		return fileDeed(ev)
	case *event.Privilege:
		return privilegeDeed(o, ev)
	}
	return "acted"
}

func connection(f *event.Flow) string {
	verb := "connected to"
	switch {
	case f.Dir == event.Inbound:
		verb = "accepted a connection from"
	case f.Failed:
		verb = "tried to connect to"
	case f.Proto == 17:
		verb = "sent to"
	}
	peer := endpoint(f.Remote)
	if f.Name != "" {
		peer = plain(f.Name, 120) + " (" + peer + ")"
	}
	return fmt.Sprintf("%s %s/%s", verb, peer, protocol(f.Proto))
}

func endpoint(a netip.AddrPort) string {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).String()
}

func session(p *event.Process) string {
	return fmt.Sprintf("It belongs to the session that came in from %s to port %d", endpoint(p.Origin.Remote), p.Origin.Local.Port())
}

func command(p *event.Process) string {
	if len(p.Argv) == 0 {
		return plain(p.Image, 200)
	}
	return plain(strings.Join(p.Argv, " "), 200)
}

// plain makes bytes that an attacker chose safe to print: no control characters,
// no broken UTF-8, and not too long.
func plain(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	quoted := strconv.Quote(s)
	quoted = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	if cut {
		return quoted + "…"
	}
	return quoted
}

// sentence is the first sentence of a rule's description.
func sentence(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if i := strings.Index(s, ". "); i >= 0 {
		return s[:i+1]
	}
	return s
}
