package coordinator_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// asked is a sensor by hand that a test answers questions for.
func (s *testSensor) asked(addr string, questions uint32, answer func(*testSession, *sensorv1.Question)) *testSession {
	s.t.Helper()
	session, err := s.dial(addr)
	if err != nil {
		s.t.Fatalf("dialling: %v", err)
	}
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: "test", Boot: bytes.Repeat([]byte{7}, 16), Questions: questions,
		Facts: &sensorv1.HostFacts{Name: "host-" + s.id[len(s.id)-4:]}}}})
	if m := session.read(); m.GetWelcome() == nil {
		s.t.Fatalf("want a welcome, got %v", m)
	}
	_ = session.stream.SetDeadline(time.Time{})
	done := make(chan struct{})
	s.t.Cleanup(func() { _ = session.conn.CloseWithReason(0, ""); <-done })
	go func() {
		defer close(done)
		for {
			var m sensorv1.CoordinatorMessage
			if frame.Read(session.stream, &m) != nil {
				return
			}
			if q := m.GetQuestion(); q != nil {
				answer(session, q)
			}
		}
	}()
	return session
}

func piece(a *sensorv1.Answer) *sensorv1.SensorMessage {
	return &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Answer{Answer: a}}
}

// reply sends pieces, whatever becomes of them.
func (s *testSession) reply(pieces ...*sensorv1.Answer) {
	for _, p := range pieces {
		if frame.Write(s.stream, piece(p)) != nil {
			return
		}
	}
}

func rowsOf(n int) (rows []*sensorv1.Sighting) {
	for i := range n {
		rows = append(rows, &sensorv1.Sighting{Time: int64(i + 1), Kind: "process", Type: "exec", Process: &sensorv1.Process{Pid: 7, Image: []byte("/usr/bin/nc")}})
	}
	return rows
}

// huntOf is what came of a hunt.
type huntOf struct {
	id    string
	rows  map[string]int
	hosts map[string]*operatorv1.HuntHost
	end   *operatorv1.HuntProgress
	err   error
}

func (c *testCluster) hunt(api *client.Client, req *operatorv1.HuntRequest) huntOf {
	c.t.Helper()
	out := huntOf{rows: map[string]int{}, hosts: map[string]*operatorv1.HuntHost{}}
	for m, err := range api.Hunt(c.t.Context(), req) {
		if err != nil {
			out.err = err
			return out
		}
		switch body := m.GetBody().(type) {
		case *operatorv1.HuntResponse_Begun:
			out.id = body.Begun.GetId()
		case *operatorv1.HuntResponse_Row:
			out.rows[body.Row.GetHost()]++
		case *operatorv1.HuntResponse_Host:
			if out.hosts[body.Host.GetHost()] != nil {
				c.t.Errorf("host %s ends twice", body.Host.GetHost())
			}
			out.hosts[body.Host.GetHost()] = body.Host
		case *operatorv1.HuntResponse_End:
			out.end = body.End
		}
	}
	return out
}

const netcat = `process where image endswith "/nc"`

func everybody(expression string, rows, millis uint32) *operatorv1.HuntRequest {
	return &operatorv1.HuntRequest{Selector: &operatorv1.Selector{All: true}, MaxRows: rows,
		Ask: &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: expression}, MaxMillis: millis}}
}

