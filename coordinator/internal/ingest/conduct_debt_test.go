package ingest

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// talk is one session of a host: what it sends, until say returns, read as a node does.
func talk(ctx context.Context, s *Server, did *conduct, say func(sensor net.Conn)) {
	ctx, hangUp := context.WithCancel(ctx)
	node, sensor := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- s.read(ctx, &session{server: s, host: "h-1", conduct: did}, node) }()
	say(sensor)
	_ = sensor.Close()
	hangUp()
	<-ended
	_ = node.Close()
}

// Ensure what a host owes is not forgotten when it hangs up and comes again: otherwise one batch
// a session would come at any speed.
func TestDebtOutlivesTheSession(t *testing.T) {
	const sessions, size = 40, 900 << 10
	synctest.Test(t, func(t *testing.T) {
		s, _, _, _ := taker(t, &fakeLog{}, time.Now)
		all, began := conducts{of: make(map[string]*conduct)}, time.Now()
		for i := range uint64(sessions) {
			did := all.enter("h-1")
			talk(t.Context(), s, did, func(sensor net.Conn) {
				b := bodies(1, summarised(&sensorv1.Summary{Health: &sensorv1.Health{CoverageGaps: []string{strings.Repeat("x", size)}}}))
				b.Prev, b.Records[0].Sequence = i, i+1
				err := frame.Write(sensor, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: b}})
				var answer sensorv1.CoordinatorMessage
				if err == nil {
					err = frame.Read(sensor, &answer)
				}
				if err != nil || answer.GetAck().GetSequence() != i+1 {
					t.Errorf("session %d: %v, %v", i, &answer, err)
				}
			})
			all.leave("h-1", time.Now())
		}
		took := time.Since(began)
		// The last one's debt is for who comes next.
		if least := time.Second * ((sessions-1)*size - burstBytes) / sendRate; took < least || took > 2*least {
			t.Errorf("%d sessions with %d bytes each took %s, want about %s", sessions, size, took, least)
		}
	})
}

// Ensure a host that hangs up before its batch is in the log has sent it.
func TestHangingUpIsNotFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n, node, _ := taker(t, &fakeLog{}, time.Now)
		for range 40 {
			ctx, hangUp := context.WithCancel(t.Context())
			hangUp()
			if err := s.batch(ctx, n, node, bodies(1, summarised(&sensorv1.Summary{})), 900<<10); err == nil {
				t.Fatal("it was answered")
			}
		}
		if n.conduct.debt(time.Now()) == 0 {
			t.Error("36 MiB cost nothing")
		}
	})
}

// Ensure messages beside batches cost as well, by their size and by their number.
func TestEveryMessageCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _, _ := taker(t, &fakeLog{}, time.Now)
		did, began := &conduct{}, time.Now()
		long := &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_GrantResult{GrantResult: &sensorv1.GrantResult{
			Status: &sensorv1.IsolationStatus{Detail: strings.Repeat("x", 512<<10)}}}}
		talk(t.Context(), s, did, func(sensor net.Conn) {
			for range 64 {
				if err := frame.Write(sensor, long); err != nil {
					t.Fatal(err)
				}
			}
		})
		if took := time.Since(began); took < 50*time.Second {
			t.Errorf("32 MiB that are no batches took %s", took)
		}
		for _, m := range []*sensorv1.SensorMessage{
			{Body: &sensorv1.SensorMessage_Trusted{Trusted: &sensorv1.Trusted{}}}, {Body: &sensorv1.SensorMessage_Rules{Rules: &sensorv1.RulesHeld{}}},
			{Body: &sensorv1.SensorMessage_GrantResult{GrantResult: &sensorv1.GrantResult{}}},
		} {
			n := &session{conduct: &conduct{}}
			for range 100_000 {
				s.charge(n, m, 2)
			}
			if n.conduct.debt(time.Now()) == 0 {
				t.Errorf("100,000 of %T cost nothing", m.GetBody())
			}
		}
		// It was asked for them.
		n := &session{conduct: &conduct{}}
		for range 100 {
			s.charge(n, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Answer{Answer: &sensorv1.Answer{}}}, 1<<20)
		}
		if owes := n.conduct.debt(time.Now()); owes > 0 {
			t.Errorf("it waits for %s because it answered", owes)
		}
	})
}

// Ensure one host's sessions have a price, that a host whose line breaks every second does not
// notice, and that none waits long for its session whatever its host owes.
func TestSessionsHaveAPrice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{cfg: Config{Now: time.Now}}
		for every, want := range map[time.Duration]bool{time.Second: false, 10 * time.Millisecond: true} {
			n, waited := &session{conduct: &conduct{}}, time.Duration(0)
			for range 1000 {
				began := time.Now()
				if err := s.admits(t.Context(), n); err != nil {
					t.Fatal(err)
				}
				waited = max(waited, time.Since(began))
				hold(t.Context(), every)
			}
			if (waited > 0) != want {
				t.Errorf("a session every %s: waited up to %s", every, waited)
			}
		}
		n := &session{conduct: &conduct{}}
		n.conduct.spend(100*burstBytes, time.Now())
		began := time.Now()
		if err := s.admits(t.Context(), n); err != nil || time.Since(began) > maxHelloHeld {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}
