package state_test

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// FuzzIngest lets a host say anything that is a message: what nodes take into the log must
// be stored or counted, and never be an error, which would stop every node at that entry.
func FuzzIngest(f *testing.F) {
	long := strings.Repeat("x", 70_000)
	for _, body := range []*sensorv1.Record{
		{Sequence: 1, Time: math.MinInt64, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: long, Score: math.NaN(), Storyline: "\x00"}}},
		{Sequence: 1, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Score: math.Inf(1), Time: math.MaxInt64}}},
		{Sequence: 1, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
			NewBehaviours: []*sensorv1.Behaviour{{}, {Key: []byte(long)}, {Key: []byte{0}, Kind: -5, FirstSeen: math.MinInt64}},
			Deltas:        []*sensorv1.BehaviourDelta{{}, {Key: []byte{0}, Count: math.MaxUint64, LastSeen: -1}, {Key: []byte{0}, Count: math.MaxUint64}},
			Losses:        []*sensorv1.Loss{{}, {Where: long}, {Where: "a", Cause: "b", Count: math.MaxUint64}, {Where: "a", Cause: "b", Count: math.MaxUint64}},
			Health:        &sensorv1.Health{IntentVersion: math.MaxUint64},
		}}},
		{Sequence: math.MaxInt64, Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{State: 99, Local: true, Nonce: []byte(long)}}},
		{Sequence: 1, Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{
			State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED, Local: true, Action: -1, Level: 77, LeaseExpires: math.MinInt64}}},
		{Sequence: 1, Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: long}}},
		{Sequence: 1},
	} {
		raw, err := proto.Marshal(&sensorv1.Batch{Boot: make([]byte, 16), Records: []*sensorv1.Record{body}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	l := &log{t: f, db: open(f, filepath.Join(f.TempDir(), "state.db"))}
	l.host("h-1")
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := &sensorv1.Batch{}
		if proto.Unmarshal(raw, b) != nil || state.CheckBatch(b) != nil {
			return // the session ends before the log
		}
		l.index++
		// A boot of its own each time: all of it is new.
		b.Boot = hash(string(raw))[:16]
		b.Prev = 0
		result, err := apply(l.db, l.index, command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: "h-1", Batch: b}}}))
		if err != nil {
			t.Fatalf("every node would stop: %v", err)
		}
		last := uint64(0)
		if n := len(b.GetRecords()); n > 0 {
			last = b.GetRecords()[n-1].GetSequence()
		}
		if len(result.GetAcks()) != 1 || result.GetAcks()[0].GetGap() || result.GetAcks()[0].GetSequence() != last {
			t.Fatalf("answered %v, want an ack of %d", result, last)
		}
		// What was stored can be read.
		if _, _, err := l.db.Findings(t.Context(), store.FindingFilter{}, store.Page{Size: 10}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.db.Host(t.Context(), "h-1"); err != nil {
			t.Fatal(err)
		}
	})
}
