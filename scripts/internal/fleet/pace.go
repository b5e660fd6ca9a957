package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

const (
	// paceEvery is how often it is looked who is due, and pacers how many at once make
	// reports: one is only kept by a sensor that cannot write.
	paceEvery = 20 * time.Millisecond
	pacers    = 8
	// tardyAfter is how late a report may be without being counted.
	tardyAfter = time.Second
	// drainEvery is how often Drain looks.
	drainEvery = 50 * time.Millisecond
)

// turn is one sensor's part of one window.
type turn struct {
	sensor *sensor
	window int
	due    time.Time
}

// Pace lets the sensors live for so many of the world's windows, beginning with first,
// each every long: their reports are spread evenly over it. What they say of times is
// moved so that the last window ends now plus what Pace takes. An error is that a host
// that was born could not be enrolled.
func (f *Fleet) Pace(ctx context.Context, first, windows int, every time.Duration) error {
	all, began := f.all(), time.Now()
	if f.cfg.World == nil || len(all) == 0 {
		return errors.New("pacing a fleet without a world or without sensors")
	}
	moved := began.Add(time.Duration(windows) * every).Sub(f.cfg.World.At(first + windows))
	due := make(chan turn, len(all))
	var workers sync.WaitGroup
	for range pacers {
		workers.Go(func() {
			for t := range due {
				if time.Since(t.due) > tardyAfter {
					f.counts.tardy.Add(1)
				}
				f.turn(ctx, t.sensor, t.window, moved)
			}
		})
	}
	err := f.pace(ctx, due, all, began, first, windows, every)
	close(due)
	workers.Wait()
	f.failing.Lock()
	defer f.failing.Unlock()
	return errors.Join(err, f.failure)
}

func (f *Fleet) pace(ctx context.Context, due chan<- turn, all []*sensor, began time.Time, first, windows int, every time.Duration) error {
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	for next, total := 0, windows*len(all); next < total; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		for ; next < total; next++ {
			// The i-th of n sensors reports after i/n of each window.
			window, i := next/len(all), next%len(all)
			at := began.Add(time.Duration(window)*every + time.Duration(i)*every/time.Duration(len(all)))
			if at.After(time.Now()) {
				break
			}
			select {
			case due <- turn{all[i], first + window, at}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// turn has a sensor do what its host does in a window.
func (f *Fleet) turn(ctx context.Context, s *sensor, window int, moved time.Duration) {
	w := f.cfg.World
	present := w.Present(s.n, window)
	switch {
	case !present && s.runs():
		f.leave(s)
		return
	case !present:
		return
	case !s.runs():
		f.come(ctx, s)
	}
	if w.Dropped(s.n, window) {
		s.drop(causeStorm, link.CodeInternal)
	}
	if s.kind.Hostile() {
		s.misbehave(window, moved)
		return
	}
	records := w.Records(s.n, window)
	for _, r := range records {
		move(r, moved)
	}
	s.record(records...)
	if s.flush() != nil {
		s.drop("a message could not be sent", link.CodeInternal)
	}
}

// come starts a sensor, and enrols it first when its host is new.
func (f *Fleet) come(ctx context.Context, s *sensor) {
	if s.enrolled() {
		f.start(s)
		return
	}
	s.mu.Lock()
	under := s.enrolling
	s.enrolling = true
	s.mu.Unlock()
	if under {
		return
	}
	f.running.Go(func() {
		select {
		case f.coming <- struct{}{}:
			defer func() { <-f.coming }()
		case <-ctx.Done():
			return
		}
		if err := f.enrol(ctx, s); err != nil {
			if ctx.Err() == nil {
				f.refused(fmt.Errorf("enrolling host %d, which is born: %w", s.n, err))
			}
			return
		}
		f.counts.born.Add(1)
		f.start(s)
	})
}

// leave has a sensor say goodbye, as one that is stopped does, and end.
func (f *Fleet) leave(s *sensor) {
	s.mu.Lock()
	conn, stream, end, left := s.conn, s.stream, s.leaving, s.left
	already := s.going
	s.going = true
	s.mu.Unlock()
	if already {
		return
	}
	f.running.Go(func() {
		if stream != nil && s.send(stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Goodbye{Goodbye: &sensorv1.Goodbye{}}}) == nil {
			timer := time.NewTimer(goodbyeTime)
			defer timer.Stop()
			select {
			case <-conn.Context().Done():
				f.counts.goodbyes.Add(1)
			case <-timer.C:
			}
		}
		end()
		<-left
		s.mu.Lock()
		s.leaving, s.left, s.going = nil, nil, false
		s.mu.Unlock()
	})
}

// Drain waits until every honest sensor that runs has nothing that is not acknowledged.
// Those that are away keep what they did not get rid of, and are told apart.
func (f *Fleet) Drain(ctx context.Context) (away int64, err error) {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		var open int64
		away = 0
		for _, s := range f.all() {
			s.mu.Lock()
			switch {
			case s.kind != world.Honest:
			case s.leaving == nil || s.going:
				away += int64(len(s.unacked))
			default:
				open += int64(len(s.unacked))
			}
			s.mu.Unlock()
		}
		if open == 0 {
			return away, nil
		}
		select {
		case <-ctx.Done():
			return away, fmt.Errorf("%d records are not acknowledged: %w", open, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// move changes all times of a record by as much.
func move(r *sensorv1.Record, by time.Duration) {
	d := int64(by)
	r.Time += d
	switch body := r.GetBody().(type) {
	case *sensorv1.Record_Summary:
		s := body.Summary
		s.WindowStart += d
		s.WindowEnd += d
		for _, b := range s.NewBehaviours {
			b.FirstSeen += d
		}
		for _, c := range s.Deltas {
			c.LastSeen += d
		}
	case *sensorv1.Record_Finding:
		body.Finding.Time += d
		if origin := body.Finding.GetOrigin(); origin != nil {
			origin.Opened += d
		}
	case *sensorv1.Record_FlowNote:
		body.FlowNote.Flow.Opened += d
	}
}
