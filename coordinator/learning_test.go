package coordinator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// openLearning opens the session of a sensor that knows of packs.
func (s *testSensor) openLearning(addr string, boot []byte) *testSession {
	s.t.Helper()
	session, err := s.dial(addr)
	if err != nil {
		s.t.Fatalf("dialling: %v", err)
	}
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: "test", Boot: boot, Facts: &sensorv1.HostFacts{Name: "web-1"}, Pack: []byte{0}}}})
	session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetWelcome() != nil })
	return session
}

// pack reads the parts of one.
func (s *testSession) pack() *sensorv1.SignedPack {
	s.t.Helper()
	var joiner pack.Joiner
	for {
		part := s.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetPack() != nil }).GetPack()
		signed, err := joiner.Add(part)
		if err != nil {
			s.t.Fatal(err)
		}
		if signed != nil {
			return signed
		}
	}
}

func (s *testSession) learning() *sensorv1.Learning {
	s.t.Helper()
	return s.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetLearning() != nil }).GetLearning()
}

func does(sequence uint64, known bool, objects ...string) *sensorv1.Record {
	s := &sensorv1.Summary{Health: &sensorv1.Health{Baseline: &sensorv1.BaselineState{Learning: false, Behaviours: 1, Confidence: 1}}}
	for _, object := range objects {
		key := pack.KeyOf(1, "/usr/sbin/cron", object)
		s.NewBehaviours = append(s.NewBehaviours, &sensorv1.Behaviour{Key: key[:], Kind: 1, Subject: []byte("/usr/sbin/cron"), Object: []byte(object), FirstSeen: 1})
		s.Deltas = append(s.Deltas, &sensorv1.BehaviourDelta{Key: key[:], Count: 1, LastSeen: 2, Known: known})
	}
	return &sensorv1.Record{Sequence: sequence, Time: time.Now().UnixNano(), Body: &sensorv1.Record_Summary{Summary: s}}
}

// Ensure what people say of learning reaches a host and its answer the record: a pack that an operator
// signed, an order to forget once, and that it has an open incident; and a sensor that knows nothing of it
// is told nothing.
func TestLearningReachesHost(t *testing.T) {
	c := startCluster(t, 1)
	at, ctx := c.nodes[0].cfg.Advertise, t.Context()
	peer, host := c.enrol(0), c.enrol(0)
	boot := newBoot()
	old, _ := peer.open(at, boot)
	old.batch(boot, 0, does(1, true, "/usr/bin/a", "/usr/bin/b"))
	old.wantAck(1)
	signed, res, err := c.api.MakePack(ctx, peer.id, 0, time.Hour)
	if err != nil || len(res.GetPack().GetBehaviours()) != 2 {
		t.Fatalf("making a pack: %v, %v", res, err)
	}
	if _, by, err := c.api.VerifyPack(signed); err != nil || by != "admin" {
		t.Fatalf("by %q, %v", by, err)
	}
	forWeb, err := c.api.SignPack(res.GetPack(), "web", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.PutPack(ctx, forWeb); err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.PutPack(ctx, &sensorv1.SignedPack{Payload: forWeb.GetPayload()}); err == nil {
		t.Error("a pack that nobody signed is taken")
	}

	bootHost := newBoot()
	session := host.openLearning(at, bootHost)
	got := session.pack()
	if p, signer, err := pack.Verify(got, c.operators(), c.admin.ClusterID, time.Now()); err != nil || signer == nil || signer.ID != "admin" || len(p.GetBehaviours()) != 2 || p.GetRole() != "web" {
		t.Fatalf("got %v by %v, %v", p, signer, err)
	}

	c.tellFleet(t)

	id, err := c.api.Unlearn(ctx, &sensorv1.Unlearn{Host: host.id, Subject: []byte("/tmp/x"), Reason: "an implant"})
	if err != nil {
		t.Fatal(err)
	}
	order := session.next(func(m *sensorv1.CoordinatorMessage) bool {
		if m.GetPack() != nil {
			t.Error("a sensor that would take the fleet's pack for its role's is sent it")
		}
		return m.GetLearning() != nil
	}).GetLearning()
	if len(order.GetUnlearn()) != 1 || order.GetPauseUntil() != 0 {
		t.Fatalf("got %v", order)
	}
	u, _, err := pack.VerifyUnlearn(order.GetUnlearn()[0], c.operators(), c.admin.ClusterID, time.Now())
	if err != nil || u.GetId() != id || u.GetHost() != host.id {
		t.Fatalf("got %v, %v", u, err)
	}
	if row, err := c.api.UnlearnOrder(ctx, id); err != nil || row.GetState() != "pending" {
		t.Errorf("before the answer: %v, %v", row, err)
	}
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Unlearnt{Unlearnt: &sensorv1.Unlearnt{Id: id, Behaviours: 3}}})
	eventually(t, "the answer", func() error {
		n := 0
		for row, err := range c.api.Unlearns(ctx, host.id, 0) {
			if n++; err != nil || row.GetState() != "done" || row.GetBehaviours() != 3 {
				return fmt.Errorf("%v, %w", row, err)
			}
		}
		if n != 1 {
			return fmt.Errorf("%d orders", n)
		}
		return nil
	})

	session.batch(bootHost, 0, finding(1, &sensorv1.Finding{Title: "Shell from a service", Severity: "high", Score: 80, Storyline: "10.1",
		Process: &sensorv1.Process{Pid: 11, Image: []byte("/bin/sh")}}))
	if until := time.Unix(0, session.learning().GetPauseUntil()); time.Until(until) < time.Hour {
		t.Errorf("with an open incident the host learns nothing until %s", until)
	}
	again := host.openLearning(at, newBoot())
	if until := time.Unix(0, again.learning().GetPauseUntil()); time.Until(until) < time.Hour {
		t.Errorf("with its next session it learns nothing until %s", until)
	}
	var incident string
	eventually(t, "an incident", func() error {
		in := openIncidents(t, c)
		if len(in) != 1 {
			return fmt.Errorf("incidents: %v", in)
		}
		incident = in[0].GetId()
		return nil
	})
	c.tellOf(t, host.id, incident, again)

	// Nobody asked it.
	again.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Unlearnt{Unlearnt: &sensorv1.Unlearnt{Id: id}}})
	var closed *link.ClosedError
	for err = nil; err == nil; {
		err = frame.Read(again.stream, &sensorv1.CoordinatorMessage{})
	}
	if !errors.As(err, &closed) || closed.Code != link.CodeProtocol {
		t.Errorf("an answer that nobody asked for: %v", err)
	}
	if _, err := c.api.Unlearn(ctx, &sensorv1.Unlearn{Host: peer.id, Since: 1, Reason: "for an older sensor"}); err != nil {
		t.Fatal(err)
	}
	old.batch(boot, 1, does(2, true, "/usr/bin/c"))
	old.wantAck(2) // and nothing before it that it does not know
}