// Ensure any node asks the hosts of all nodes, each host ends with its answer or its own
// reason, who asked is in the audit record, and a hunt that has enough is taken back.
func TestHunt(t *testing.T) {
	c := startCluster(t, 3)
	cancelled := make(chan uint64, 8)
	honest := func(n int) func(*testSession, *sensorv1.Question) {
		return func(s *testSession, q *sensorv1.Question) {
			if q.GetCancel() {
				cancelled <- q.GetId()
				return
			}
			if e := q.GetAsk().GetExpression(); e != netcat || q.GetAsk().GetAsker() != "operator:admin" {
				t.Errorf("asked %q by %q", e, q.GetAsk().GetAsker())
			}
			s.reply(&sensorv1.Answer{Id: q.GetId(), Rows: rowsOf(n)}, &sensorv1.Answer{Id: q.GetId(), Rows: rowsOf(1), Done: true, Scanned: 10, CoveredFrom: 5})
		}
	}
	var hosts []*testSensor
	for i := range 3 {
		host := c.enrol(0)
		host.asked(c.nodes[i].cfg.Advertise, hunt.Version, honest(i))
		hosts = append(hosts, host)
	}
	away, old, silent, broken := c.enrol(0), c.enrol(0), c.enrol(0), c.enrol(0)
	old.asked(c.nodes[1].cfg.Advertise, 0, func(*testSession, *sensorv1.Question) { t.Error("an old sensor was asked") })
	silent.asked(c.nodes[2].cfg.Advertise, hunt.Version, func(_ *testSession, q *sensorv1.Question) {
		if q.GetCancel() {
			cancelled <- q.GetId()
		}
	})
	broken.asked(c.nodes[2].cfg.Advertise, hunt.Version, func(s *testSession, q *sensorv1.Question) {
		s.reply(&sensorv1.Answer{Id: q.GetId(), Done: true, Error: "this host records nothing"})
	})
	var got huntOf
	eventually(t, "every session to be known at the node that is asked", func() error {
		got = c.hunt(c.api, everybody(netcat, 0, 100))
		if got.err != nil {
			return got.err
		}
		for _, h := range hosts {
			if code := got.hosts[h.id].GetCode(); code != "" {
				return fmt.Errorf("host %s: %s", h.id, code)
			}
		}
		for _, h := range []*testSensor{old, silent, broken} {
			if got.hosts[h.id].GetCode() == "away" {
				return fmt.Errorf("host %s is away", h.id)
			}
		}
		return nil
	})
	for i, h := range hosts {
		end := got.hosts[h.id]
		if got.rows[h.id] != i+1 || end.GetRows() != uint32(i+1) || end.GetAnswer().GetScanned() != 10 || end.GetAnswer().GetCoveredFrom() != 5 || end.GetHostName() == "" {
			t.Errorf("host %d: %d rows, %v", i, got.rows[h.id], end)
		}
	}
	for h, want := range map[*testSensor][2]string{
		away: {"away", "no session"}, old: {"old-sensor", "upgrade it"}, silent: {"late", "in time"}, broken: {"refused", "records nothing"},
	} {
		if end := got.hosts[h.id]; end.GetCode() != want[0] || !strings.Contains(end.GetError(), want[1]) {
			t.Errorf("want %v, got %v", want, end)
		}
	}
	if so := got.end; so.GetAsked() != 7 || so.GetAnswered() != 3 || so.GetFailed() != 4 || so.GetRows() != 6 || so.GetScanned() != 30 || so.GetLimited() {
		t.Errorf("end: %v", so)
	}
	if len(cancelled) == 0 {
		t.Error("the silent host was not told that nobody waits any more")
	}
	if !strings.Contains(strings.Join(c.audits("hunt"), "\n"), got.id+" on 7 hosts: "+netcat) {
		t.Errorf("audit: %v", c.audits("hunt"))
	}

	few := c.hunt(c.api, &operatorv1.HuntRequest{Selector: &operatorv1.Selector{Ids: []string{hosts[1].id, hosts[2].id, silent.id}}, MaxRows: 3, Ask: everybody(netcat, 0, 20_000).GetAsk()})
	if n := few.rows[hosts[1].id] + few.rows[hosts[2].id]; n != 3 || !few.end.GetLimited() || few.end.GetRows() != 3 {
		t.Errorf("a hunt for three rows: %+v", few)
	}
}

// audits are the entries of an action, as text.
func (c *testCluster) audits(action string) (found []string) {
	for e, err := range c.api.Audit(c.t.Context(), 0) {
		if err != nil {
			c.t.Fatal(err)
		}
		if e.GetAction() == action {
			found = append(found, e.GetSubject()+" "+e.GetDetail())
		}
	}
	return found
}

