package fleet

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Recall follows sensors that have lost their node until each is served again: it has a
// session and a record that it made after the loss is acknowledged.
type Recall struct {
	fleet *Fleet
	began time.Time
	want  []atomic.Uint64 // the sequence of that record; 0: not one of them
	took  []atomic.Int64  // ns since began
	open  atomic.Int64
	done  chan struct{}
	size  int
}

// At are the sensors whose session is at a node now, by the node's place in Config; for
// a negative one, all that have one.
func (f *Fleet) At(node int) (ns []int) {
	for _, s := range f.all() {
		s.mu.Lock()
		if s.at != nowhere && (node < 0 || s.at == node) {
			ns = append(ns, s.n)
		}
		s.mu.Unlock()
	}
	return ns
}

// Recall gives each of these sensors a record and follows them; the clock runs since began.
func (f *Fleet) Recall(ns []int, began time.Time) *Recall {
	all := f.all()
	r := &Recall{fleet: f, began: began, want: make([]atomic.Uint64, len(all)), took: make([]atomic.Int64, len(all)), done: make(chan struct{}), size: len(ns)}
	r.open.Store(int64(len(ns)))
	if len(ns) == 0 {
		close(r.done)
	}
	f.recall.Store(r)
	for _, n := range ns {
		now := time.Now().UnixNano()
		r.want[n].Store(all[n].record(&sensorv1.Record{Time: now, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
			WindowStart: now, WindowEnd: now, Health: &sensorv1.Health{RssBytes: 36 << 20, Isolation: "none"}}}}))
	}
	return r
}

func (r *Recall) acknowledged(n int, sequence uint64) {
	if n >= len(r.want) {
		return
	}
	if want := r.want[n].Load(); want != 0 && sequence >= want && r.took[n].CompareAndSwap(0, max(1, int64(time.Since(r.began)))) && r.open.Add(-1) == 0 {
		close(r.done)
	}
}

// Wait returns what each took, ascending; of those that are not served yet when ctx ends
// the error says how many.
func (r *Recall) Wait(ctx context.Context) ([]time.Duration, error) {
	var err error
	select {
	case <-r.done:
	case <-ctx.Done():
		err = fmt.Errorf("%d of %d sensors are not served again: %w", r.open.Load(), r.size, context.Cause(ctx))
	}
	r.fleet.recall.CompareAndSwap(r, nil)
	var times []time.Duration
	for i := range r.took {
		if took := r.took[i].Load(); took > 0 {
			times = append(times, time.Duration(took))
		}
	}
	slices.Sort(times)
	return times, err
}
