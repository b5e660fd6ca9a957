package correlate

import (
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// customary is a fleet of a thousand hosts in which some things are usual.
type customary struct {
	habits map[string]habit // by host
	seen   map[string]int   // by an indicator's object
}

func (c customary) Edge(host, _ string, _ tuple, _ string, _ int64) habit { return c.habits[host] }
func (c customary) Hosts(i indicator) int                                 { return c.seen[i.usual] }
func (c customary) Fleet() int                                            { return 1000 }

func runs(image string) option {
	return func(r *operatorv1.FindingRow) {
		sum := sha256.Sum256([]byte(image))
		r.Finding.Process.Image, r.Finding.Process.Sha256 = []byte(image), sum[:]
	}
}

func entered(user, source string) option {
	return func(r *operatorv1.FindingRow) { r.Finding.Login = &sensorv1.Login{User: user, Source: address(source)} }
}

func ends(f *sensorv1.Flow, minute int, sent, got uint64) *sensorv1.Flow {
	f.Closed, f.BytesOut, f.BytesIn = t0.Add(time.Duration(minute)*time.Minute).UnixNano(), sent, got
	return f
}

// noted is a flow note; carried names the other end.
type noted struct {
	host, storyline string
	flow            *sensorv1.Flow
	carried         string
}

// joinedUp plans incidents and then campaigns of what there is, twice, and wants the second
// time nothing.
func joinedUp(t *testing.T, w *window, before []*raftv1.Campaign) (campaigns []*raftv1.Campaign, puts []*raftv1.PutCampaign) {
	t.Helper()
	for key := range w.stories {
		w.changed[key] = true
	}
	l := newLedger(apply(nil, planned(w, nil, facts{})))
	campaigns = before
	for round := range 2 {
		r := newRoster(campaigns)
		for key := range w.stories {
			w.changed[key] = true
		}
		next := w.planCampaigns(w.groups(l, r), l, r)
		if round == 1 && len(next) > 0 {
			t.Errorf("planning twice proposes %v", next)
		}
		for _, put := range next {
			campaigns = slices.DeleteFunc(campaigns, func(c *raftv1.Campaign) bool {
				return c.GetId() == put.GetCampaign().GetId() || slices.Contains(put.GetMerged(), c.GetId())
			})
			campaigns = append(campaigns, proto.CloneOf(put.GetCampaign()))
		}
		puts = append(puts, next...)
	}
	return campaigns, puts
}

func TestCampaigns(t *testing.T) {
	const admin = 22
	out := func() *sensorv1.Flow { return tcp(false, "10.0.0.1", 4000, "10.0.0.2", admin, 1) }
	in := func() *sensorv1.Flow { return tcp(true, "10.0.0.2", admin, "10.0.0.1", 4000, 1) }
	onward := func() *sensorv1.Flow { return tcp(false, "10.0.0.2", 5000, "10.0.0.3", admin, 3) }
	arrived := func() *sensorv1.Flow { return tcp(true, "10.0.0.3", admin, "10.0.0.2", 5000, 3) }
	behindNAT := func() *sensorv1.Flow { return tcp(true, "10.0.0.2", admin, "10.99.0.1", 61000, 1) }
	hub := map[string]habit{"h-a": {Count: 40, Since: 1, Peers: 300}}
	push := []*operatorv1.FindingRow{row("a", "1", 0), row("b", "9", 2, cameBy(in()))}
	for _, tt := range []struct {
		name  string
		rows  []*operatorv1.FindingRow
		notes []noted
		usual customary
		want  string // hosts in the order that they were reached; "" no campaign
		kinds string
	}{
		{name: "one host", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"))}},
		{name: "an exact flow", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out())), row("b", "9", 2, cameBy(in()))}, want: "h-a h-b", kinds: "flow"},
		{name: "a mark, and nothing found there", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"))},
			notes: []noted{{"h-a", "1", out(), ""}, {"h-b", "9", in(), "h-a/1"}}, want: "h-a h-b", kinds: "taint"},
		{name: "over a host where nothing is found", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high")), row("c", "5", 4, severity("high"))},
			notes: []noted{{"h-a", "1", out(), ""}, {"h-b", "9", in(), "h-a/1"}, {"h-b", "9", onward(), ""}, {"h-c", "5", arrived(), "h-b/9"}}, want: "h-a h-b h-c", kinds: "taint taint"},
		{name: "no mark, nothing found", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"))}, notes: []noted{{"h-a", "1", out(), ""}, {"h-b", "9", in(), ""}}},
		{name: "a mark by use of a service", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"))},
			notes: []noted{{"h-a", "1", tcp(false, "10.0.0.1", 4000, "10.0.0.2", 5432, 1), ""}, {"h-b", "9", tcp(true, "10.0.0.2", 5432, "10.0.0.1", 4000, 1), "h-a/1"}}},
		{name: "a configuration push", rows: push, notes: []noted{{"h-a", "1", out(), ""}}, usual: customary{habits: hub}},
		{name: "a push with one grave finding where it begins", rows: append(slices.Clone(push), row("a", "1", 1, severity("high"))), notes: []noted{{"h-a", "1", out(), ""}}, usual: customary{habits: hub}},
		{name: "the same way, stolen", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out())), row("b", "9", 2, severity("high"), cameBy(in()))},
			usual: customary{habits: hub}, want: "h-a h-b", kinds: "flow"},
		{name: "through NAT", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out())), row("b", "9", 2, cameBy(behindNAT()))}, want: "h-a h-b", kinds: "nat"},
		{name: "as many bytes through NAT", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("low"), sends(ends(out(), 2, 1000, 9000))), row("a", "1", 1, severity("high")),
			row("b", "9", 2, severity("low"), cameBy(ends(behindNAT(), 2, 9000, 1000)))}, want: "h-a h-b", kinds: "nat"},
		{name: "the same server at another time", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out())),
			row("b", "9", 3, cameBy(tcp(true, "10.0.0.2", admin, "10.99.0.1", 61000, 2)))}},
		{name: "through a bastion without a sensor", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(out())), row("c", "5", 6, severity("high"), cameBy(arrived()))},
			want: "h-a h-c", kinds: "relay"},
		{name: "from a bastion where the session had ended", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), sends(ends(out(), 2, 1, 1))), row("c", "5", 6, severity("high"), cameBy(arrived()))}},
		{name: "a rare program in two incidents", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), runs("/dev/shm/x")), row("b", "9", 2, severity("high"), runs("/dev/shm/x"))}, want: "h-a h-b", kinds: "hash"},
		{name: "a rare program, no incident at one", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), runs("/dev/shm/x")), row("b", "9", 2, runs("/dev/shm/x"))}},
		{name: "a program that everybody has", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), runs("/bin/sh")), row("b", "9", 2, severity("high"), runs("/bin/sh"))},
			usual: customary{seen: map[string]int{"/bin/sh": 990}}},
		{name: "a reused account", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), entered("eve", "10.0.9.9")), row("b", "9", 2, severity("high"), entered("eve", "10.0.9.9"))}, want: "h-a h-b", kinds: "account"},
		{name: "the account that everybody is administered by", rows: []*operatorv1.FindingRow{row("a", "1", 0, severity("high"), entered("root", "10.0.9.9")), row("b", "9", 2, severity("high"), entered("root", "10.0.9.9"))},
			usual: customary{seen: map[string]int{"in tcp 10.0.9.9 22": 700}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fill := func(rows []*operatorv1.FindingRow, notes []noted) *window {
				w := newWindow()
				w.usual = tt.usual
				for _, n := range notes {
					w.addNote(n.host, t0.UnixNano(), &sensorv1.FlowNote{Storyline: n.storyline, Flow: n.flow, Carried: n.carried, Process: &sensorv1.Process{Image: []byte("/usr/bin/ssh")}})
				}
				for _, r := range rows {
					w.addFinding(proto.CloneOf(r))
				}
				return w
			}
			campaigns, _ := joinedUp(t, fill(tt.rows, tt.notes), nil)
			var hosts, kinds string
			for _, c := range campaigns {
				hosts += strings.Join(c.GetHosts(), " ")
				for _, e := range c.GetEdges() {
					kinds = strings.TrimSpace(kinds + " " + e.GetKind())
					if len(e.GetTerms()) < 2 || e.GetEvidence() == "" || e.GetWeight() <= 0 {
						t.Errorf("an edge without its reasons: %v", e)
					}
				}
			}
			if hosts != tt.want || kinds != tt.kinds {
				t.Fatalf("got %q by %q, want %q by %q: %v", hosts, kinds, tt.want, tt.kinds, campaigns)
			}
			// A new leader reads the same in another order, and has nothing to say.
			slices.Reverse(tt.rows)
			slices.Reverse(tt.notes)
			if _, again := joinedUp(t, fill(tt.rows, tt.notes), campaigns); len(again) > 0 {
				t.Errorf("the next leader proposes %v", again)
			}
		})
	}
}