// tellOf closes an incident, and has the one host of it take what it was.
func (c *testCluster) tellOf(t *testing.T, host, incident string, session *testSession) {
	t.Helper()
	ctx := t.Context()
	of, err := c.api.Incident(ctx, incident)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range of.GetFindings() {
		row.Finding.PValue = 0.001 // a rule's finding is nothing to measure by
	}
	dispositions, leftOut, err := c.api.Dispositions(of, false)
	if err != nil || leftOut != 0 || len(dispositions) != 1 {
		t.Fatalf("%d hosts to be told, %d left out: %v", len(dispositions), leftOut, err)
	}
	closing := &operatorv1.CloseIncidentRequest{Id: incident, Disposition: "malicious", Reason: "exercise", IdempotencyKey: "c1", Dispositions: dispositions}
	if _, err := c.api.CloseIncident(ctx, closing); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("closed as one thing, and told as another: %v", err)
	}
	closing.Disposition = "benign"
	other, err := c.admin.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleHunter})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.as(other).CloseIncident(ctx, closing); !errors.Is(err, client.ErrDenied) {
		t.Errorf("what another operator signed is taken: %v", err)
	}
	for range 2 { // as one does who got no answer
		if res, err := c.api.CloseIncident(ctx, closing); err != nil || res.GetUntold() != "" || res.GetTold() != 1 {
			t.Fatalf("closing: %v, %v", res, err)
		}
	}
	// Who learns nothing of an attack is told so, and what it was, in one order or the other.
	var told *sensorv1.Learning
	for learns := false; told == nil || !learns; {
		l := session.learning()
		learns = l.GetPauseUntil() == 0
		if len(l.GetDispositions()) > 0 {
			told = l
		}
	}
	d, by, err := pack.VerifyDisposition(told.GetDispositions()[0], c.operators(), c.admin.ClusterID, time.Now())
	if err != nil || by.ID != "admin" || d.GetHost() != host || d.GetMalicious() || d.GetIncident() != incident || len(d.GetFindings()) != 1 {
		t.Fatalf("got %v by %v, %v", d, by, err)
	}
	answered := func(id, failure, states string) {
		t.Helper()
		session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Unlearnt{Unlearnt: &sensorv1.Unlearnt{Id: id, Behaviours: 1, Failure: failure}}})
		eventually(t, "the answer", func() error {
			of, err := c.api.Incident(ctx, incident)
			if err != nil {
				return err
			}
			got := ""
			for _, row := range of.GetDispositions() {
				got += row.GetState() + " "
			}
			if got != states {
				return fmt.Errorf("%v", of.GetDispositions())
			}
			return nil
		})
	}
	answered(d.GetId(), "the kernel refuses", "failed ")

	// Who refused is told again, once and by no more than one word; who took it is not.
	again := func() *operatorv1.CloseIncidentRequest {
		t.Helper()
		signed, _, err := c.api.Dispositions(of, false)
		if err != nil {
			t.Fatal(err)
		}
		return &operatorv1.CloseIncidentRequest{Id: incident, Disposition: "benign", Reason: "exercise", IdempotencyKey: client.NewID("key"), Dispositions: signed}
	}
	twice := again()
	twice.Dispositions = append(twice.Dispositions, again().GetDispositions()...)
	if _, err := c.api.CloseIncident(ctx, twice); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("two words for one host: %v", err)
	}
	if res, err := c.api.CloseIncident(ctx, again()); err != nil || res.GetTold() != 1 {
		t.Fatalf("telling again: %v, %v", res, err)
	}
	for told = nil; len(told.GetDispositions()) == 0; {
		told = session.learning()
	}
	second, err := pack.DecodeDisposition(told.GetDispositions()[0].GetPayload())
	if err != nil {
		t.Fatal(err)
	}
	answered(second.GetId(), "", "failed done ")
	if _, err := c.api.CloseIncident(ctx, again()); err == nil || !strings.Contains(err.Error(), "incident-closed") {
		t.Errorf("telling who took it: %v", err)
	}
}

