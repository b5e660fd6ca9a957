package retention

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// oneLog applies what is proposed to a real store, as a cluster of one would, and keeps it.
type oneLog struct {
	t       *testing.T
	db      *store.DB
	path    string
	index   uint64
	now     time.Time
	entries [][]byte
	seq     map[string]uint64
	version string
}

func (l *oneLog) IsLeader() bool { return true }
func (l *oneLog) Members(context.Context) ([]*operatorv1.Member, error) {
	return []*operatorv1.Member{{Id: "n1", Version: "v2"}, {Id: "n2", Version: l.version}}, nil
}

func (l *oneLog) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	raw, err := proto.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	l.entries = append(l.entries, raw)
	l.index++
	err = l.db.Update(l.index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, l.index, cmd)
		return err
	})
	return res, err
}

func (l *oneLog) put(cmd *raftv1.Command) {
	l.t.Helper()
	cmd.Time = l.now.UnixNano()
	if res, err := l.Propose(l.t.Context(), cmd); err != nil || res.GetRejected() != "" {
		l.t.Fatalf("%v: %v, %v", cmd, res, err)
	}
}

func newLog(t *testing.T, hosts int) *oneLog {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	l := &oneLog{t: t, path: path, now: time.Unix(1_700_000_000, 0), seq: make(map[string]uint64), version: "v2"}
	l.open()
	t.Cleanup(func() { _ = l.db.Close() })
	for i := range hosts {
		l.put(&raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: hostID(i), Facts: &sensorv1.HostFacts{Name: hostID(i)}}}})
	}
	return l
}

func (l *oneLog) open() {
	l.t.Helper()
	var err error
	if l.db, err = store.Open(l.t.Context(), l.path, nil); err != nil {
		l.t.Fatal(err)
	}
}

func hostID(i int) string { return fmt.Sprintf("h-%02d", i) }

func newEngine(t *testing.T, l *oneLog, keep Keep) *Engine {
	t.Helper()
	e, err := New(Config{Log: l, DB: l.db, Keep: keep, Pause: 1, Now: func() time.Time { return l.now }})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// shortest is the least that may be kept.
var shortest = Keep{Findings: 48 * time.Hour, Flows: 48 * time.Hour, Incidents: 48 * time.Hour, Operations: 30 * aDay, Losses: 48 * time.Hour,
	Behaviours: 30 * aDay, Minutes: time.Hour, Hours: aDay, Days: 31 * aDay}

// tell has every host tell a part of a day: what it always does, what is new that day, a finding, a flow and a loss.
func (l *oneLog) tell(hosts, day, part int) {
	l.t.Helper()
	in := &raftv1.Ingest{}
	for i := range hosts {
		id, now := hostID(i), l.now.UnixNano()
		s := &sensorv1.Summary{Losses: []*sensorv1.Loss{{Where: "ring", Cause: fmt.Sprint(day % 50), Count: 2}}}
		for k := range 30 {
			s.Deltas = append(s.Deltas, &sensorv1.BehaviourDelta{Key: key(0, k), Count: 3, LastSeen: now})
		}
		for k := range 5 {
			s.NewBehaviours = append(s.NewBehaviours, &sensorv1.Behaviour{Key: key(1+day, k), Kind: 1, Subject: []byte("/usr/bin/some"), Object: []byte("/usr/bin/other"), FirstSeen: now})
		}
		name := fmt.Sprintf("%s-%d-%d", id, day, part)
		f := &sensorv1.Finding{Id: "f-" + name, Time: now, Title: "Something happened that somebody should look at", Reason: string(make([]byte, 400)), Storyline: "s-" + name}
		note := &sensorv1.FlowNote{Storyline: "s-" + name, Flow: &sensorv1.Flow{Protocol: 6, Local: []byte{10, 0, 0, 1}, Remote: []byte{10, 0, byte(day), 2}, LocalPort: 1, RemotePort: 2}}
		b := &sensorv1.Batch{Boot: []byte("0123456789abcdef"), Prev: l.seq[id]}
		for _, r := range []*sensorv1.Record{{Body: &sensorv1.Record_Summary{Summary: s}}, {Body: &sensorv1.Record_Finding{Finding: f}}, {Body: &sensorv1.Record_FlowNote{FlowNote: note}}} {
			l.seq[id]++
			r.Sequence, r.Time = l.seq[id], now
			b.Records = append(b.Records, r)
		}
		in.Batches = append(in.Batches, &raftv1.HostBatch{Host: id, Batch: b})
	}
	l.put(&raftv1.Command{Body: &raftv1.Command_Ingest{Ingest: in}})
}

func key(kind, n int) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(kind*1_000_003+n)*0x9e3779b97f4a7c15) //nolint:gosec // a hash
	return binary.BigEndian.AppendUint64(b, uint64(kind))                                //nolint:gosec // small
}

