package fleet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Round is one order on its way to all sensors and back.
type Round struct {
	fleet  *Fleet
	action sensorv1.Action
	began  time.Time
	// Ns since began for each sensor, 0: not yet.
	grants, acks []atomic.Int64
	open         atomic.Int64 // sensors that are not acknowledged
	done         chan struct{}
	failed       chan struct{}
	once         sync.Once
}

// Begin starts the clock of an order that is given now; the next grant of this action
// at each sensor is taken for it.
func (f *Fleet) Begin(action sensorv1.Action) *Round {
	r := &Round{fleet: f, action: action, grants: make([]atomic.Int64, len(f.sensors)), acks: make([]atomic.Int64, len(f.sensors)),
		done: make(chan struct{}), failed: make(chan struct{})}
	r.open.Store(int64(len(f.sensors)))
	r.began = time.Now()
	f.round.Store(r)
	return r
}

func (r *Round) since() int64 { return max(1, int64(time.Since(r.began))) }

func (r *Round) verified(n int, action sensorv1.Action) {
	if action == r.action {
		r.grants[n].CompareAndSwap(0, r.since())
	}
}

func (r *Round) acknowledged(n int) {
	if r.grants[n].Load() != 0 && r.acks[n].CompareAndSwap(0, r.since()) && r.open.Add(-1) == 0 {
		close(r.done)
	}
}

func (r *Round) fail() { r.once.Do(func() { close(r.failed) }) }

// Times are what every sensor of a round took since its beginning, ascending.
type Times struct {
	Verified     []time.Duration // the grant was there and verified
	Acknowledged []time.Duration // its answer is committed, and the sensor knows it
}

// Wait returns when every sensor's answer is acknowledged.
func (r *Round) Wait(ctx context.Context) (Times, error) {
	select {
	case <-r.done:
	case <-r.failed:
		r.fleet.failing.Lock()
		defer r.fleet.failing.Unlock()
		return Times{}, r.fleet.failure
	case <-ctx.Done():
		lost, why := r.fleet.Lost()
		return Times{}, fmt.Errorf("%d of %d sensors have not answered; %d sessions were lost so far (the last: %s): %w",
			r.open.Load(), len(r.acks), lost, why, context.Cause(ctx))
	}
	return Times{sorted(r.grants), sorted(r.acks)}, nil
}

func sorted(each []atomic.Int64) []time.Duration {
	out := make([]time.Duration, len(each))
	for i := range each {
		out[i] = time.Duration(each[i].Load())
	}
	slices.Sort(out)
	return out
}

// Quantile of ascending times: the smallest that so large a share is not above.
func Quantile(times []time.Duration, share float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	index := int(share*float64(len(times))+0.999999) - 1
	return times[min(max(index, 0), len(times)-1)]
}