// Ensure two campaigns that meet become the older one, with all that was said of both, and that it
// stays when what joined it has become usual or has left the window.
func TestCampaignsMeet(t *testing.T) {
	w := newWindow()
	pair := func(first, second string, n, minute int) {
		f := tcp(false, "10.0.0."+first, uint32(4000+n), "10.0.0."+second, 22, minute)
		g := tcp(true, "10.0.0."+second, 22, "10.0.0."+first, uint32(4000+n), minute)
		w.addFinding(row(first, "s", minute, severity("high"), sends(f)))
		w.addFinding(row(second, "s", minute+1, severity("high"), cameBy(g)))
	}
	pair("3", "4", 1, 10)
	campaigns, _ := joinedUp(t, w, nil)
	pair("1", "2", 2, 1)
	campaigns, _ = joinedUp(t, w, campaigns)
	if len(campaigns) != 2 {
		t.Fatalf("%d campaigns, want 2", len(campaigns))
	}
	older := campaigns[slices.IndexFunc(campaigns, func(c *raftv1.Campaign) bool { return c.GetHosts()[0] == "h-1" })].GetId()
	pair("2", "3", 3, 20)
	campaigns, puts := joinedUp(t, w, campaigns)
	if len(campaigns) != 1 || campaigns[0].GetId() != older || len(puts) != 1 || len(puts[0].GetMerged()) != 1 {
		t.Fatalf("got %v, want all in %s", puts, older)
	}
	if c := campaigns[0]; strings.Join(c.GetHosts(), " ") != "h-1 h-2 h-3 h-4" || len(c.GetEdges()) != 3 || c.GetSeverity() != "high" || c.GetConfidence() < 0.9 {
		t.Errorf("got %v", c)
	}
	w.usual = customary{habits: map[string]habit{"h-1": {Count: 1 << 40, Since: 1, Peers: 900}, "h-2": {Count: 1 << 40, Since: 1, Peers: 900}, "h-3": {Count: 1 << 40, Since: 1, Peers: 900}}}
	before := proto.CloneOf(campaigns[0])
	campaigns, _ = joinedUp(t, w, campaigns)
	if len(campaigns) != 1 || !slices.Equal(campaigns[0].GetHosts(), before.GetHosts()) || len(campaigns[0].GetEdges()) != len(before.GetEdges()) {
		t.Errorf("what has become usual left: %v", campaigns)
	}
	empty := newWindow()
	empty.addFinding(row("2", "s", 30, severity("high")))
	campaigns, _ = joinedUp(t, empty, campaigns)
	if len(campaigns) != 1 || len(campaigns[0].GetHosts()) != 4 || len(campaigns[0].GetEdges()) != 3 {
		t.Errorf("what has left the window left the campaign: %v", campaigns)
	}
}

