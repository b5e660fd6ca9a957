package coordinator_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newBoot() []byte {
	boot := make([]byte, 16)
	_, _ = rand.Read(boot)
	return boot
}

func finding(sequence uint64, f *sensorv1.Finding) *sensorv1.Record {
	now := time.Now().UnixNano()
	if f.GetId() == "" {
		f.Id = rand.Text()
	}
	f.Time = now
	return &sensorv1.Record{Sequence: sequence, Time: now, Body: &sensorv1.Record_Finding{Finding: f}}
}

func findings(t *testing.T, c *testCluster) []*operatorv1.FindingRow {
	t.Helper()
	var rows []*operatorv1.FindingRow
	for row, err := range c.api.Findings(t.Context(), &operatorv1.ListFindingsRequest{}) {
		if err != nil {
			t.Fatalf("listing findings: %v", err)
		}
		rows = append(rows, row)
	}
	return rows
}

// Ensure a finding goes from a sensor through any node into the store of all,
// once, whatever the sensor repeats.
func TestBatchToRow(t *testing.T) {
	c := startCluster(t, 3)
	sensor := c.enrol(1)
	boot := newBoot()
	session, welcome := sensor.open(c.nodes[2].cfg.Advertise, boot)
	if welcome.GetHostId() != sensor.id || welcome.GetAcked() != 0 || len(welcome.GetNodes().GetNodes()) != 3 {
		t.Fatalf("welcome: %v", welcome)
	}
	one := finding(1, &sensorv1.Finding{Title: "first", Storyline: "1.1"})
	session.batch(boot, 0, one)
	session.wantAck(1)
	session.batch(boot, 0, one)
	session.wantAck(1)
	session.batch(boot, 7, finding(8, &sensorv1.Finding{Title: "too early", Storyline: "1.1"}))
	m := session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes() == nil })
	if m.GetResume() == nil || m.GetResume().GetSequence() != 1 || !bytes.Equal(m.GetResume().GetBoot(), boot) {
		t.Fatalf("want a resume from 1, got %v", m)
	}
	eventually(t, "one row", func() error {
		if rows := findings(t, c); len(rows) != 1 || rows[0].GetHost() != sensor.id || rows[0].GetFinding().GetTitle() != "first" {
			return fmt.Errorf("rows: %v", rows)
		}
		return nil
	})
	// A session at another node goes on where this one was.
	_, welcome = sensor.open(c.nodes[0].cfg.Advertise, boot)
	if welcome.GetAcked() != 1 {
		t.Errorf("position at another node: got %d, want 1", welcome.GetAcked())
	}
	host, err := c.api.Host(t.Context(), sensor.id)
	if err != nil || host.GetHost().GetState() != "online" || host.GetHost().GetLabels()["role"] != "web" {
		t.Errorf("host: %v, %v", host, err)
	}
}

