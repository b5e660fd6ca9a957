package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// many is a list of n of the same.
func many[T any](n int, one T) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = one
	}
	return all
}

// bodies are records of so many bodies, in order.
func bodies(n int, body func() *sensorv1.Record) *sensorv1.Batch {
	b := &sensorv1.Batch{Boot: make([]byte, bootLength)}
	for i := range n {
		r := body()
		r.Sequence = uint64(i) + 1
		b.Records = append(b.Records, r)
	}
	return b
}

func summarised(s *sensorv1.Summary) func() *sensorv1.Record {
	return func() *sensorv1.Record { return &sensorv1.Record{Body: &sensorv1.Record_Summary{Summary: s}} }
}

func reports(state sensorv1.IsolationState) func() *sensorv1.Record {
	n := 0
	return func() *sensorv1.Record {
		n++
		return &sensorv1.Record{Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{Operation: fmt.Sprint("op-", n), State: state}}}
	}
}

func findings() *sensorv1.Record {
	return &sensorv1.Record{Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{}}}
}

func notes() *sensorv1.Record {
	return &sensorv1.Record{Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{}}}
}

// Ensure that what costs the appliers much is held back for what it costs, however few bytes it
// has: the burst of one host is applied in seconds, and what comes behind it takes a twentieth.
func TestWeightIsWhatItCosts(t *testing.T) {
	const most = 5 * time.Second
	for name, c := range map[string]struct {
		batch *sensorv1.Batch
		items int
		each  time.Duration // measured, to apply one item
	}{
		"losses without a name":     {bodies(64, summarised(&sensorv1.Summary{Losses: many(maxLossesTold, &sensorv1.Loss{})})), 64 * maxLossesTold, 2500 * time.Nanosecond},
		"behaviours without a name": {bodies(1, summarised(&sensorv1.Summary{NewBehaviours: many(maxItems, &sensorv1.Behaviour{})})), maxItems, 3200 * time.Nanosecond},
		"counts without a name":     {bodies(1, summarised(&sensorv1.Summary{Deltas: many(maxItems, &sensorv1.BehaviourDelta{})})), maxItems, 3200 * time.Nanosecond},
		"findings of nothing":       {bodies(maxBatchRecords, findings), maxBatchRecords, 17 * time.Microsecond},
		"flows of nothing":          {bodies(maxBatchRecords, notes), maxBatchRecords, 12 * time.Microsecond},
		"reports of isolations":     {bodies(maxBatchRecords, reports(sensorv1.IsolationState_ISOLATION_STATE_RELEASED)), maxBatchRecords, 118 * time.Microsecond},
		"records of nothing":        {bodies(maxBatchRecords, func() *sensorv1.Record { return &sensorv1.Record{} }), maxBatchRecords, 5 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			if err := bounded(c.batch); err != nil {
				t.Fatal(err)
			}
			now, did := time.Unix(1_700_000_000, 0), &conduct{}
			cost, size := time.Duration(0), proto.Size(c.batch)
			for did.debt(now) == 0 && cost < 10*most {
				did.spend(weight(c.batch, size), now)
				cost += time.Duration(c.items) * c.each
			}
			if cost > most {
				t.Errorf("%s of applying were not held back", cost)
			}
		})
	}
}

