package fleet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

// A misbehaving sensor does one thing of its kind in each window, and no more.
const (
	// slowRead is how long a slow reader takes over each message.
	slowRead = 3 * time.Second
	// floodSize is how many new behaviours a flood brings at once: three windows of it are more
	// than a node takes of a host in an hour without a finding (20,000).
	floodSize = 8000
	// A batch of these parts is above what a log entry may hold (960 KiB) and below a frame.
	oversizePart, oversizeParts = 62 << 10, 16
	gapWidth                    = 1000
	// gapBatches go out one behind the other: an honest sensor would go on from where the
	// first was answered that the node is.
	gapBatches = 20
	years      = 10 * 365 * 24 * time.Hour
)

// misbehave breaks the protocol in the sensor's own way.
func (s *sensor) misbehave(window int, moved time.Duration) {
	s.mu.Lock()
	stream, sequence := s.stream, s.sequence
	if stream == nil || s.offended {
		s.mu.Unlock()
		return
	}
	s.offended = true
	s.mu.Unlock()
	s.fleet.counts.misdeed(s.kind, 1, 0, 0)
	summary := s.fleet.cfg.World.Summary(s.n, window)
	record := &sensorv1.Record{Time: summary.GetWindowEnd(), Body: &sensorv1.Record_Summary{Summary: summary}}
	move(record, moved)
	var err error
	switch s.kind {
	case world.Gap:
		record.Sequence = sequence + gapWidth + 1
		err = s.batch(stream, sequence+gapWidth, record)
		for range gapBatches - 1 { // small, and nothing that a node waits with
			err = errors.Join(err, s.batch(stream, sequence+gapWidth, &sensorv1.Record{Sequence: record.GetSequence(), Time: record.GetTime()}))
		}
	case world.Backwards:
		record.Sequence = sequence + 2
		err = s.batch(stream, sequence, record, &sensorv1.Record{Sequence: sequence + 1, Time: record.GetTime()})
	case world.Oversize:
		summary.NewBehaviours = nil
		for i := range oversizeParts {
			summary.NewBehaviours = append(summary.NewBehaviours, &sensorv1.Behaviour{Key: world.Key(0, s.id, fmt.Sprint(window, i)), Object: make([]byte, oversizePart)})
		}
		record.Sequence = sequence + 1
		err = s.batch(stream, sequence, record)
	case world.Giant:
		err = s.giant(stream)
	case world.Flood:
		for i := range floodSize {
			subject, object := "/tmp/"+s.id, fmt.Sprintf("/tmp/%d/%d", window, i)
			summary.NewBehaviours = append(summary.NewBehaviours, &sensorv1.Behaviour{Key: world.Key(1, subject, object), Kind: 1, Subject: []byte(subject), Object: []byte(object)})
		}
		s.record(record)
		err = s.flush()
	case world.Liar:
		lie := int64(years)
		if window%2 == 0 {
			lie = -lie
		}
		move(record, time.Duration(lie))
		summary.WindowStart, summary.WindowEnd = summary.GetWindowEnd(), summary.GetWindowStart()
		s.record(record)
		err = s.flush()
	}
	if err != nil {
		s.drop("a message could not be sent", link.CodeInternal)
	}
}

func (s *sensor) batch(stream net.Conn, prev uint64, records ...*sensorv1.Record) error {
	return s.send(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: &sensorv1.Batch{Boot: s.boot, Prev: prev, Records: records}}})
}

// giant announces a frame above the limit; its body is never sent.
func (s *sensor) giant(stream net.Conn) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := stream.Write(binary.BigEndian.AppendUint32(nil, frame.MaxFrame+1))
	return err
}

// taken and resumed say what became of a misdeed that did not end the session.
func (s *sensor) taken() { s.judged(0, 1) }

func (s *sensor) resumed() { s.judged(1, 0) }

func (s *sensor) judged(refused, taken int64) {
	s.mu.Lock()
	offended := s.offended
	s.offended = false
	s.mu.Unlock()
	if offended {
		s.fleet.counts.misdeed(s.kind, 0, refused, taken)
	}
}
