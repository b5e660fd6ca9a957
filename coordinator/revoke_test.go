package coordinator_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// revokedWithin is the promise: at every node.
const revokedWithin = 60 * time.Second

// Ensure a removed host is out everywhere: its session ends at a node that was not asked,
// no node takes it again, and neither its key nor an open connection gets it a certificate.
func TestRemovedHost(t *testing.T) {
	c := startCluster(t, 3)
	sensor := c.enrol(0)
	session, _ := sensor.open(c.nodes[2].cfg.Advertise, newBoot())
	late, err := sensor.dial(c.nodes[1].cfg.Advertise) // it says hello when it is removed
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if host, err := c.api.RemoveHost(t.Context(), "web-1", "stolen"); err != nil || host.GetId() != sensor.id {
		t.Fatalf("removing: %v, %v", host, err)
	}
	var closed *link.ClosedError
	for err = nil; err == nil; {
		err = frame.Read(session.stream, &sensorv1.CoordinatorMessage{})
	}
	if !errors.As(err, &closed) || closed.Code != link.CodeRevoked || time.Since(began) > revokedWithin {
		t.Errorf("its session: %v after %s", err, time.Since(began))
	}
	t.Logf("its session ended after %s", time.Since(began))
	hello := &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{Protocol: frame.ProtocolVersion, Boot: newBoot()}}}
	refused := func(where string, s *testSession) {
		t.Helper()
		var m sensorv1.CoordinatorMessage
		err := frame.Write(s.stream, hello)
		if err == nil {
			err = frame.Read(s.stream, &m)
		}
		// A node that has looked through its connections before does not wait for a hello.
		if errors.As(err, &closed) && closed.Code == link.CodeRevoked && strings.Contains(closed.Reason, "enrol it again") {
			return
		}
		if got := m.GetRefusal(); got.GetCode() != "unknown-host" || !strings.Contains(got.GetMessage(), "enrol again") {
			t.Errorf("%s: got %v, %v", where, got, err)
		}
	}
	refused("an open connection", late)
	for _, n := range c.nodes {
		again, err := sensor.dial(n.cfg.Advertise)
		if err != nil {
			t.Fatal(err)
		}
		refused(n.cfg.ID, again)
	}
	token, _, request := enrolRequest(t, c.token("sensor"))
	if request.Csr, err = identity.NewRequest(sensor.key); err != nil {
		t.Fatal(err)
	}
	reply, err := ask(t, c.nodes[1].cfg.Advertise, token.CA, request)
	if err != nil || reply.GetRefusal().GetCode() != "revoked-key" {
		t.Errorf("enrolling with its key: %v, %v", reply, err)
	}
	// The token was not spent for nothing.
	_, _, fresh := enrolRequest(t, token.String())
	if reply, err := ask(t, c.nodes[1].cfg.Advertise, token.CA, fresh); err != nil || reply.GetEnrolled() == nil {
		t.Errorf("enrolling with a new key: %v, %v", reply, err)
	}
}