// Ensure an honest sensor's batches weigh what they have of bytes: weights hold nobody back who was not.
func TestHonestWeight(t *testing.T) {
	key, path := make([]byte, 16), []byte("/usr/bin/something")
	at := time.Now().UnixNano()
	behaviour := &sensorv1.Behaviour{Key: key, Kind: 1, Subject: path, Object: path, FirstSeen: at}
	delta := &sensorv1.BehaviourDelta{Key: key, Count: 1, LastSeen: at}
	losses := many(8, &sensorv1.Loss{Where: "ring:bulk", Cause: "full", Count: 1})
	process := &sensorv1.Process{Pid: 1234, Start: 99, StartTime: at, Image: path, Argv: [][]byte{path}, User: "root", Cwd: path, Cgroup: path, Sha256: make([]byte, 32)}
	flow := &sensorv1.Flow{Protocol: 6, Local: make([]byte, 4), Remote: make([]byte, 4), LocalPort: 40000, RemotePort: 443, Opened: at}
	for name, batch := range map[string]*sensorv1.Batch{
		"a full batch of summaries": bodies(maxBatchRecords, summarised(&sensorv1.Summary{WindowStart: at, WindowEnd: at, Deltas: many(8, delta), Losses: losses,
			Health: &sensorv1.Health{RssBytes: 60 << 20, CpuNs: 1 << 40, EventsTotal: 1 << 40, Isolation: "none", Baseline: &sensorv1.BaselineState{Behaviours: 1000}}})),
		"a first hour of learning": bodies(1, summarised(&sensorv1.Summary{NewBehaviours: many(5461, behaviour), Deltas: many(5461, delta), Losses: losses})),
		"a table that is told":     bodies(1, summarised(&sensorv1.Summary{Deltas: many(10_922, delta)})),
		"findings": bodies(maxBatchRecords, func() *sensorv1.Record {
			return &sensorv1.Record{Time: at, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: "01JABCDEFGHJKMNPQRSTVWXYZ0", Time: at, Kind: "rule",
				Title: "a shell that a server started", RuleId: "shell-from-server", Severity: "high", Storyline: "1234.99", Process: process, Reason: "sh was started by nginx"}}}
		}),
		"flows": bodies(maxBatchRecords, func() *sensorv1.Record {
			return &sensorv1.Record{Time: at, Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: "1234.99", Process: process, Flow: flow}}}
		}),
	} {
		if err := bounded(batch); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if size := proto.Size(batch); weight(batch, size) != size {
			t.Errorf("%s has %d bytes and weighs %d", name, size, weight(batch, size))
		}
	}
	// Orders to a whole fleet are a handful of reports of each host.
	if got := weight(bodies(20, reports(sensorv1.IsolationState_ISOLATION_STATE_APPLIED)), 0); got > burstBytes/100 {
		t.Errorf("20 reports weigh %d", got)
	}
}

// taker is a server whose log answers at once, a session at it, and the sensor's end of its stream.
func taker(t *testing.T, log Log, now func() time.Time) (s *Server, n *session, node, sensor net.Conn) {
	t.Helper()
	s = &Server{cfg: Config{Log: log, Now: now, Meter: meter.New(), Logger: slog.New(slog.DiscardHandler)}, batcher: testBatcher(log),
		suspects: newSuspects(now), workers: newWorkers(t.Context().Done()), trusted: &trusted{wake: make(chan struct{}, 1)}}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.batcher.run(ctx) }()
	node, sensor = net.Pipe()
	t.Cleanup(func() {
		_ = node.Close()
		_ = sensor.Close()
		cancel()
		<-ran
	})
	return s, &session{server: s, host: "h-1", conduct: &conduct{}}, node, sensor
}

// answers reads what a sensor is answered until its session ends.
func answers(sensor net.Conn) {
	for frame.Read(sensor, &sensorv1.CoordinatorMessage{}) == nil {
	}
}

// Ensure a batch with more in it than any sensor sends breaks the protocol and is not proposed,
// and the largest that one sends is taken.
func TestBatchesThatNoSensorSends(t *testing.T) {
	for name, c := range map[string]struct {
		batch *sensorv1.Batch
		bad   bool
	}{
		"as many records as it sends": {bodies(maxBatchRecords, findings), false},
		"one more":                    {bodies(maxBatchRecords+1, findings), true},
		"the largest summary":         {bodies(1, summarised(&sensorv1.Summary{Deltas: many(10_922, &sensorv1.BehaviourDelta{})})), false},
		"behaviours without end":      {bodies(1, summarised(&sensorv1.Summary{NewBehaviours: many(100_000, &sensorv1.Behaviour{})})), true},
		"counts, in many summaries":   {bodies(100, summarised(&sensorv1.Summary{Deltas: many(1000, &sensorv1.BehaviourDelta{})})), true},
		"losses without end":          {bodies(1, summarised(&sensorv1.Summary{Losses: many(1000, &sensorv1.Loss{})})), true},
	} {
		t.Run(name, func(t *testing.T) {
			log := &fakeLog{}
			s, n, node, sensor := taker(t, log, time.Now)
			go answers(sensor)
			err := s.batch(t.Context(), n, node, c.batch, proto.Size(c.batch))
			if bad := errors.Is(err, errProtocol); bad != c.bad || err != nil && !bad {
				t.Errorf("got %v", err)
			}
			log.mu.Lock()
			defer log.mu.Unlock()
			if proposed := len(log.entries) > 0; proposed == c.bad {
				t.Errorf("proposed: %v", proposed)
			}
		})
	}
}