// Ensure what makes no sense is refused before anybody is asked or the audit says so.
func TestHuntsThatMakeNoSense(t *testing.T) {
	c := startCluster(t, 1)
	c.enrol(0)
	bad := everybody(netcat, 0, 0)
	bad.Ask.Since, bad.Ask.Until = 2, 1
	for want, req := range map[string]*operatorv1.HuntRequest{
		"no kind of event": everybody(`imag == "x"`, 0, 0),
		"asks for nothing": {Selector: &operatorv1.Selector{All: true}},
		"is empty":         {Ask: everybody(netcat, 0, 0).GetAsk()},
		"ends before":      bad,
		"detection":        {Selector: &operatorv1.Selector{All: true}, Ask: &sensorv1.Ask{What: &sensorv1.Ask_Rule{Rule: "title: x\nlogsource: {category: process_creation, product: linux}\n"}}},
	} {
		if got := c.hunt(c.api, req); !errors.Is(got.err, client.ErrInvalid) || !strings.Contains(got.err.Error(), want) {
			t.Errorf("want %q, got %v", want, got.err)
		}
	}
	if found := c.audits("hunt"); len(found) > 0 {
		t.Errorf("audit: %v", found)
	}
}

// Ensure a sensor that sends more than was asked, or what nobody asked, loses its session,
// and who asked is told.
func TestHostileAnswers(t *testing.T) {
	c := startCluster(t, 1)
	long := bytes.Repeat([]byte("x"), 600<<10)
	for name, tt := range map[string]struct {
		answer func(s *testSession, q *sensorv1.Question)
		ends   bool // the session
		code   string
	}{
		"more rows": {func(s *testSession, q *sensorv1.Question) {
			s.reply(&sensorv1.Answer{Id: q.GetId(), Rows: rowsOf(101), Done: true})
		}, true, "refused"},
		"rows without end": {func(s *testSession, q *sensorv1.Question) {
			for range 200 {
				s.reply(&sensorv1.Answer{Id: q.GetId(), Rows: rowsOf(1)})
			}
		}, true, "refused"},
		"a large piece": {func(s *testSession, q *sensorv1.Question) {
			s.reply(&sensorv1.Answer{Id: q.GetId(), Rows: []*sensorv1.Sighting{{ParentImage: long}}})
		}, true, "ended"},
		"another question's": {func(s *testSession, q *sensorv1.Question) {
			s.reply(&sensorv1.Answer{Id: q.GetId() + 1, Done: true})
		}, true, "ended"},
		"goes on behind its end": {func(s *testSession, q *sensorv1.Question) {
			for range 300 { // late ones are borne for a while
				s.reply(&sensorv1.Answer{Id: q.GetId(), Done: true})
			}
		}, true, ""},
		"many words": {func(s *testSession, q *sensorv1.Question) {
			end := &sensorv1.Answer{Id: q.GetId(), Done: true, Error: strings.Repeat("w", 100<<10)}
			for range 1000 {
				end.Losses = append(end.Losses, &sensorv1.Loss{Where: "x", Count: 1})
			}
			s.reply(end)
		}, false, "refused"},
		"leaves": {func(s *testSession, _ *sensorv1.Question) { _ = s.conn.CloseWithReason(0, "") }, true, "ended"},
	} {
		t.Run(name, func(t *testing.T) {
			host := c.enrol(0)
			session := host.asked(c.nodes[0].cfg.Advertise, hunt.Version, tt.answer)
			req := &operatorv1.HuntRequest{Selector: &operatorv1.Selector{Ids: []string{host.id}}, MaxRows: 100,
				Ask: &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: netcat}, MaxMillis: 2000, MaxRows: 100}}
			var end *operatorv1.HuntHost
			eventually(t, "the session to be known", func() error {
				got := c.hunt(c.api, req)
				if end = got.hosts[host.id]; got.err != nil || end.GetCode() == "away" {
					return fmt.Errorf("%v, %v", got.err, end)
				}
				return nil
			})
			if end.GetCode() != tt.code || len(end.GetError()) > 4<<10 || len(end.GetAnswer().GetLosses()) > 64 {
				t.Errorf("got %.300v", end)
			}
			select {
			case <-session.conn.Context().Done():
				if !tt.ends {
					t.Error("the session has ended")
				}
			case <-time.After(map[bool]time.Duration{true: patience, false: 200 * time.Millisecond}[tt.ends]):
				if tt.ends {
					t.Error("the session goes on")
				}
			}
		})
	}
	// Nobody asked this one anything.
	liar := c.enrol(0).asked(c.nodes[0].cfg.Advertise, hunt.Version, func(*testSession, *sensorv1.Question) {})
	liar.reply(&sensorv1.Answer{Id: 1, Done: true})
	select {
	case <-liar.conn.Context().Done():
	case <-time.After(patience):
		t.Error("the session of a sensor that answers unasked goes on")
	}
}