// Ensure a grant reaches the host's session at another node, comes again while
// unanswered and not after.
func TestGrantReachesHost(t *testing.T) {
	c := startCluster(t, 3)
	sensor := c.enrol(0)
	boot := newBoot()
	session, _ := sensor.open(c.nodes[2].cfg.Advertise, boot)
	key, chain := c.key()
	now := time.Now()
	g := &sensorv1.Grant{Nonce: newBoot(), Action: sensorv1.Action_ACTION_ISOLATE, LeaseSeconds: 600, Epoch: uint64(now.UnixNano()),
		IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Operator: "admin", Reason: "test", Operation: "op-test1", ClusterId: c.admin.ClusterID}
	set, err := grant.Address(g, sensor.id)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := grant.Sign(key, chain, g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.SubmitGrant(t.Context(), &operatorv1.SubmitGrantRequest{Grant: signed, Hosts: set.Hosts(), IdempotencyKey: "k1"}); err != nil {
		t.Fatalf("submitting: %v", err)
	}
	isGrant := func(m *sensorv1.CoordinatorMessage) bool { return m.GetGrant() != nil }
	m := session.next(isGrant)
	if _, _, err := grant.Verify(m.GetGrant(), c.operators(), c.admin.ClusterID, time.Now()); err != nil {
		t.Fatalf("what came does not verify: %v", err)
	}
	if err := grant.Names(g, m.GetGrant().GetProof(), sensor.id); err != nil {
		t.Fatalf("what came does not prove that it is for this host: %v", err)
	}
	// The answer was lost with the session: the grant comes again, at any node.
	session, _ = sensor.open(c.nodes[1].cfg.Advertise, boot)
	session.next(isGrant)
	session.batch(boot, 0, &sensorv1.Record{Sequence: 1, Time: now.UnixNano(), Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{
		Operation: "op-test1", State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED, AppliedAt: now.UnixNano(), SelfTest: "probe lost, coordinator reached", Nonce: g.GetNonce()}}})
	session.wantAck(1)
	op, err := c.api.Operation(t.Context(), "op-test1")
	if err != nil || len(op.GetHosts()) != 1 || op.GetHosts()[0].GetState() != "applied" {
		t.Fatalf("operation: %v, %v", op, err)
	}
	session, _ = sensor.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 1, finding(2, &sensorv1.Finding{Storyline: "1.1"}))
	m = session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes() == nil })
	if m.GetAck() == nil {
		t.Errorf("an answered grant came again: %v", m)
	}

	for _, tt := range []struct {
		name   string
		hosts  []string
		change func(*sensorv1.Grant, *operatorv1.SubmitGrantRequest)
		want   error
	}{
		{"unknown host", []string{"h-aaaaaaaaaaaa"}, nil, client.ErrNotFound},
		{"long lease", nil, func(g *sensorv1.Grant, _ *operatorv1.SubmitGrantRequest) { g.LeaseSeconds = 25 * 3600 }, client.ErrInvalid},
		{"no host", nil, func(_ *sensorv1.Grant, r *operatorv1.SubmitGrantRequest) { r.Hosts = nil }, client.ErrInvalid},
		{"another host", nil, func(_ *sensorv1.Grant, r *operatorv1.SubmitGrantRequest) { r.Hosts = []string{"h-bbbbbbbbbbbb"} }, client.ErrInvalid},
		{"changed after signing", nil, func(_ *sensorv1.Grant, r *operatorv1.SubmitGrantRequest) {
			if r.GetGrant() != nil {
				r.Grant.Signatures[0].Signature[0] ^= 1
			}
		}, client.ErrDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := &sensorv1.Grant{Nonce: newBoot(), Action: g.GetAction(), LeaseSeconds: 60, IssuedAt: g.GetIssuedAt(), Epoch: g.GetEpoch() + 1,
				NotAfter: g.GetNotAfter(), Operator: "admin", Reason: "r", Operation: "op-" + rand.Text(), ClusterId: g.GetClusterId()}
			set, err := grant.Address(bad, append(tt.hosts, sensor.id)...)
			if err != nil {
				t.Fatal(err)
			}
			request := &operatorv1.SubmitGrantRequest{Hosts: set.Hosts(), IdempotencyKey: rand.Text()}
			if tt.change != nil {
				tt.change(bad, request)
			}
			if request.Grant, err = grant.Sign(key, chain, bad); err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				tt.change(&sensorv1.Grant{}, request)
			}
			if _, err := c.api.SubmitGrant(t.Context(), request); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func flow(inbound bool, local, remote [4]byte, localPort, remotePort uint32) *sensorv1.Flow {
	return &sensorv1.Flow{Protocol: 6, Inbound: inbound, Local: local[:], LocalPort: localPort, Remote: remote[:], RemotePort: remotePort, Opened: time.Now().UnixNano()}
}

func openIncidents(t *testing.T, c *testCluster) []*raftv1.Incident {
	t.Helper()
	var out []*raftv1.Incident
	for in, err := range c.api.Incidents(t.Context(), &operatorv1.ListIncidentsRequest{Status: "open"}) {
		if err != nil {
			t.Logf("listing incidents: %v", err)
			return nil
		}
		out = append(out, in)
	}
	return out
}

// Ensure the leader makes an incident, and the next leader joins to it what
// happens on another host.
func TestIncidentSurvivesFailover(t *testing.T) {
	c := startCluster(t, 3)
	a, b := c.enrol(0), c.enrol(1)
	bootA, bootB := newBoot(), newBoot()
	here, there := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
	session, _ := a.open(c.nodes[0].cfg.Advertise, bootA)
	session.batch(bootA, 0, finding(1, &sensorv1.Finding{Title: "Shell from a service", Severity: "high", Score: 80, Storyline: "10.1",
		Process: &sensorv1.Process{Pid: 11, Image: []byte("/bin/sh")}}))
	session.wantAck(1)
	var id string
	eventually(t, "an incident", func() error {
		in := openIncidents(t, c)
		if len(in) != 1 {
			return fmt.Errorf("incidents: %v", in)
		}
		id = in[0].GetId()
		return nil
	})

	leader := ""
	eventually(t, "a leader", func() error {
		status, err := c.api.Status(t.Context())
		if leader = status.GetLeaderId(); err == nil && leader == "" {
			err = errors.New("none")
		}
		return err
	})
	i := slices.IndexFunc(c.nodes, func(n *testNode) bool { return n.cfg.ID == leader })
	c.nodes[i].stop()
	left := slices.Delete(slices.Clone(c.nodes), i, i+1)

	session, _ = openAt(t, a, left, bootA)
	session.batch(bootA, 1, &sensorv1.Record{Sequence: 2, Time: time.Now().UnixNano(), Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{
		Storyline: "10.1", Process: &sensorv1.Process{Image: []byte("/usr/bin/ssh")}, Flow: flow(false, here, there, 40000, 22)}}})
	session.wantAck(2)
	session, _ = openAt(t, b, left, bootB)
	session.batch(bootB, 0, finding(1, &sensorv1.Finding{Title: "New program in a temporary directory", Severity: "medium", Score: 50, Storyline: "7.7",
		Process: &sensorv1.Process{Pid: 8, Image: []byte("/tmp/x")}, Origin: flow(true, there, here, 22, 40000)}))
	session.wantAck(1)
	eventually(t, "one incident with both hosts", func() error {
		in := openIncidents(t, c)
		if len(in) != 1 || in[0].GetId() != id || len(in[0].GetHosts()) != 2 || len(in[0].GetEdges()) != 1 {
			return fmt.Errorf("incidents: %v", in)
		}
		if e := in[0].GetEdges()[0]; e.GetFrom() != a.id || e.GetTo() != b.id || e.GetKind() != "flow" {
			return fmt.Errorf("edge: %v", e)
		}
		return nil
	})
	closed, err := c.api.CloseIncident(t.Context(), &operatorv1.CloseIncidentRequest{Id: id, Disposition: "benign", Reason: "exercise", IdempotencyKey: "c1"})
	if in := closed.GetIncident(); err != nil || in.GetStatus() != "closed" || in.GetClosedBy() != "operator:admin" {
		t.Errorf("closing: %v, %v", closed, err)
	}
}

// openAt opens a session as soon as one of the nodes takes it.
func openAt(t *testing.T, s *testSensor, nodes []*testNode, boot []byte) (session *testSession, welcome *sensorv1.Welcome) {
	t.Helper()
	eventually(t, "a session", func() error {
		for _, n := range nodes {
			var err error
			if session, err = s.dial(n.cfg.Advertise); err != nil {
				continue
			}
			session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: frame.ProtocolVersion, Boot: boot}}})
			m := &sensorv1.CoordinatorMessage{}
			if err := frame.Read(session.stream, m); err == nil && m.GetWelcome() != nil {
				welcome = m.GetWelcome()
				return nil
			}
		}
		return errors.New("no node takes it")
	})
	return session, welcome
}