// incident opens one of a day's findings, and closes it when it is to be closed.
func (l *oneLog) incident(day int, closed bool) {
	l.t.Helper()
	id := fmt.Sprintf("inc-%d", day)
	l.put(&raftv1.Command{Actor: "engine:correlate", Body: &raftv1.Command_PutIncident{PutIncident: &raftv1.PutIncident{Incident: &raftv1.Incident{
		Id: id, Status: "open", LastSeen: l.now.UnixNano(), Findings: []string{fmt.Sprintf("f-%s-%d-0", hostID(0), day)}}}}})
	if closed {
		l.put(&raftv1.Command{Actor: "operator:o", IdempotencyKey: id, Body: &raftv1.Command_CloseIncident{CloseIncident: &raftv1.CloseIncident{Id: id, Disposition: "benign"}}})
	}
}

func (l *oneLog) used() int64 {
	l.t.Helper()
	used, _, err := l.db.Size(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return used
}

func (l *oneLog) file() int64 {
	l.t.Helper()
	used, free, err := l.db.Size(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return used + free
}

func digest(t *testing.T, db *store.DB) string {
	t.Helper()
	d, err := db.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Ensure a year fits into what a few months took: the state stops to grow once things are as old as
// they are kept, in rows and in pages; what is open stays; and the same entries make the same state,
// with a restart of a node in between.
func TestYear(t *testing.T) {
	const hosts, parts, settled = 6, 2, 70 // days until all that goes has begun to go: the days' partitions last a month
	l := newLog(t, hosts)
	e := newEngine(t, l, shortest)
	var early, late, earlyFile, lateFile int64
	for day := range 365 {
		for part := range parts {
			l.now = l.now.Add(24 * time.Hour / parts)
			l.tell(hosts, day, part)
		}
		if day%5 == 0 {
			l.incident(day, day%100 != 5)
		}
		if day == 180 {
			if err := l.db.Close(); err != nil {
				t.Fatal(err)
			}
			l.open()
			e = newEngine(t, l, shortest)
		}
		if err := e.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if used := l.used(); day >= settled && day < 200 {
			early, earlyFile = max(early, used), max(earlyFile, l.file())
		} else if day >= 200 {
			late, lateFile = max(late, used), max(lateFile, l.file())
		}
	}
	// The audit is never cut: 80 entries of these 200 days, some 250 bytes each with their pages.
	const audit = 80 * 400
	t.Logf("%d entries; in use at most %d KiB until day 200 and %d KiB after it, the file %d and %d KiB", len(l.entries), early>>10, late>>10, earlyFile>>10, lateFile>>10)
	if late > early+early/20+audit || lateFile > earlyFile+earlyFile/20+audit {
		t.Errorf("the state grows: %d KiB in use until day 200, %d KiB after; file %d, %d KiB", early>>10, late>>10, earlyFile>>10, lateFile>>10)
	}
	l.check(hosts, parts)
	replayed, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer replayed.Close()
	for i, raw := range l.entries {
		cmd := &raftv1.Command{}
		if err := proto.Unmarshal(raw, cmd); err != nil {
			t.Fatal(err)
		}
		if err := replayed.Update(uint64(i+1), func(tx *store.Tx) error {
			_, err := state.Apply(tx, uint64(i+1), cmd)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if digest(t, l.db) != digest(t, replayed) {
		t.Error("the same entries make another state on a node that did not restart")
	}
}

// check asks the state for what must have stayed, and what must have gone.
func (l *oneLog) check(hosts, parts int) {
	t := l.t
	t.Helper()
	shown, err := l.db.Behaviours(t.Context(), hostID(0), 1000)
	if err != nil || len(shown) < 30+30*5 || len(shown) > 30+33*5 {
		t.Errorf("%d behaviours, %v; want the 30 of every day and the 5 of each of 30 days", len(shown), err)
	}
	for _, b := range shown {
		if b.GetHosts() != uint64(hosts) { //nolint:gosec // small
			t.Fatalf("behaviour %x is shown by %d hosts, want %d", b.GetBehaviour().GetKey(), b.GetHosts(), hosts)
		}
	}
	incidents, _, err := l.db.Incidents(t.Context(), store.IncidentFilter{}, store.Page{Size: 1000})
	if err != nil {
		t.Fatal(err)
	}
	open := 0
	for _, in := range incidents {
		if in.GetStatus() == "open" {
			open++
		}
	}
	if open != 4 || len(incidents) > 4+2 {
		t.Errorf("%d incidents, %d of them open; want the 4 open ones, and no closed one older than two days", len(incidents), open)
	}
	rows, _, err := l.db.Findings(t.Context(), store.FindingFilter{}, store.Page{Size: 1000})
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, r := range rows {
		if r.GetDisposition() == "in-incident" {
			kept++
		}
	}
	if kept != 4 || len(rows) > 4+hosts*parts*3 {
		t.Errorf("%d findings, %d of open incidents; want those 4 and the last days'", len(rows), kept)
	}
	// A day's counts are exact: the last whole day of this history.
	days, err := l.db.History(t.Context(), 1, "days", l.now.Add(-20*aDay).UnixNano(), l.now.UnixNano())
	if err != nil || len(days) < 20 {
		t.Fatalf("%d days of history: %v", len(days), err)
	}
	want := store.Tally{Summaries: 2, Events: 2 * 30 * 3, Fresh: 5, Lost: 4, Findings: 2, Flows: 2}
	if got := days[10].Tally; got != want {
		t.Errorf("a day's history is %+v, want %+v", got, want)
	}
}
