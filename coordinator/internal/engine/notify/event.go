package notify

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// levelAct is the rung of the ladder at which nobody is asked.
const levelAct = 4

// Bounds of an event: its texts come from hosts and from people, and go into mails and pagers.
const (
	maxHosts = 20
	maxText  = 500 // characters
)

// Event is one JSON object on the program's stdin. Every key is always there; what is not
// known is null, what is empty is "" or []. Texts are one line of printable characters.
type Event struct {
	// ID is the same from every node and after a failover: drop what you have had.
	ID    string     `json:"id"`
	Event string     `json:"event"`
	Time  *time.Time `json:"time"` // UTC
	// Text is a sentence for people.
	Text      string     `json:"text"`
	Cluster   string     `json:"cluster"`
	Node      string     `json:"node"`
	Operation string     `json:"operation"`
	Action    string     `json:"action"`
	Level     uint32     `json:"level"` // 0: an operator's order
	Hosts     []Host     `json:"hosts"` // at most 20
	HostCount int        `json:"host_count"`
	State     string     `json:"state"` // of the operation, of the host's own action, or of the incident
	By        string     `json:"by"`
	Reason    string     `json:"reason"`
	Approved  []string   `json:"approved_by"`
	Missing   uint32     `json:"approvals_missing"`
	Until     *time.Time `json:"until"` // the window's end, or until when it can be approved
	Finding   string     `json:"finding"`
	Policies  []string   `json:"policies"`
	Incident  string     `json:"incident"`
	Severity  string     `json:"severity"`
	Title     string     `json:"title"`
	Member    string     `json:"member"` // the node that it is about
}

// Host of an event.
type Host struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (e *Engine) event(kind, id string, at int64) Event {
	return Event{
		ID: kind + "/" + id, Event: kind, Time: stamp(at), Cluster: e.cfg.Cluster, Node: e.cfg.Node,
		Hosts: []Host{}, Approved: []string{}, Policies: []string{},
	}
}

func stamp(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	at := time.Unix(0, ns).UTC()
	return &at
}

// waitingID changes when somebody has signed and another one must.
func waitingID(o *operatorv1.Operation) string {
	if o.GetState() == Window {
		return Window + "/" + o.GetId()
	}
	return fmt.Sprintf("%s/%s/%d", Waiting, o.GetId(), len(o.GetApprovedBy()))
}

// waiting is about an order that waits for a person, or for nobody's veto.
func (e *Engine) waiting(ctx context.Context, o *operatorv1.Operation) Event {
	event := e.ofOrder(ctx, e.event(Waiting, "", o.GetRequestedAt()), o)
	what := fmt.Sprintf("%s %s", o.GetAction(), hostsText(event))
	if o.GetState() == Window {
		event.Event, event.Until = Window, stamp(o.GetWindowEnds())
		event.Text = fmt.Sprintf("Automation will %s at %s unless somebody runs: vedette veto %s", what, clock(o.GetWindowEnds()), o.GetId())
	} else {
		event.Until = stamp(o.GetExpires())
		event.Text = fmt.Sprintf("An order of %s to %s waits for %d more to sign it: vedette approve %s", o.GetRequestedBy(), what, o.GetApprovalsMissing(), o.GetId())
	}
	event.ID, event.Text = waitingID(o), line(event.Text)
	return event
}

// acted is about what was done without a person, by a host or by the leader.
func (e *Engine) acted(ctx context.Context, o *operatorv1.Operation) Event {
	kind, who := actedKind(o), "Automation"
	if kind == Local {
		who = "The host itself"
	}
	event := e.ofOrder(ctx, e.event(kind, o.GetId(), o.GetRequestedAt()), o)
	if rows, err := e.cfg.DB.Operation(ctx, o.GetId()); err == nil && len(rows) == 1 {
		event.State = rows[0].GetState()
	}
	see := "operation show " + o.GetId()
	if !plain.MatchString(o.GetId()) { // a host names its own, and this will be pasted into a shell
		see = "operation list"
	}
	event.Text = line(fmt.Sprintf("%s did %s %s (%s). See: vedette %s", who, o.GetAction(), hostsText(event), event.State, see))
	return event
}