// tellFleet brings a pack of the whole fleet into force: a host that takes one has it at once, one that comes later with its
// session, one that has it no more, and an older sensor never.
func (c *testCluster) tellFleet(t *testing.T) {
	t.Helper()
	ctx, at := t.Context(), c.nodes[0].cfg.Advertise
	open := func(held []byte) *testSession {
		session, err := c.enrol(0).dial(at)
		if err != nil {
			t.Fatal(err)
		}
		session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
			Protocol: frame.ProtocolVersion, SensorVersion: "test", Boot: newBoot(), Facts: &sensorv1.HostFacts{Name: "web-1"}, Pack: []byte{1}, FleetPack: held}}})
		session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetWelcome() != nil })
		session.pack() // its role's
		return session
	}
	takes := open([]byte{0})
	made, res, err := c.api.MakePack(ctx, "group:"+pack.Fleet, 50, time.Hour)
	if err != nil || res.GetPack().GetRole() != pack.Fleet || res.GetPack().GetOf() != 3 {
		t.Fatalf("making the fleet's pack: %v, %v", res, err)
	}
	if hosts, err := c.api.PutPack(ctx, made); err != nil || hosts != 3 {
		t.Fatalf("for %d hosts, %v", hosts, err)
	}
	for _, session := range []*testSession{takes, open([]byte{0})} {
		p, signer, err := pack.Verify(session.pack(), c.operators(), c.admin.ClusterID, time.Now())
		if err != nil || signer == nil || p.GetRole() != pack.Fleet || len(p.GetBehaviours()) != 2 {
			t.Fatalf("got %v by %v, %v", p, signer, err)
		}
	}
	roles, err := c.api.Roles(ctx)
	if err != nil || len(roles.GetRoles()) == 0 || roles.GetRoles()[len(roles.GetRoles())-1].GetBasis() != "fleet" {
		t.Errorf("the groups are %v, %v", roles, err)
	}
}

// Ensure packs for groups to come are few, and that those for groups with hosts are not counted among them.
func TestIdlePacks(t *testing.T) {
	c := startCluster(t, 1)
	ctx := t.Context()
	peer, boot := c.enrol(0), newBoot()
	session, _ := peer.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 0, does(1, true, "/usr/bin/a"))
	session.wantAck(1)
	_, res, err := c.api.MakePack(ctx, peer.id, 0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	put := func(role string) error {
		signed, err := c.api.SignPack(res.GetPack(), role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.api.PutPack(ctx, signed)
		return err
	}
	for i := range 16 {
		if err := put(fmt.Sprint("to-come-", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("to-come-16"); err == nil || !strings.Contains(err.Error(), "wait for groups without hosts") {
		t.Errorf("one too many: %v", err)
	}
	if err := put("to-come-3"); err != nil {
		t.Errorf("one in another's place: %v", err)
	}
	if err := put(pack.Fleet); err != nil {
		t.Errorf("the fleet's: %v", err)
	}
}
