package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oneLog applies what is proposed to a real store, as a cluster of one would.
type oneLog struct {
	t     *testing.T
	db    *store.DB
	mu    sync.Mutex // guards what follows
	index uint64
	lead  bool
	marks []*raftv1.ExportMark
	fail  error // of proposals
}

func (l *oneLog) IsLeader() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lead
}
func (l *oneLog) ReadBarrier(context.Context) error { return nil }

func (l *oneLog) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	if mark := cmd.GetExportMark(); mark != nil {
		l.marks = append(l.marks, mark)
	}
	l.index++
	err = l.db.Update(l.index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, l.index, cmd)
		return err
	})
	return res, err
}

var epoch = time.Unix(1_700_000_000, 0)

func (l *oneLog) put(body *raftv1.Command) {
	l.t.Helper()
	if body.Time == 0 {
		body.Time = epoch.UnixNano()
	}
	if body.Actor == "" {
		body.Actor = "operator:ann"
	}
	res, err := l.Propose(l.t.Context(), body)
	if err != nil || res.GetRejected() != "" {
		l.t.Fatalf("%v: %v, %v", body, res, err)
	}
}

func newLog(t *testing.T) *oneLog {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	l := &oneLog{t: t, db: db, lead: true}
	l.put(&raftv1.Command{Body: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: "c-1"}}})
	l.put(&raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: "h-1", Facts: &sensorv1.HostFacts{Name: "web1"}}}})
	return l
}

var sequences uint64

// finds stores n findings and a flow note each, of h-1.
func (l *oneLog) finds(n int, at time.Time) {
	l.t.Helper()
	for range n {
		sequences++
		boot := fmt.Appendf(nil, "%016d", sequences)
		l.put(&raftv1.Command{Time: at.UnixNano(), Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: "h-1", Batch: &sensorv1.Batch{Boot: boot,
			Records: []*sensorv1.Record{
				{Sequence: 1, Time: at.UnixNano(), Body: &sensorv1.Record_Finding{Finding: aFinding(fmt.Sprintf("f-%d", sequences), at)}},
				{Sequence: 2, Time: at.UnixNano(), Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: "7.9", Flow: aFlow}}},
			}}}}}}})
	}
}

var aFlow = &sensorv1.Flow{Protocol: 6, Local: []byte{10, 0, 0, 1}, LocalPort: 50000, Remote: []byte{10, 0, 0, 2}, RemotePort: 22}

func aFinding(id string, at time.Time) *sensorv1.Finding {
	return &sensorv1.Finding{Id: id, Time: at.UnixNano(), Kind: "rule", Severity: "high", Score: 90, Storyline: "7.9", Title: "A shell out of a server",
		Process:   &sensorv1.Process{Pid: 7, Image: []byte("/bin/sh\xff"), Argv: [][]byte{[]byte("sh"), []byte("-c")}},
		Ancestors: []*sensorv1.Process{{Pid: 1, Image: []byte("/sbin/init")}}, Flows: []*sensorv1.Flow{aFlow}, Losses: []*sensorv1.Loss{{Where: "ring", Cause: "full", Count: 2}}}
}

func (l *oneLog) incident(id, title string) {
	l.t.Helper()
	l.put(&raftv1.Command{Body: &raftv1.Command_PutIncident{PutIncident: &raftv1.PutIncident{Incident: &raftv1.Incident{Id: id, Severity: "high", Title: title,
		Hosts: []string{"h-1"}, FirstSeen: epoch.UnixNano(), LastSeen: epoch.UnixNano()}}}})
}

func (l *oneLog) place(sink string) *store.Export {
	l.t.Helper()
	rows, err := l.db.Exports(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, row := range rows {
		if row.Sink == sink {
			return row
		}
	}
	return nil
}

// memory is a sink that keeps what it is sent, and fails when told to.
type memory struct {
	mu     sync.Mutex
	had    []Record
	fail   error
	closed int
}

func (m *memory) Send(_ context.Context, records []Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.had = append(m.had, records...)
	return nil
}

func (m *memory) Close() { m.closed++ }

func (m *memory) ids(kind string) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.had {
		if r.Kind == kind {
			out = append(out, r.ID)
		}
	}
	return out
}

