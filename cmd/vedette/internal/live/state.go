// Package live keeps and draws what `vedette watch` shows.
//
// Invariant: State is what the coordinator said last, folded in order and bounded;
// drawing it depends on nothing else, so a picture can be tested as text.
package live

import (
	"slices"
	"time"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of what is remembered: a screen or two.
const (
	maxActivity = 200
	maxRows     = 100
	maxNames    = 20_000
	// busiest is how many known behaviours of one summary are worth a line.
	busiest = 5
)

// Snapshot is the answer to one round of lists; a nil part leaves what was there.
type Snapshot struct {
	Status     *operatorv1.GetStatusResponse
	Hosts      []*operatorv1.Host
	Findings   []*operatorv1.FindingRow
	Incidents  []*raftv1.Incident
	Isolations []*operatorv1.Isolation
	Behaviours []*operatorv1.BehaviourRow
}

// Activity is one line of what a host does.
type Activity struct {
	Time int64
	Host string
	Kind string
	Text string
	New  bool
	// Count is how often since the summary before; 0 where that means nothing.
	Count uint64
}

// State is everything on the screen.
type State struct {
	Status     *operatorv1.GetStatusResponse
	Hosts      []*operatorv1.Host
	Rates      map[string]float64 // events a second by host
	Activity   []Activity         // newest first
	Findings   []*operatorv1.FindingRow
	Incidents  []*raftv1.Incident
	Isolations []*operatorv1.Isolation
	// Trouble is why the stream is interrupted; empty while it is not.
	Trouble string
	// Hints are lines at the foot, such as what to try in another terminal.
	Hints []string

	names map[string]named // what a behaviour's key stands for
	seen  map[string]mark
}

type named struct{ kind, edge string }

type mark struct {
	at     int64
	events uint64
}

// NewState is a screen with nothing on it.
func NewState() *State {
	return &State{Rates: map[string]float64{}, names: map[string]named{}, seen: map[string]mark{}}
}

// Take folds in a round of lists.
func (s *State) Take(snap Snapshot) {
	if snap.Status != nil {
		s.Status = snap.Status
	}
	if snap.Hosts != nil {
		s.Hosts = snap.Hosts
	}
	if snap.Findings != nil {
		s.Findings = snap.Findings
	}
	if snap.Incidents != nil {
		s.Incidents = snap.Incidents
	}
	if snap.Isolations != nil {
		s.Isolations = snap.Isolations
	}
	for _, row := range snap.Behaviours {
		s.name(row.GetBehaviour())
	}
}

// Event folds in one event of the stream.
func (s *State) Event(ev *operatorv1.WatchResponse) {
	s.Trouble = ""
	switch body := ev.GetBody().(type) {
	case *operatorv1.WatchResponse_Summary:
		s.summary(ev, body.Summary)
	case *operatorv1.WatchResponse_Finding:
		s.Findings = put(s.Findings, body.Finding, func(f *operatorv1.FindingRow) string { return f.GetFinding().GetId() })
	case *operatorv1.WatchResponse_Incident:
		s.Incidents = put(s.Incidents, body.Incident, (*raftv1.Incident).GetId)
	case *operatorv1.WatchResponse_Isolation:
		s.Isolations = put(s.Isolations, body.Isolation, (*operatorv1.Isolation).GetId)
	case *operatorv1.WatchResponse_HostChange:
		s.act(Activity{Time: ev.GetTime(), Host: label(ev), Kind: body.HostChange.GetChange(), Text: body.HostChange.GetDetail()})
	}
}

func (s *State) summary(ev *operatorv1.WatchResponse, sum *sensorv1.Summary) {
	host := label(ev)
	total := sum.GetHealth().GetEventsTotal()
	if last, ok := s.seen[host]; ok && total >= last.events && ev.GetTime() > last.at {
		s.Rates[ev.GetHost()] = float64(total-last.events) / time.Duration(ev.GetTime()-last.at).Seconds()
	}
	s.seen[host] = mark{ev.GetTime(), total}
	for _, h := range s.Hosts {
		if h.GetId() == ev.GetHost() && sum.GetHealth().GetBaseline() != nil {
			h.Baseline = sum.GetHealth().GetBaseline()
			h.EventsTotal, h.EventsLost = total, max(h.GetEventsLost(), sum.GetHealth().GetEventsLost())
		}
	}
	deltas := slices.Clone(sum.GetDeltas())
	slices.SortStableFunc(deltas, func(a, b *sensorv1.BehaviourDelta) int { return int(b.GetCount()) - int(a.GetCount()) })
	shown := 0
	for _, d := range deltas {
		b, ok := s.names[string(d.GetKey())]
		if !ok || shown == busiest {
			continue
		}
		shown++
		s.act(Activity{Time: ev.GetTime(), Host: host, Kind: b.kind, Text: b.edge, Count: d.GetCount()})
	}
	for _, b := range sum.GetNewBehaviours() {
		s.name(b)
		at := b.GetFirstSeen()
		if at == 0 {
			at = ev.GetTime()
		}
		s.act(Activity{Time: at, Host: host, Kind: shape.Kind(b.GetKind()), Text: edge(b), New: true})
	}
}

func (s *State) act(a Activity) {
	s.Activity = slices.Insert(s.Activity, 0, a)
	if len(s.Activity) > maxActivity {
		s.Activity = s.Activity[:maxActivity]
	}
}

func (s *State) name(b *sensorv1.Behaviour) {
	if len(s.names) >= maxNames {
		clear(s.names) // they come again with the next round of lists
	}
	s.names[string(b.GetKey())] = named{shape.Kind(b.GetKind()), edge(b)}
}

func edge(b *sensorv1.Behaviour) string {
	if len(b.GetSubject()) == 0 { // a library's load is the host's, whoever loads it
		return string(b.GetObject())
	}
	return string(b.GetSubject()) + " → " + string(b.GetObject())
}

// put makes row the first of rows, in place of the one of the same id.
func put[T any](rows []T, row T, id func(T) string) []T {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r T) bool { return id(r) == id(row) })
	rows = slices.Insert(rows, 0, row)
	return rows[:min(len(rows), maxRows)]
}

func label(ev *operatorv1.WatchResponse) string {
	if ev.GetHostName() != "" {
		return ev.GetHostName()
	}
	return ev.GetHost()
}
