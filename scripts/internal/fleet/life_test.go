package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

// Ensure a sensor that lost its node counts as served again with an acknowledgement of
// the record that it made after that, not of one before.
func TestRecall(t *testing.T) {
	f := New(Config{})
	t.Cleanup(f.Close)
	f.sensors = []*sensor{{fleet: f, n: 0}, {fleet: f, n: 1, at: 1}, {fleet: f, n: 2}, {fleet: f, n: 3, at: nowhere}}
	f.sensors[2].record(&sensorv1.Record{})
	if at := f.At(0); len(at) != 2 || at[0] != 0 || at[1] != 2 {
		t.Fatalf("at node 0 are %v", at)
	}
	if at := f.At(-1); len(at) != 3 {
		t.Fatalf("with a session are %v", at)
	}
	r := f.Recall(f.At(0), time.Now())
	f.sensors[0].acked(1)
	f.sensors[1].acked(9) // was elsewhere
	f.sensors[2].acked(1) // made before
	if open := r.open.Load(); open != 1 {
		t.Fatalf("%d of two wait", open)
	}
	f.sensors[2].acked(2)
	f.sensors[2].acked(2)
	if times, err := r.Wait(t.Context()); err != nil || len(times) != 2 || times[0] <= 0 {
		t.Errorf("served after %v, %v", times, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if times, err := f.Recall(f.At(1), time.Now()).Wait(ctx); err == nil || len(times) != 0 {
		t.Errorf("one that is not served: %v, %v", times, err)
	}
}

// Ensure a record is sent again only from where the node is, one batch at a time, and
// forgotten only when it is acknowledged.
func TestRecordsAreKept(t *testing.T) {
	f := New(Config{})
	t.Cleanup(f.Close)
	s := &sensor{fleet: f}
	s.record(&sensorv1.Record{}, &sensorv1.Record{}, &sensorv1.Record{})
	s.acked(2)
	if len(s.unacked) != 1 || s.unacked[0].record.GetSequence() != 3 {
		t.Fatalf("%d are kept", len(s.unacked))
	}
	for range maxSpool + 4 {
		s.record(&sensorv1.Record{})
	}
	tally := f.Tally()
	if tally.Made != maxSpool+7 || tally.Acknowledged != 2 || tally.Dropped != 5 || len(s.unacked) != maxSpool {
		t.Errorf("%+v, %d kept", tally, len(s.unacked))
	}
	if away, err := f.Drain(t.Context()); err != nil || away != 0 {
		t.Errorf("a sensor that is not the fleet's is waited for: %d, %v", away, err)
	}
}

// Ensure the same reason has the same name, whatever stands around it.
func TestCauses(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("dialling n1: %w", link.ErrBusy), "busy: the node refuses new connections"},
		{fmt.Errorf("dialling n1: %w: is the node there?", link.ErrUnreachable), "no answer to a handshake"},
		{&link.ClosedError{Code: 1, Reason: "the node is stopping", Remote: true}, "the node closed it (code 1): the node is stopping"},
		{fmt.Errorf("waiting: %w", &refusedError{code: "no-leader"}), "refused: no-leader"},
		{fmt.Errorf("reading: %w", os.ErrDeadlineExceeded), "no welcome in time"},
		{io.EOF, "the node ended the session"},
		{errors.New("something"), "something"},
	} {
		if got := causeOf(tt.err); got != tt.want {
			t.Errorf("%v is %q, want %q", tt.err, got, tt.want)
		}
	}
	f := New(Config{Nodes: []string{"n1"}})
	t.Cleanup(f.Close)
	s := &sensor{fleet: f}
	f.ended(s, 0, true, io.EOF)
	f.ended(s, 0, false, link.ErrBusy)
	s.dropping = causeStorm
	f.ended(s, 0, true, io.EOF)
	s.offended, s.kind = true, world.Giant
	f.ended(s, 0, true, io.EOF)
	tally := f.Tally()
	if Sum(tally.Lost) != 1 || Sum(tally.Failed) != 1 || tally.Stormed != 1 || tally.Misdeeds[world.Giant].Refused != 1 {
		t.Errorf("%+v", tally)
	}
	if got := Causes(map[string]int64{"b": 3, "a": 5, "c": 1}, map[string]int64{"c": 1}); got != "5 × a; 3 × b" {
		t.Errorf("written as %q", got)
	}
}

// Ensure all times of a record move together, and nothing else changes.
func TestMove(t *testing.T) {
	w, err := world.New(world.Config{Seed: 1, Hosts: 20, Window: time.Minute, Campaigns: 1, RolloutEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	const by = 100 * time.Hour
	moved := 0
	for n := range w.Size() {
		for k := range 10 {
			there, back := w.Records(n, k), w.Records(n, k)
			for i, r := range there {
				move(r, by)
				if r.GetTime() != back[i].GetTime()+int64(by) || r.GetFlowNote().GetFlow().GetOpened() != 0 && r.GetFlowNote().GetFlow().GetOpened()-back[i].GetFlowNote().GetFlow().GetOpened() != int64(by) {
					t.Fatalf("host %d, window %d: %v", n, k, r)
				}
				for j, d := range r.GetSummary().GetDeltas() {
					if d.GetLastSeen() != back[i].GetSummary().GetDeltas()[j].GetLastSeen()+int64(by) {
						t.Fatalf("host %d, window %d: %v is last seen when it was", n, k, d)
					}
				}
				if move(r, -by); !proto.Equal(r, back[i]) {
					t.Fatalf("moved there and back, %v is %v", back[i], r)
				}
				moved++
			}
		}
	}
	if moved == 0 {
		t.Error("nothing was moved")
	}
}
