package recorder

import "github.com/vedette-edr/vedette/sensor/internal/event"

// LossPlace is where the losses of this stage happen, as told in Losses.
const LossPlace = "recorder"

// losses are counts of records, but for cut, which counts files: what a torn tail
// held nobody knows.
type losses struct{ queueFull, diskFull, writeFailed, tooLarge, cut uint64 }

// NoteLosses records what the sensor lost since the last call; totals are cumulative.
func (r *Recorder) NoteLosses(totals []event.Loss) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range totals {
		key := [2]string{l.Where, l.Cause}
		more := l.Count - r.told[key]
		if l.Count <= r.told[key] {
			continue
		}
		if r.noteLocked(TypeLoss, func(a *Attrs) {
			a.Text("where", l.Where)
			a.Text("cause", l.Cause)
			a.Uint("count", more)
		}) {
			r.told[key] = l.Count
		}
	}
}

// Losses is what was not recorded, cumulative.
func (r *Recorder) Losses() []event.Loss {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []event.Loss
	for _, l := range []event.Loss{
		{Cause: "queue-full", Count: r.lost.queueFull},
		{Cause: "disk-full", Count: r.lost.diskFull},
		{Cause: "write-failed", Count: r.lost.writeFailed},
		{Cause: "too-large", Count: r.lost.tooLarge},
		{Cause: "torn-tail", Count: r.lost.cut},
	} {
		if l.Count > 0 {
			l.Where = LossPlace
			all = append(all, l)
		}
	}
	return all
}
