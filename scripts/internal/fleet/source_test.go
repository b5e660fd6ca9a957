package fleet

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure what a source puts together by itself is the message that a sensor would send.
func TestSourceFrame(t *testing.T) {
	want := &sensorv1.Summary{WindowEnd: 7, Deltas: []*sensorv1.BehaviourDelta{{Key: []byte("k"), Count: 300}}}
	summary, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	s := &Source{sensor: &sensor{boot: []byte("boot")}, sequence: 200}
	if err := s.frame(summary); err != nil {
		t.Fatal(err)
	}
	var m sensorv1.SensorMessage
	rest := bytes.NewReader(s.buf)
	if err := frame.Read(rest, &m); err != nil || rest.Len() > 0 {
		t.Fatalf("reading it: %v, %d bytes are left", err, rest.Len())
	}
	batch := m.GetBatch()
	if len(batch.GetRecords()) != 1 || batch.GetPrev() != 199 || string(batch.GetBoot()) != "boot" || len(m.ProtoReflect().GetUnknown()) > 0 {
		t.Fatalf("got %v", &m)
	}
	if r := batch.GetRecords()[0]; r.GetSequence() != 200 || r.GetTime() == 0 || !proto.Equal(r.GetSummary(), want) {
		t.Errorf("got %v, want %v", r, want)
	}
}
