package world

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of a campaign: so many hosts, one in each window.
const (
	minPath, maxPath = 3, 5
	sshPort          = 22
)

// Campaign moves over hosts, from each to the next over one flow that both see.
type Campaign struct {
	N      int
	Path   []int // hosts, in the order that they are reached in; each is in one campaign only
	Window int   // of the first; each next host is reached Gap windows later
	Gap    int
	Kind   string
}

// kinds of campaigns. On the hosts between the first and the last of "marks alone" nothing is
// found; a worm spreads to two from each; the others go from each to the next.
const (
	keyHop    = "ssh key hop"
	marksOnly = "marks alone"
	scpRun    = "scp and run"
	webShell  = "web shell to database"
	cronWorm  = "cron worm"
	slowHop   = "slow hop"
)

var campaignKinds = []string{keyHop, marksOnly, scpRun, webShell, cronWorm, slowHop}

// slowGap is how many windows a slow campaign waits between two hops.
const slowGap = 8

// from is the place that a place is reached from.
func (c *Campaign) from(place int) int {
	if c.Kind == cronWorm {
		return (place - 1) / 2
	}
	return place - 1
}

// at is the window in which a place is reached.
func (c *Campaign) at(place int) int { return c.Window + place*c.Gap }

// step is what a host is in a campaign.
type step struct {
	campaign *Campaign
	place    int
}

// plan lays the campaigns over honest hosts that are there all the while.
func (w *World) plan() error {
	taken := make(map[int]bool)
	candidates := w.order(tagCampaign)
	for c := range w.cfg.Campaigns {
		plan := Campaign{N: c, Window: w.cfg.CampaignStart + c*w.cfg.CampaignEvery, Gap: 1, Kind: keyHop}
		length := minPath + int(w.roll(tagCampaign, uint64(c), 1)%(maxPath-minPath+1))
		if w.cfg.Kinds {
			plan.Window, plan.Kind = w.cfg.CampaignStart+c%4, campaignKinds[c%len(campaignKinds)]
		}
		switch plan.Kind {
		case slowHop:
			plan.Gap, length = slowGap, minPath
		case webShell:
			length = 2
		}
		for _, n := range candidates {
			if len(plan.Path) == length {
				break
			}
			if !taken[n] && w.hosts[n].Kind == Honest && w.stays(n, plan.Window, plan.Window+(maxPath+1)*plan.Gap) {
				taken[n] = true
				plan.Path = append(plan.Path, n)
			}
		}
		if len(plan.Path) < length {
			return fmt.Errorf("world configuration: campaign %d of %d finds only %d honest hosts that stay: want more Hosts", c, w.cfg.Campaigns, len(plan.Path))
		}
		w.campaigns = append(w.campaigns, plan)
	}
	for i := range w.campaigns {
		for place, n := range w.campaigns[i].Path {
			w.steps[n] = append(w.steps[n], step{&w.campaigns[i], place})
		}
	}
	return w.planPushes(taken)
}

// stays: it is there and keeps its session in all of these windows.
func (w *World) stays(n, from, until int) bool {
	for k := max(0, from-1); k < until; k++ {
		if !w.Present(n, k) || w.Dropped(n, k) {
			return false
		}
	}
	return true
}

// Campaigns are all of them.
func (w *World) Campaigns() []Campaign { return slices.Clone(w.campaigns) }

// Last is the window in which the last host is reached.
func (c *Campaign) Last() int { return c.at(len(c.Path) - 1) }

// campaignRecords are the traces that campaigns leave on a host in a window.
func (w *World) campaignRecords(n, window int) (records []*sensorv1.Record) {
	for _, s := range w.steps[n] {
		c := s.campaign
		if window == c.at(s.place) {
			records = append(records, w.reached(c, s.place)...)
		}
		for next := s.place + 1; next < len(c.Path); next++ {
			if c.from(next) == s.place && window == c.at(next) {
				records = append(records, w.left(c, next))
			}
		}
	}
	return append(records, w.pushRecords(n, window)...)
}

func (c *Campaign) storyline(place int) string { return fmt.Sprintf("campaign-%d-%d", c.N, place) }

