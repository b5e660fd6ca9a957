package clustertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/engine/correlate"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// correlated runs the engine beside a member until it ends.
func correlated(t *testing.T, m *Member) (stop func()) {
	t.Helper()
	engine, err := correlate.New(correlate.Config{Log: m.Node(), DB: m.Node().DB(), Settle: 10 * time.Millisecond, Poll: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := engine.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("engine of %s: %v", m.ID, err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// hopper makes the records of an intruder that goes from host to host; each host but the first
// and the last has no finding of its own and only the mark that the connection brought.
type hopper struct {
	c        *Cluster
	hosts    []string
	sequence map[string]uint64
	start    time.Time
}

func (h *hopper) flow(i int, inbound bool) *sensorv1.Flow {
	client, server, port := []byte{10, 0, 0, byte(i + 1)}, []byte{10, 0, 0, byte(i + 2)}, uint32(40000+i)
	f := &sensorv1.Flow{Protocol: 6, Inbound: inbound, Opened: h.start.Add(time.Duration(i) * time.Second).UnixNano(),
		Local: client, LocalPort: port, Remote: server, RemotePort: 22}
	if inbound {
		f.Local, f.LocalPort, f.Remote, f.RemotePort = server, 22, client, port
	}
	return f
}

func (h *hopper) tell(i int, record *sensorv1.Record) {
	host := h.hosts[i]
	h.sequence[host]++
	record.Sequence, record.Time = h.sequence[host], h.start.Add(time.Duration(i)*time.Second).UnixNano()
	batch := &sensorv1.Batch{Boot: fmt.Appendf(nil, "%016d", i), Prev: record.Sequence - 1, Records: []*sensorv1.Record{record}}
	h.c.Must(&raftv1.Command{Time: time.Now().UnixNano(), Actor: "node:test", Body: &raftv1.Command_Ingest{
		Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: batch}}}}})
}

func (h *hopper) note(i int, f *sensorv1.Flow, carried string) {
	h.tell(i, &sensorv1.Record{Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: "7.1", Flow: f, Carried: carried,
		Process: &sensorv1.Process{Pid: 7, Image: []byte("/usr/bin/ssh")}}}})
}

func (h *hopper) finding(i int) {
	h.tell(i, &sensorv1.Record{Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: fmt.Sprintf("f-%d", i), Time: h.start.UnixNano(), Kind: "new-exec",
		Title: "A shell of a service", Severity: "high", Score: 80, Storyline: "7.1", Techniques: []string{"T1059.004"},
		Process: &sensorv1.Process{Pid: 7, Image: []byte("/bin/sh")}}}})
}

// hop goes from a host to the next, which reports the mark.
func (h *hopper) hop(i int) {
	h.note(i, h.flow(i, false), "")
	h.note(i+1, h.flow(i, true), h.hosts[i]+"/7.1")
}

// Ensure a campaign whose leader dies between two hops is one campaign, with the hosts on which
// nothing was found, joined within five seconds of the last hop.
func TestCampaignSurvivesFailover(t *testing.T) {
	const hosts = 6
	c := New(t, 3, nil)
	stops := map[*Member]func(){}
	for _, m := range c.Members {
		stops[m] = correlated(t, m)
	}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	h := &hopper{c: c, sequence: map[string]uint64{}, start: time.Now()}
	for i := range hosts {
		id := fmt.Sprintf("h-%012d", i)
		h.hosts = append(h.hosts, id)
		c.Must(&raftv1.Command{Time: time.Now().UnixNano(), Actor: "node:test", Body: &raftv1.Command_EnrollHost{
			EnrollHost: &raftv1.EnrollHost{Host: id, Facts: &sensorv1.HostFacts{Name: fmt.Sprintf("host%d", i)}}}})
	}
	open := func() (all []*raftv1.Campaign) {
		all, _, err := c.Leader().Node().DB().Campaigns(t.Context(), store.IncidentFilter{Status: "open"}, store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	whole := func(n int) func() bool {
		return func() bool {
			all := open()
			return len(all) == 1 && slices.Equal(slices.Sorted(slices.Values(all[0].GetHosts())), h.hosts[:n])
		}
	}
	h.finding(0)
	h.hop(0)
	h.hop(1)
	c.Eventually(10*time.Second, "campaign of three hosts", whole(3))
	id := open()[0].GetId()

	leader := c.Leader()
	stops[leader]()
	delete(stops, leader)
	ended := c.Kill(leader)
	h.hop(2) // without the one that began it
	h.hop(3)
	ended()
	h.hop(4)
	h.finding(5)
	last := time.Now()
	c.Eventually(20*time.Second, "campaign of all hosts", whole(hosts))
	took := time.Since(last)
	// The last host came with its connection; its own finding, and an incident for it, come behind.
	c.Eventually(20*time.Second, "the last host's own part in it", func() bool {
		all, _, err := c.Leader().Node().DB().Incidents(t.Context(), store.IncidentFilter{}, store.Page{})
		carried := slices.ContainsFunc(open()[0].GetMembers(), func(m *raftv1.CampaignMember) bool { return m.GetHost() == h.hosts[5] && m.GetCarried() })
		return err == nil && len(all) == 2 && !carried
	})
	got := open()[0]
	if got.GetId() != id {
		t.Errorf("the campaign was %s and is %s", id, got.GetId())
	}
	if got.GetHosts()[0] != h.hosts[0] || len(got.GetEdges()) != hosts-1 {
		t.Errorf("first host %s, %d edges: %v", got.GetHosts()[0], len(got.GetEdges()), got.GetEdges())
	}
	for _, m := range got.GetMembers() {
		if own := m.GetHost() == h.hosts[0] || m.GetHost() == h.hosts[5]; m.GetCarried() == own {
			t.Errorf("%s: carried %v", m.GetHost(), m.GetCarried())
		}
	}
	incidents, _, err := c.Leader().Node().DB().Incidents(t.Context(), store.IncidentFilter{}, store.Page{})
	if err != nil || len(incidents) != 2 {
		t.Fatalf("%d incidents, %v", len(incidents), err)
	}
	for _, in := range incidents {
		if in.GetCampaign() != id {
			t.Errorf("incident %s names campaign %q, want %s", in.GetId(), in.GetCampaign(), id)
		}
	}
	Figure(t, "campaign.joined-after-failover", took.Seconds(), "s", "<= 5", took <= 5*time.Second, "leader killed mid-campaign, 6 hosts, 3 nodes in one process")

	// Judged, it is closed, and its incidents open no other.
	for _, in := range incidents {
		c.Must(&raftv1.Command{Time: time.Now().UnixNano(), Actor: "operator:test", Body: &raftv1.Command_CloseIncident{
			CloseIncident: &raftv1.CloseIncident{Id: in.GetId(), Disposition: "malicious", Reason: "drill"}}})
	}
	c.Eventually(10*time.Second, "closed campaign", func() bool { return len(open()) == 0 })
	closed, err := c.Leader().Node().DB().Campaign(t.Context(), id)
	if err != nil || closed.GetStatus() != "closed" || closed.GetDisposition() != "malicious" {
		t.Errorf("after its incidents were closed: %v, %v", closed, err)
	}
}
