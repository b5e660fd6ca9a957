package sensor

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
	"github.com/vedette-edr/vedette/sensor/internal/recorder/query"
)

const recordings = "recorder" // in the state folder

func (s *Sensor) openRecorder() error {
	if !s.cfg.Recorder.Enabled {
		return nil
	}
	boot, err := kernel.BootID()
	if err != nil {
		return fmt.Errorf("preparing the flight recorder: %w", err)
	}
	s.recorder = recorder.Open(s.path(recordings), recorder.Config{
		MaxBytes: s.cfg.Recorder.MaxBytes, Boot: boot, Version: s.version, Logger: s.log,
	})
	s.onClose(s.recorder.Close)
	return nil
}

// record keeps an event for later. What only changes the tree is no observation;
// its process is asked for after the change.
func (s *Sensor) record(ev event.Event, o *event.Observation) {
	switch {
	case s.recorder == nil:
	case o != nil:
		s.recorder.Record(ev, o.Process, o.Flow)
	default:
		s.recorder.Record(ev, s.enricher.Process(ev.Head().Process), nil)
	}
}

// RecorderQuery is a question to the flight recorder, as its flags say it.
type RecorderQuery = query.Flags

// RecorderAnswer is how much was answered and what could not be.
type RecorderAnswer = query.Answer

// QueryRecorder writes what the flight recorder of the sensor with this config has
// on a question, oldest first. The sensor may be running.
func QueryRecorder(ctx context.Context, cfg Config, q RecorderQuery, out io.Writer) (RecorderAnswer, error) {
	s := Sensor{cfg: cfg}
	return query.Run(ctx, s.path(recordings), q, time.Now(), out)
}