// hop is the flow by which a place on the path is reached, as the client or the server sees it.
func (w *World) hop(c *Campaign, place int, inbound bool) *sensorv1.Flow {
	port := uint32(32768 + w.roll(tagCampaign, uint64(c.N), uint64(place)-1, 2)%28000) //nolint:gosec // a port, of a place above zero
	service := uint32(sshPort)
	if c.Kind == webShell {
		service = 5432
	}
	return w.between(c.Path[c.from(place)], c.Path[place], port, service, w.At(c.at(place)).UnixNano()+int64(w.cfg.Window)/4, inbound)
}

// between is a flow of two hosts as one of them sees it.
func (w *World) between(from, to int, port, service uint32, at int64, inbound bool) *sensorv1.Flow {
	client, server := w.hosts[from].Address, w.hosts[to].Address
	flow := &sensorv1.Flow{Protocol: 6, Opened: at, Local: bytesOf(client), LocalPort: port, Remote: bytesOf(server), RemotePort: service, BytesOut: 4096, BytesIn: 9000}
	if inbound {
		// Two clocks are never the same.
		flow.Local, flow.LocalPort, flow.Remote, flow.RemotePort = flow.Remote, flow.RemotePort, flow.Local, flow.LocalPort
		flow.Inbound, flow.Opened, flow.BytesIn, flow.BytesOut = true, at+3_000_000, flow.BytesOut, flow.BytesIn
	}
	return flow
}

func bytesOf(a netip.Addr) []byte { return a.AsSlice() }

// reached is what is seen on a host when it is reached: the flow that it was reached by,
// and what was done there.
func (w *World) reached(c *Campaign, place int) (records []*sensorv1.Record) {
	n := c.Path[place]
	shell := &sensorv1.Process{Pid: uint32(7000 + place), Image: []byte("/bin/sh"), User: "www-data", Argv: [][]byte{[]byte("sh"), []byte("-i")}} //nolint:gosec // a place
	at := w.At(c.at(place)).UnixNano() + int64(w.cfg.Window)/2
	f := &sensorv1.Finding{Id: fmt.Sprintf("campaign-%d-%d-%d", w.cfg.Seed, c.N, place), Time: at, Kind: "new-exec", Title: "A shell of a service", Severity: "high", Score: 80,
		Techniques: []string{"T1059.004"}, Storyline: c.storyline(place), Process: shell, Reason: fmt.Sprintf("%s started %s, never seen here.", w.hosts[n].role.login.subject, "/bin/sh")}
	if place > 0 {
		sshd := &sensorv1.Process{Pid: 800, Image: []byte("/usr/sbin/sshd"), User: "root"}
		f.Title, f.Severity, f.Score, f.Techniques = "A session from a host that never came here", "medium", 60, []string{"T1021.004"}
		f.Origin, f.Process = w.hop(c, place, true), sshd
		note := &sensorv1.FlowNote{Storyline: f.Storyline, Process: sshd, Flow: w.hop(c, place, true)}
		if w.cfg.Kinds {
			note.Carried = w.hosts[c.Path[c.from(place)]].Name + "/" + c.storyline(c.from(place))
		}
		records = append(records, &sensorv1.Record{Time: f.Origin.GetOpened(), Body: &sensorv1.Record_FlowNote{FlowNote: note}})
	}
	switch {
	case c.Kind == marksOnly && place > 0 && place < len(c.Path)-1:
		return records
	case c.Kind == scpRun || c.Kind == cronWorm:
		sum := sha256.Sum256([]byte(f.Id[:len(f.Id)-1]))
		f.Severity, f.Process = "high", &sensorv1.Process{Pid: shell.Pid, Image: []byte("/dev/shm/.x"), User: "root", Sha256: sum[:]}
		f.Lookups = []string{fmt.Sprintf("c%d.example", c.N)}
	}
	return append(records, &sensorv1.Record{Time: at, Body: &sensorv1.Record_Finding{Finding: f}})
}

// left is what is seen on the host that a place is reached from: the flow to it.
func (w *World) left(c *Campaign, next int) *sensorv1.Record {
	flow := w.hop(c, next, false)
	place := c.from(next)
	return &sensorv1.Record{Time: flow.GetOpened(), Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: c.storyline(place),
		Process: &sensorv1.Process{Pid: uint32(7100 + place), Image: []byte("/usr/bin/ssh"), User: "www-data"}, Flow: flow}}} //nolint:gosec // a place
}