// Ensure a revoked operator, and whoever they made, is refused at every node, also on what
// they have open; that hosts are told, those connected and those that come; that nobody
// can revoke themselves; and that a list which an older one would undo is not taken.
func TestRevokedOperatorAtEveryNode(t *testing.T) {
	c := startCluster(t, 3)
	bob, err := c.admin.NewOperator(client.NewOperator{Name: "bob", Role: operator.RoleAdmin, Authority: true})
	if err != nil {
		t.Fatal(err)
	}
	eve, err := bob.NewOperator(client.NewOperator{Name: "eve", Role: operator.RoleResponder})
	if err != nil {
		t.Fatal(err)
	}
	ann, err := c.admin.NewOperator(client.NewOperator{Name: "ann", Role: operator.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	at := func(who *client.Context, n *testNode) *client.Client {
		t.Helper()
		one := *who
		one.Nodes = []string{n.cfg.OperatorListen}
		api, err := client.New(&one, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(api.Close)
		return api
	}
	connected := c.enrol(0)
	session, welcome := connected.open(c.nodes[1].cfg.Advertise, newBoot())
	if welcome.GetNodes().GetRevocations() != nil {
		t.Errorf("before anybody was revoked: %v", welcome.GetNodes().GetRevocations())
	}
	// Each has a watch open at each node.
	type ended struct {
		who, node string
		err       error
	}
	watches := make(chan ended, 6)
	opened := make(chan string, 6)
	clients := map[string][]*client.Client{}
	for _, who := range []*client.Context{bob, eve, ann} {
		for _, n := range c.nodes {
			api := at(who, n)
			if _, err := api.Status(t.Context()); err != nil {
				t.Fatalf("%s at %s: %v", who.Operator, n.cfg.ID, err)
			}
			clients[who.Operator] = append(clients[who.Operator], api)
			if who == ann {
				continue
			}
			go func() {
				err := api.Watch(t.Context(), "", func(*operatorv1.WatchResponse) {}, func(_ string, err error) {
					if err == nil {
						opened <- n.cfg.ID
					}
				})
				watches <- ended{who.Operator, n.cfg.ID, err}
			}()
		}
	}
	for range 6 {
		select {
		case <-opened:
		case <-time.After(patience):
			t.Fatal("a watch does not open")
		}
	}
	eventually(t, "the operators to be known", func() error {
		rows, _, err := c.api.Operators(t.Context())
		for _, o := range rows {
			if o.GetName() == "eve" && o.GetMadeBy() == "bob" && o.GetRole() == "responder" {
				return err
			}
		}
		return errors.Join(err, errors.New("eve is not"))
	})

	if _, err := clients["ann"][0].NewRevocations([]string{"ann"}, nil); !errors.Is(err, revocation.ErrSelf) {
		t.Errorf("revoking oneself: %v", err)
	}
	stale, err := c.api.NewRevocations([]string{"zoe"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := clients["ann"][2].NewRevocations([]string{"bob"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := clients["ann"][2].Revoke(t.Context(), list, "left"); err != nil {
		t.Fatal(err)
	}
	// A connected host is told at once, one that comes later with its welcome.
	told := session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes().GetRevocations() != nil }).GetNodes().GetRevocations()
	hosts := time.Since(began)
	if hosts > 10*time.Second { // not by the look at the state that there is every 15 s
		t.Errorf("a connected host was told after %s", hosts)
	}
	_, welcome = c.enrol(0).open(c.nodes[2].cfg.Advertise, newBoot())
	for where, signed := range map[string]*sensorv1.SignedRevocations{"connected": told, "with a session": welcome.GetNodes().GetRevocations()} {
		got, signer, err := revocation.Verify(signed, c.operators(), c.admin.ClusterID, time.Now())
		if err != nil || signer.ID != "ann" || len(got.GetOperators()) != 1 || got.GetOperators()[0].GetName() != "bob" {
			t.Errorf("%s: %v by %s, %v", where, got, signer.ID, err)
		}
	}
	for range 6 {
		select {
		case w := <-watches:
			if !errors.Is(w.err, client.ErrDenied) || !strings.Contains(w.err.Error(), "revoked") {
				t.Errorf("the watch of %s at %s ended with %v", w.who, w.node, w.err)
			}
		case <-time.After(revokedWithin):
			t.Fatal("a watch goes on")
		}
	}
	for _, who := range []string{"bob", "eve"} {
		for i, api := range clients[who] {
			if _, err := api.Status(t.Context()); !errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("%s at node %d, on an open connection: %v", who, i+1, err)
			}
		}
	}
	for i, n := range c.nodes {
		if _, err := at(eve, n).Status(t.Context()); !errors.Is(err, client.ErrDenied) {
			t.Errorf("eve at node %d, anew: %v", i+1, err)
		}
		if _, err := clients["ann"][i].Status(t.Context()); err != nil {
			t.Errorf("ann at node %d: %v", i+1, err)
		}
	}
	if took := time.Since(began); took > revokedWithin {
		t.Errorf("it took %s", took)
	}
	t.Logf("told to a connected host after %s; refused everywhere, every watch ended, after %s", hosts, time.Since(began))
	if err := c.api.Revoke(t.Context(), stale, "late"); err == nil || !strings.Contains(err.Error(), "stale-revocations") {
		t.Errorf("a list that was signed before: %v", err)
	}
	_, before, err := c.api.Operators(t.Context())
	if err != nil || before.GetSerial() != list.GetSerial() {
		t.Fatalf("the list in force: %v, %v", before, err)
	}
	if more, err := c.api.NewRevocations([]string{"zoe"}, before); err != nil || len(more.GetOperators()) != 2 {
		t.Errorf("the next list: %v, %v", more, err)
	}
}