var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// actedKind tells what a host did by itself from what the leader ordered.
func actedKind(o *operatorv1.Operation) string {
	if strings.HasPrefix(o.GetRequestedBy(), "host:") {
		return Local
	}
	return Acted
}

func (e *Engine) ofOrder(ctx context.Context, event Event, o *operatorv1.Operation) Event {
	event.Operation, event.Action, event.Level, event.State = o.GetId(), o.GetAction(), o.GetLevel(), o.GetState()
	event.By, event.Reason, event.Missing = line(o.GetRequestedBy()), line(o.GetReason()), o.GetApprovalsMissing()
	event.Finding = line(o.GetFinding())
	event.Approved, event.Policies = lines(o.GetApprovedBy()), lines(o.GetPolicies())
	return e.withHosts(ctx, event, o.GetHosts())
}

func (e *Engine) incident(ctx context.Context, in *raftv1.Incident) Event {
	event := e.event(Incident, in.GetId(), in.GetFirstSeen())
	event.Incident, event.State, event.Severity, event.Title = in.GetId(), in.GetStatus(), line(in.GetSeverity()), line(in.GetTitle())
	event = e.withHosts(ctx, event, in.GetHosts())
	event.Text = line(fmt.Sprintf("Incident of severity %s on %s: %s. See: vedette incident show %s", in.GetSeverity(), hostsText(event), event.Title, in.GetId()))
	return event
}

// differs is about a node that holds another state than others. It lasts until it is mended, so
// that its time is when it was seen.
func (e *Engine) differs(m *operatorv1.Member, now time.Time) Event {
	event := e.event(Differs, fmt.Sprintf("%s/%d", m.GetId(), m.GetDiffers()), now.UnixNano())
	event.Member = line(m.GetId())
	event.Text = line(fmt.Sprintf("Node %s holds another state than other nodes, from entry %d on: %s. See: vedette status",
		m.GetId(), m.GetDiffers(), strings.Join(append(m.GetNotReady(), m.GetAlarms()...), "; ")))
	return event
}

// resynced is about one that has taken the state of the majority over.
func (e *Engine) resynced(entry *operatorv1.AuditEntry) Event {
	event := e.event(Resynced, fmt.Sprint(entry.GetIndex()), entry.GetTime())
	event.Member = line(entry.GetSubject())
	event.Text = line(fmt.Sprintf("Node %s serves again: %s. Look after its disk and memory, and replace it when it comes again", entry.GetSubject(), entry.GetDetail()))
	return event
}

func (e *Engine) withHosts(ctx context.Context, event Event, ids []string) Event {
	event.HostCount = len(ids)
	for _, id := range ids[:min(len(ids), maxHosts)] {
		host, err := e.cfg.DB.Host(ctx, id)
		if err != nil { // its name is a help, and no more
			event.Hosts = append(event.Hosts, Host{ID: id})
			continue
		}
		event.Hosts = append(event.Hosts, Host{ID: id, Name: line(host.GetName())})
	}
	return event
}

func hostsText(event Event) string {
	if event.HostCount != 1 || len(event.Hosts) == 0 {
		return fmt.Sprintf("%d hosts", event.HostCount)
	}
	if h := event.Hosts[0]; h.Name != "" {
		return h.Name
	}
	return event.Hosts[0].ID
}

func clock(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339) }

// line is text for one line: hosts name themselves, and what they say must drive no
// terminal and begin no header.
func line(text string) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > maxText {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func lines(texts []string) []string {
	out := []string{}
	for _, text := range texts {
		if len(out) == maxHosts {
			break
		}
		out = append(out, line(text))
	}
	return out
}