// Ensure a push by who has no habit yet stays apart from its fifth host on, and one of its
// hosts that goes on is told.
func TestPushWithoutHabit(t *testing.T) {
	push := func(goesOn bool) []*raftv1.Campaign {
		w := newWindow()
		w.addFinding(row("m", "1", 0, severity("medium"), score(60)))
		for i := range 8 {
			f := tcp(false, "10.0.0.1", uint32(4000+i), "10.0.1."+string(rune('1'+i)), 22, 1)
			w.addNote("h-m", t0.UnixNano(), &sensorv1.FlowNote{Storyline: "1", Flow: f, Process: &sensorv1.Process{Image: []byte("/usr/bin/ssh")}})
			g := tcp(true, "10.0.1."+string(rune('1'+i)), 22, "10.0.0.1", uint32(4000+i), 1)
			w.addFinding(row("t"+string(rune('1'+i)), "1", 2, score(60), cameBy(g)))
		}
		if goesOn {
			w.addFinding(row("t1", "1", 3, severity("high"), score(60)))
		}
		campaigns, _ := joinedUp(t, w, nil)
		return campaigns
	}
	if got := push(false); len(got) != 0 {
		t.Errorf("a push is a campaign: %v", got)
	}
	if got := push(true); len(got) != 1 || len(got[0].GetHosts()) != 9 {
		t.Errorf("an intruder's push is none: %v", got)
	}
}
