package coordinator_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
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

func TestEnrolmentRefused(t *testing.T) {
	c := startCluster(t, 1)
	addr := c.nodes[0].cfg.Advertise
	used, _, request := enrolRequest(t, c.token("sensor"))
	if reply, err := ask(t, addr, used.CA, request); err != nil || reply.GetEnrolled() == nil {
		t.Fatalf("first use: %v, %v", reply, err)
	}
	for _, tt := range []struct {
		name, code, says string
		change           func(*sensorv1.EnrollRequest)
	}{
		{"used", "token-used", "create another", func(*sensorv1.EnrollRequest) {}},
		{"wrong secret", "bad-token", "token create", func(r *sensorv1.EnrollRequest) { r.TokenSecret = []byte("0123456789abcdef") }},
		{"wrong id", "bad-token", "token create", func(r *sensorv1.EnrollRequest) { r.TokenId = "aaaaaaaaaaaa" }},
		{"no token", "bad-token", "token create", func(r *sensorv1.EnrollRequest) { r.TokenId, r.TokenSecret = "", nil }},
		{"protocol", "unknown-protocol", "version 99, this coordinator speaks version 1", func(r *sensorv1.EnrollRequest) { r.Protocol = 99 }},
		{"no request", "bad-request", "certificate request", func(r *sensorv1.EnrollRequest) { r.Csr = []byte("no csr") }},
		{"kind", "bad-request", "sensor nor node", func(r *sensorv1.EnrollRequest) { r.Kind = 9 }},
		{"node without address", "bad-request", "HOST:PORT", func(r *sensorv1.EnrollRequest) {
			r.Kind, r.Node = sensorv1.EnrollKind_ENROLL_KIND_NODE, &sensorv1.Node{Id: "evil"}
		}},
		{"node id taken", "node-exists", "n1", func(r *sensorv1.EnrollRequest) {
			r.Kind, r.Node = sensorv1.EnrollKind_ENROLL_KIND_NODE, &sensorv1.Node{Id: "n1", Address: "10.0.0.1:1", OperatorAddress: "10.0.0.1:2"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &sensorv1.EnrollRequest{Protocol: request.GetProtocol(), Kind: request.GetKind(), TokenId: request.GetTokenId(),
				TokenSecret: request.GetTokenSecret(), Csr: request.GetCsr(), Facts: request.GetFacts()}
			tt.change(r)
			reply, err := ask(t, addr, used.CA, r)
			if err != nil {
				t.Fatal(err)
			}
			if got := reply.GetRefusal(); got.GetCode() != tt.code || !strings.Contains(got.GetMessage(), tt.says) {
				t.Errorf("got %v, want code %s saying %q", reply, tt.code, tt.says)
			}
		})
	}
	t.Run("sensor token for a node", func(t *testing.T) {
		cfg := newConfig(t, "n9")
		err := coordinator.Join(t.Context(), cfg, addr, c.token("sensor"))
		if !errors.Is(err, coordinator.ErrRefused) || !strings.Contains(err.Error(), "wrong-token-kind") {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(filepath.Join(cfg.Data, "ca.key")); err == nil {
			t.Error("a refused join left a CA key behind")
		}
	})
	t.Run("rate limit", func(t *testing.T) {
		request.TokenSecret = []byte("guess guess gues")
		eventually(t, "the limit", func() error {
			reply, err := ask(t, addr, used.CA, request)
			if err != nil {
				return err
			}
			if reply.GetRefusal().GetCode() != "rate-limited" || reply.GetRefusal().GetRetryAfterSeconds() == 0 {
				return fmt.Errorf("got %v", reply)
			}
			return nil
		})
	})
}

func TestSessionRefused(t *testing.T) {
	c := startCluster(t, 1)
	addr := c.nodes[0].cfg.Advertise
	sensor := c.enrol(0)
	hello := func(change func(*sensorv1.Hello)) *sensorv1.SensorMessage {
		h := &sensorv1.Hello{Protocol: frame.ProtocolVersion, Boot: newBoot()}
		change(h)
		return &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: h}}
	}
	for _, tt := range []struct {
		name, code, says string
		first            *sensorv1.SensorMessage
	}{
		{"protocol", "unknown-protocol", "version 2, this coordinator speaks version 1", hello(func(h *sensorv1.Hello) { h.Protocol = 2 })},
		{"boot", "bad-hello", "3 bytes", hello(func(h *sensorv1.Hello) { h.Boot = []byte("abc") })},
		{"no hello", "hello-expected", "hello", &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Renew{Renew: &sensorv1.Renew{}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			session, err := sensor.dial(addr)
			if err != nil {
				t.Fatal(err)
			}
			session.t = t
			session.send(tt.first)
			if got := session.read().GetRefusal(); got.GetCode() != tt.code || !strings.Contains(got.GetMessage(), tt.says) {
				t.Errorf("got %v, want code %s saying %q", got, tt.code, tt.says)
			}
		})
	}
	t.Run("host of the same CA that the cluster does not know", func(t *testing.T) {
		stranger := *sensor
		stranger.t, stranger.cert = t, signStranger(t, c)
		session, err := stranger.dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		session.send(hello(func(*sensorv1.Hello) {}))
		if got := session.read().GetRefusal(); got.GetCode() != "unknown-host" || !strings.Contains(got.GetMessage(), "enrol again") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("certificate of another authority", func(t *testing.T) {
		foreign := *sensor
		foreign.t, foreign.cert = t, signForeign(t, c.admin.ClusterID)
		session, err := foreign.dial(addr)
		if err == nil {
			_ = frame.Write(session.stream, hello(func(*sensorv1.Hello) {}))
			err = frame.Read(session.stream, &sensorv1.CoordinatorMessage{})
		}
		if !errors.Is(err, link.ErrForeignCA) && !errors.Is(err, link.ErrCertificateRefused) {
			t.Errorf("got %v, want a refused certificate", err)
		}
	})
	t.Run("oversized frame", func(t *testing.T) {
		session, _ := sensor.open(addr, newBoot())
		header := binary.BigEndian.AppendUint32(nil, frame.MaxFrame+1)
		if _, err := session.stream.Write(header); err != nil {
			t.Fatal(err)
		}
		var closed *link.ClosedError
		err := frame.Read(session.stream, &sensorv1.CoordinatorMessage{})
		if !errors.As(err, &closed) || closed.Code != link.CodeBadFrame || !strings.Contains(closed.Reason, "too large") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("sequences that do not rise", func(t *testing.T) {
		boot := newBoot()
		session, _ := sensor.open(addr, boot)
		session.batch(boot, 0, finding(2, &sensorv1.Finding{}), finding(2, &sensorv1.Finding{}))
		var closed *link.ClosedError
		err := frame.Read(session.stream, &sensorv1.CoordinatorMessage{})
		if !errors.As(err, &closed) || closed.Code != link.CodeProtocol {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a second session takes over", func(t *testing.T) {
		boot := newBoot()
		first, _ := sensor.open(addr, boot)
		second, _ := sensor.open(addr, boot)
		var closed *link.ClosedError
		for err := error(nil); err == nil; {
			if err = frame.Read(first.stream, &sensorv1.CoordinatorMessage{}); err != nil && (!errors.As(err, &closed) || closed.Code != link.CodeSuperseded) {
				t.Errorf("first session: got %v", err)
			}
		}
		second.batch(boot, 0, finding(1, &sensorv1.Finding{Storyline: "1.1"}))
		second.wantAck(1)
	})
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
	g := &sensorv1.Grant{Nonce: newBoot(), Action: sensorv1.Action_ACTION_ISOLATE, Hosts: []string{sensor.id}, LeaseSeconds: 600,
		IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Operator: "admin", Reason: "test", Operation: "op-test1", ClusterId: c.admin.ClusterID}
	signed, err := grant.Sign(key, chain, g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.SubmitGrant(t.Context(), &operatorv1.SubmitGrantRequest{Grant: signed, IdempotencyKey: "k1"}); err != nil {
		t.Fatalf("submitting: %v", err)
	}
	isGrant := func(m *sensorv1.CoordinatorMessage) bool { return m.GetGrant() != nil }
	m := session.next(isGrant)
	if _, _, err := grant.Verify(m.GetGrant(), c.roots(), c.admin.ClusterID, time.Now()); err != nil {
		t.Fatalf("what came does not verify: %v", err)
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
		change func(*sensorv1.Grant, *sensorv1.SignedGrant)
		want   error
	}{
		{"unknown host", func(g *sensorv1.Grant, _ *sensorv1.SignedGrant) { g.Hosts = []string{"h-aaaaaaaaaaaa"} }, client.ErrNotFound},
		{"no host", func(g *sensorv1.Grant, _ *sensorv1.SignedGrant) { g.Hosts = nil }, nil},
		{"long lease", func(g *sensorv1.Grant, _ *sensorv1.SignedGrant) { g.LeaseSeconds = 25 * 3600 }, client.ErrInvalid},
		{"changed after signing", func(_ *sensorv1.Grant, s *sensorv1.SignedGrant) { s.Signature[0] ^= 1 }, client.ErrDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := &sensorv1.Grant{Nonce: newBoot(), Action: g.GetAction(), Hosts: g.GetHosts(), LeaseSeconds: 60, IssuedAt: g.GetIssuedAt(),
				NotAfter: g.GetNotAfter(), Operator: "admin", Reason: "r", Operation: "op-" + rand.Text(), ClusterId: g.GetClusterId()}
			tt.change(bad, &sensorv1.SignedGrant{Signature: []byte{0}})
			signed, err := grant.Sign(key, chain, bad)
			if tt.want == nil {
				if err == nil {
					t.Fatal("an empty host list was signed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.change(&sensorv1.Grant{}, signed)
			if _, err := c.api.SubmitGrant(t.Context(), &operatorv1.SubmitGrantRequest{Grant: signed, IdempotencyKey: rand.Text()}); !errors.Is(err, tt.want) {
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
	if err != nil || closed.GetStatus() != "closed" || closed.GetClosedBy() != "operator:admin" {
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

func TestStartErrors(t *testing.T) {
	t.Run("not initialised", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		_, err := coordinator.New(cfg)
		if !errors.Is(err, coordinator.ErrNotInitialised) || !strings.Contains(err.Error(), "vedette-coordinator join") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("initialised twice", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		if _, err := coordinator.Init(cfg); err != nil {
			t.Fatal(err)
		}
		if _, err := coordinator.Init(cfg); !errors.Is(err, coordinator.ErrInitialised) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("key readable by others", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		if _, err := coordinator.Init(cfg); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(cfg.Data, "ca.key"), 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := coordinator.New(cfg); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("port in use", func(t *testing.T) {
		c := startCluster(t, 1)
		cfg := newConfig(t, "n2")
		cfg.OperatorListen = c.nodes[0].cfg.OperatorListen
		if _, err := coordinator.Init(cfg); err != nil {
			t.Fatal(err)
		}
		second, err := coordinator.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "another process has the port") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("state of another cluster", func(t *testing.T) {
		one, two := startCluster(t, 1), newConfig(t, "n1")
		eventually(t, "a written state", func() error {
			status, err := one.api.Status(t.Context())
			if err == nil && status.GetAppliedIndex() < 3 {
				err = errors.New("nothing yet")
			}
			return err
		})
		one.nodes[0].stop()
		if _, err := coordinator.Init(two); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"state.db", "raft"} {
			if err := os.Rename(filepath.Join(one.nodes[0].cfg.Data, name), filepath.Join(two.Data, name)); err != nil {
				t.Fatal(err)
			}
		}
		mixed, err := coordinator.New(two)
		if err != nil {
			t.Fatal(err)
		}
		if err := mixed.Run(context.Background()); !errors.Is(err, coordinator.ErrOtherCluster) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("advertise", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		cfg.Listen = "0.0.0.0:7443"
		cfg.OperatorListen = "nonsense"
		_, err := coordinator.Init(cfg)
		if err == nil || !strings.Contains(err.Error(), "advertise") || !strings.Contains(err.Error(), "operator_listen") {
			t.Errorf("want both problems, got %v", err)
		}
	})
}

// Ensure a node keeps its place over a restart and after moving to another port.
func TestRestart(t *testing.T) {
	c := startCluster(t, 1)
	sensor := c.enrol(0)
	boot := newBoot()
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 0, finding(1, &sensorv1.Finding{Title: "kept", Storyline: "1.1"}))
	session.wantAck(1)
	c.nodes[0].stop()
	cfg := c.nodes[0].cfg
	cfg.Listen = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cfg.Advertise = ""
	c.nodes[0] = start(t, cfg)
	eventually(t, "the new address", func() error {
		members, err := c.api.Members(t.Context())
		if err == nil && (len(members) != 1 || members[0].GetAddress() != cfg.Listen) {
			err = fmt.Errorf("members: %v", members)
		}
		return err
	})
	_, welcome := sensor.open(cfg.Listen, boot)
	if welcome.GetAcked() != 1 {
		t.Errorf("acked: got %d, want 1", welcome.GetAcked())
	}
}

// Ensure a watcher sees what is committed at any node, and that the API answers
// plain JSON with the names of the contract.
func TestWatch(t *testing.T) {
	c := startCluster(t, 1)
	sensor := c.enrol(0)
	boot := newBoot()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan *operatorv1.WatchResponse, 100)
	done := make(chan error, 1)
	go func() {
		done <- c.api.Watch(ctx, "", func(e *operatorv1.WatchResponse) { events <- e }, func(string, error) {})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	}()
	// What happens before the watch stands is not shown: repeat until it does.
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	sequence := uint64(0)
	want := func(what string, match func(*operatorv1.WatchResponse) bool) {
		t.Helper()
		eventually(t, what, func() error {
			session.batch(boot, sequence, finding(sequence+1, &sensorv1.Finding{Title: "seen", Severity: "high", Storyline: "1.1"}))
			sequence++
			session.wantAck(sequence)
			for {
				select {
				case e := <-events:
					if match(e) {
						return nil
					}
				case <-time.After(500 * time.Millisecond):
					return errors.New("not shown")
				}
			}
		})
	}
	want("a finding", func(e *operatorv1.WatchResponse) bool {
		return e.GetFinding().GetFinding().GetTitle() == "seen" && e.GetHost() == sensor.id && e.GetHostName() == "web-1"
	})
	want("an incident", func(e *operatorv1.WatchResponse) bool { return e.GetIncident().GetId() != "" })
	_ = session.conn.CloseWithReason(0, "")
	eventually(t, "the end of the session", func() error {
		select {
		case e := <-events:
			if e.GetHostChange().GetChange() == "silent" {
				return nil
			}
		default:
		}
		return errors.New("not shown")
	})
	status, err := c.api.Status(t.Context())
	if err != nil || status.GetHostsSilent() != 1 || !strings.Contains(strings.Join(status.GetProblems(), "\n"), "1 host is silent (web-1)") {
		t.Errorf("status: %v, %v", status, err)
	}
}

// Ensure a session renews the host's certificate, for the same host only.
func TestRenewal(t *testing.T) {
	c := startCluster(t, 1)
	sensor := c.enrol(0)
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, newBoot())
	_, key, request := enrolRequest(t, c.token("sensor"))
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Renew{Renew: &sensorv1.Renew{Csr: request.GetCsr()}}})
	m := session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes() == nil })
	leaf, err := x509.ParseCertificate(m.GetCertificate().GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := link.PeerOf(leaf); err != nil || peer.ID != sensor.id || peer.Kind != link.KindHost {
		t.Errorf("peer: got %+v, %v", peer, err)
	}
	renewed := *sensor
	renewed.cert = tls.Certificate{Certificate: m.GetCertificate().GetChain(), PrivateKey: key}
	if _, welcome := renewed.open(c.nodes[0].cfg.Advertise, newBoot()); welcome.GetHostId() != sensor.id {
		t.Errorf("welcome: %v", welcome)
	}
}

// Ensure a member that comes back at another address is found there by the others.
func TestMemberMoves(t *testing.T) {
	c := startCluster(t, 3)
	c.nodes[2].stop()
	cfg := c.nodes[2].cfg
	cfg.Listen, cfg.Advertise = fmt.Sprintf("127.0.0.1:%d", freePort(t)), ""
	c.nodes[2] = start(t, cfg)
	eventually(t, "the new address", func() error {
		members, err := c.api.Members(t.Context())
		for _, m := range members {
			if m.GetId() == cfg.ID && m.GetAddress() == cfg.Listen && m.GetState() == "alive" {
				return nil
			}
		}
		return fmt.Errorf("members: %v, %v", members, err)
	})
}

// Ensure an admin can take a node out, a viewer cannot, and the audit says who did.
func TestRemoveMember(t *testing.T) {
	c := startCluster(t, 3)
	path := filepath.Join(t.TempDir(), "vic.yaml")
	if err := coordinator.NewOperator(c.nodes[0].cfg.Data, "vic", "viewer", c.admin.Nodes, path); err != nil {
		t.Fatal(err)
	}
	viewer, err := client.LoadContext(path, "")
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(viewer, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	if err := api.RemoveMember(t.Context(), "n3"); !errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), `needs role "admin"`) {
		t.Errorf("viewer: got %v", err)
	}
	if err := c.api.RemoveMember(t.Context(), "n9"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown node: got %v", err)
	}
	c.nodes[2].stop()
	if err := c.api.RemoveMember(t.Context(), "n3"); err != nil {
		t.Fatalf("removing: %v", err)
	}
	members, err := c.api.Members(t.Context())
	if err != nil || len(members) != 2 {
		t.Errorf("members: %v, %v", members, err)
	}
	for e, err := range c.api.Audit(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.GetAction() == "member-remove" && e.GetSubject() == "n3" && e.GetActor() == "operator:admin" {
			return
		}
	}
	t.Error("the audit does not say who removed the node")
}
