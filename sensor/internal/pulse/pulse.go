// Package pulse says when to do what is done again and again.
//
// Its one idea: a wake-up of the sensor costs more than most of what it does when it
// is awake, so all who come at a steady pace come at the same moments.
package pulse

import (
	"context"
	"iter"
	"time"
)

// epoch is the moment that all paces are counted from.
var epoch = time.Now()

// Next is how long until the next multiple of every since this process began: never
// zero, and never more than every.
func Next(every time.Duration) time.Duration { return next(time.Since(epoch), every) }

func next(since, every time.Duration) time.Duration { return every - since%every }

// Ticks yields at each multiple of every until ctx ends: the moment that was due, which
// on a busy machine is earlier than now. Moments that pass while its user is busy are
// left out.
func Ticks(ctx context.Context, every time.Duration) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		timer := time.NewTimer(Next(every))
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-timer.C:
				if !yield(now) {
					return
				}
			}
			timer.Reset(Next(every))
		}
	}
}