var somewhere = SinkConfig{Name: "lake", Kafka: &KafkaConfig{Brokers: []string{"127.0.0.1:9"}}}

func newEngine(t *testing.T, l *oneLog, sink Sink, change func(*Config)) *Engine {
	t.Helper()
	cfg := Config{Log: l, DB: l.db, Cluster: "c-1", Sinks: Sinks{somewhere}, Now: func() time.Time { return epoch }}
	cfg.open = func(SinkConfig) (Sink, error) { return sink, nil }
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// drain steps until nothing waits.
func drain(t *testing.T, e *Engine) {
	t.Helper()
	for range 1000 {
		more, err := e.feeds[0].step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
	t.Fatal("there is always more")
}

// Ensure a new sink gets all that is held, then what comes, each once while one node leads,
// and an incident again when it has changed.
func TestExport(t *testing.T) {
	l := newLog(t)
	l.finds(2, epoch)
	l.incident("inc-1", "before")
	sink := &memory{}
	now := epoch
	e := newEngine(t, l, sink, func(c *Config) { c.Now = func() time.Time { return now } })
	drain(t, e)
	if got := len(sink.ids(Findings)); got != 2 {
		t.Errorf("%d findings of before, want 2", got)
	}
	if got := sink.ids(Incidents); len(got) != 1 || got[0] != "incident/inc-1/0.0" {
		t.Errorf("incidents of before: %v", got)
	}
	before := len(sink.ids(Audit))
	if before == 0 || len(sink.ids(Flows)) != 0 {
		t.Errorf("%d entries of the audit and %d flows, want some and none: they were not asked for", before, len(sink.ids(Flows)))
	}
	l.finds(1, epoch)
	l.incident("inc-1", "after")
	drain(t, e)
	drain(t, e)
	if got := len(sink.ids(Findings)); got != 3 {
		t.Errorf("%d findings, want 3", got)
	}
	got := sink.ids(Incidents)
	if len(got) != 2 || got[1] != fmt.Sprintf("incident/inc-1/%d.%d", l.index, epoch.UnixNano()) {
		t.Errorf("incidents: %v", got)
	}
	// The place moves in the log now and then, not with each record.
	marks := len(l.marks)
	now = now.Add(markTime)
	drain(t, e)
	if len(l.marks) != marks+1 || marks != 1 {
		t.Errorf("%d moves of the place, then %d; want only the begin and one", marks, len(l.marks))
	}
	row := l.place("lake")
	if row == nil || row.Place.GetFindings() != 3 || row.Place.GetFlows() != 3 || row.Lost != 0 {
		t.Errorf("the log has %+v", row)
	}
}

// Ensure what one leader handed on and did not note comes again from the next one with the
// same ids, and that nothing is left out; and that the old leader's marks count no more.
func TestFailover(t *testing.T) {
	l := newLog(t)
	l.finds(3, epoch)
	first, second := &memory{}, &memory{}
	now := epoch
	clock := func(c *Config) { c.Now = func() time.Time { return now } }
	a, b := newEngine(t, l, first, clock), newEngine(t, l, second, clock)
	drain(t, a)
	now = now.Add(markTime)
	l.finds(2, epoch)
	drain(t, a) // and notes it
	l.finds(2, epoch)
	l.incident("inc-1", "x")
	drain(t, a) // and does not
	drain(t, b) // leads now
	if got, want := second.ids(Findings), first.ids(Findings)[5:]; !slices.Equal(got, want) {
		t.Errorf("the new leader sends %v, want %v again", got, want)
	}
	if got, want := second.ids(Incidents), first.ids(Incidents); !slices.Equal(got, want) || len(got) != 1 {
		t.Errorf("the new leader sends %v, the old one %v", got, want)
	}
	now = now.Add(markTime)
	drain(t, b)
	at := l.place("lake").Place.GetFindings()
	l.finds(1, epoch)
	if _, err := a.feeds[0].step(t.Context()); err == nil {
		t.Error("a leader that was replaced moved the place")
	}
	if got := l.place("lake").Place.GetFindings(); got != at {
		t.Errorf("the place went from %d to %d", at, got)
	}
	drain(t, a) // it leads again: from where the log says
	if got := first.ids(Findings); len(got) != 9 || got[7] != got[8] {
		t.Errorf("then it sends %v", got)
	}
}

// Ensure a sink that is down costs nobody anything but what retention removes meanwhile,
// and that this is counted exactly and told.
func TestDownForLong(t *testing.T) {
	l := newLog(t)
	l.finds(3, epoch)
	sink := &memory{}
	now := epoch
	var log bytes.Buffer
	e := newEngine(t, l, sink, func(c *Config) {
		c.Now = func() time.Time { return now }
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Sinks = Sinks{{Name: "lake", Records: []string{Findings, Incidents, Flows}, Kafka: somewhere.Kafka}}
	})
	drain(t, e)
	now = now.Add(markTime)
	l.finds(1, epoch)
	drain(t, e)
	sink.fail = &refusal{"writing to vedette.findings", errors.New("gone\x1b[2J"), "look whether it runs"}
	l.finds(10, epoch)
	l.incident("inc-1", "x")
	l.put(&raftv1.Command{Body: &raftv1.Command_CloseIncident{CloseIncident: &raftv1.CloseIncident{Id: "inc-1", Disposition: "benign", Reason: "test"}}})
	for range 3 {
		if _, err := e.feeds[0].step(t.Context()); err == nil {
			t.Fatal("a sink that fails took something")
		}
		now = now.Add(look)
	}
	if alarms := e.Alarms(); len(alarms) != 0 {
		t.Errorf("told at once: %v", alarms)
	}
	now = now.Add(failingFor)
	alarms := e.Alarms()
	if len(alarms) != 1 || !strings.HasPrefix(alarms[0], "exports nothing to sink lake (kafka) since ") || !strings.Contains(alarms[0], ": look whether it runs") ||
		strings.Contains(alarms[0], "\x1b") || !strings.Contains(alarms[0], "21 records wait") {
		t.Errorf("alarms: %q", alarms)
	}
	if n := strings.Count(log.String(), "records are not exported"); n != 1 {
		t.Errorf("the log says it %d times: %s", n, log.String())
	}
	// Retention does not wait for it. The newest row of a table stays whatever its age.
	later := epoch.Add(72 * time.Hour)
	l.incident("inc-2", "y")
	before := later.Add(-49 * time.Hour).UnixNano()
	for range 3 {
		l.put(&raftv1.Command{Time: later.UnixNano(), Body: &raftv1.Command_Retain{Retain: &raftv1.Retain{Rows: 100, FindingsBefore: before, FlowsBefore: before, IncidentsBefore: before}}})
	}
	// Flows and incidents count as old as history's begin, which is now.
	later = later.Add(72 * time.Hour)
	before = later.Add(-49 * time.Hour).UnixNano()
	for range 3 {
		l.put(&raftv1.Command{Time: later.UnixNano(), Body: &raftv1.Command_Retain{Retain: &raftv1.Retain{Rows: 100, FindingsBefore: before, FlowsBefore: before, IncidentsBefore: before}}})
	}
	sink.fail = nil
	now = later
	drain(t, e)
	if got := len(sink.ids(Findings)); got != 4+1 {
		t.Errorf("%d findings came, want the four of before and the newest", got)
	}
	row := l.place("lake")
	if want := int64(9 + 9 + 1); row.Lost != want { // findings, flows, the closed incident
		t.Errorf("the log counts %d lost, want %d", row.Lost, want)
	}
	e.compare([]*store.Export{row})
	if alarms = e.Alarms(); len(alarms) != 1 || !strings.HasPrefix(alarms[0], "could not hand 19 records to sink lake (kafka)") {
		t.Errorf("alarms: %q", alarms)
	}
	// A sink that begins now has lost nothing.
	other := newEngine(t, l, &memory{}, func(c *Config) {
		c.Sinks = Sinks{{Name: "new", Records: []string{Findings, Flows}, Kafka: somewhere.Kafka}}
		c.Now = func() time.Time { return now }
	})
	drain(t, other)
	now = now.Add(markTime)
	l.finds(1, epoch)
	drain(t, other)
	if row := l.place("new"); row.Lost != 0 {
		t.Errorf("a new sink lost %d", row.Lost)
	}
}

// Ensure a leader that lacks a sink of the others says so.
func TestUnlikeConfigurations(t *testing.T) {
	l := newLog(t)
	drain(t, newEngine(t, l, &memory{}, nil))
	now := epoch
	e := newEngine(t, l, nil, func(c *Config) { c.Sinks, c.Now = nil, func() time.Time { return now } })
	e.compare([]*store.Export{l.place("lake")})
	if alarms := e.Alarms(); len(alarms) != 1 || !strings.Contains(alarms[0], "has no sink lake in its coordinator.yaml") {
		t.Errorf("alarms: %q", alarms)
	}
	now = now.Add(orphaned)
	e.compare([]*store.Export{l.place("lake")})
	l.lead = false
	if alarms := e.Alarms(); len(alarms) != 0 {
		t.Errorf("alarms after a week: %q", alarms)
	}
}

// Ensure the names of sinks are few, whoever proposes them.
func TestFewSinks(t *testing.T) {
	l := newLog(t)
	for i := range store.MaxExports + 3 {
		l.put(&raftv1.Command{Time: epoch.UnixNano() + int64(i), Body: &raftv1.Command_ExportMark{ExportMark: &raftv1.ExportMark{Sink: fmt.Sprintf("s-%02d", i)}}})
	}
	rows, err := l.db.Exports(t.Context())
	if err != nil || len(rows) != store.MaxExports || rows[0].Sink != "s-03" {
		t.Errorf("%d sinks, the first %v, %v", len(rows), rows[0], err)
	}
}

// Ensure Run goes on after failures with longer pauses, follows while another leads, and
// ends with its context.
func TestRun(t *testing.T) {
	l := newLog(t)
	l.finds(600, epoch) // more than a page
	synctest.Test(t, func(t *testing.T) {
		sink := &memory{fail: errors.New("down")}
		opened := 0
		e := newEngine(t, l, sink, func(c *Config) {
			c.Now = time.Now
			c.open = func(SinkConfig) (Sink, error) { opened++; return sink, nil }
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.feeds[0].finish(ctx) }()
		after := func(d time.Duration) {
			timer := time.NewTimer(d)
			defer timer.Stop()
			<-timer.C
			synctest.Wait()
		}
		after(100 * time.Second)
		if opened < 6 || opened > 9 { // 0, 1, 3, 7, 15, 31, 63 and then each minute
			t.Errorf("opened %d times in 100 s", opened)
		}
		sink.mu.Lock()
		sink.fail = nil
		sink.mu.Unlock()
		after(time.Minute)
		if got := len(sink.ids(Findings)); got != 600 {
			t.Errorf("%d findings came", got)
		}
		l.mu.Lock()
		l.lead = false
		l.mu.Unlock()
		after(10 * time.Second)
		if e.feeds[0].row != nil || e.feeds[0].sink != nil {
			t.Error("it follows, and keeps a leader's things")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// finish is run as a function that ends.
func (f *feed) finish(ctx context.Context) error { f.run(ctx); return nil }
