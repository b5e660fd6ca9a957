package correlate

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Habit is how used a host is to one connection; see customs.
type Habit = habit

// Customs says what a described fleet is used to.
type Customs interface {
	// Reach is how used a host's program is to a server.
	Reach(host, image string, server netip.AddrPort) Habit
	// Hosts is on how many hosts an object of behaviours is usual.
	Hosts(object string) int
	// Fleet is how many hosts there are.
	Fleet() int
}

// Replay is the engine's own window, plans and weighing over records whose time is theirs, to
// measure what they make of them: what the log would do with a plan is done at once. It is for
// one goroutine.
type Replay struct {
	w *window
	l *ledger
	r *roster
}

// NewReplay knows nothing yet but the fleet's customs.
func NewReplay(of Customs) *Replay {
	p := &Replay{w: newWindow(), l: newLedger(nil), r: newRoster(nil)}
	p.w.usual = described{of}
	return p
}

// Finding takes a finding in, as the store would give it.
func (p *Replay) Finding(row *operatorv1.FindingRow) { p.w.addFinding(row) }

// Note takes a host's flow note in, that came at a time.
func (p *Replay) Note(host string, at time.Time, note *sensorv1.FlowNote) {
	p.w.addNote(host, at.UnixNano(), note)
}

// Plan does what the leader does a moment after something came.
func (p *Replay) Plan(now time.Time) {
	p.w.forget(now.Add(-24*time.Hour), now.Add(-patience), func(key storyKey) bool {
		return len(p.l.byStory[key.String()]) > 0 || len(p.r.byStory[key]) > 0
	})
	for _, put := range plan(p.w.components(p.l, 120), p.l, facts{}) {
		for _, id := range put.GetMerged() {
			p.l.remove(id)
		}
		p.l.put(put.GetIncident())
	}
	for _, put := range p.w.planCampaigns(p.w.groups(p.l, p.r), p.l, p.r) {
		for _, id := range put.GetMerged() {
			p.r.remove(id)
		}
		p.r.put(proto.CloneOf(put.GetCampaign()))
	}
	clear(p.w.changed)
}

// Campaigns are those that are open, in no order.
func (p *Replay) Campaigns() (all []*raftv1.Campaign) {
	for _, c := range p.r.byID {
		all = append(all, c)
	}
	return all
}

// described answers as the store's customs do.
type described struct{ of Customs }

func (d described) Edge(host, image string, flow tuple, _ string, _ int64) habit {
	return d.of.Reach(host, image, flow.server)
}

func (d described) Hosts(i indicator) int { return d.of.Hosts(i.usual) }
func (d described) Fleet() int            { return d.of.Fleet() }
