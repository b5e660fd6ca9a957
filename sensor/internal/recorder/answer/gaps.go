package answer

import (
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// maxGaps bounds the losses and the absences that an answer tells.
const maxGaps = 64

// losses sums what the sensor said of itself in the time asked for.
type losses []*sensorv1.Loss

func (l *losses) take(r *recorder.Record) {
	where, cause := r.Text("where"), r.Text("cause")
	count, _ := r.Uint("count")
	i := slices.IndexFunc(*l, func(known *sensorv1.Loss) bool { return known.GetWhere() == where && known.GetCause() == cause })
	switch {
	case i >= 0:
		(*l)[i].Count += count
	case len(*l) < maxGaps:
		*l = append(*l, &sensorv1.Loss{Where: where, Cause: cause, Count: count})
	default:
		(*l)[maxGaps-1].Count += count
	}
}

func (l losses) told() []*sensorv1.Loss {
	slices.SortFunc(l, func(a, b *sensorv1.Loss) int {
		return strings.Compare(a.GetWhere()+"\x00"+a.GetCause(), b.GetWhere()+"\x00"+b.GetCause())
	})
	return l
}

// absence is when the sensor did not run: from what it recorded when it stopped, or last
// before it was killed, until it started again.
type absence struct {
	moments []moment
	since   time.Time
	until   time.Time
}

type moment struct {
	at      time.Time
	started bool
}

func (a *absence) take(r *recorder.Record, since, until time.Time) {
	a.since, a.until = since, until
	if len(a.moments) >= 4*maxGaps {
		return
	}
	switch r.Type {
	case recorder.TypeStart:
		a.moments = append(a.moments, moment{r.Time, true})
	case recorder.TypeStop:
		a.moments = append(a.moments, moment{at: r.Time})
	case recorder.TypeUncleanStop:
		// Written by the next start, of the last record before the end.
		if at, err := time.Parse(time.RFC3339Nano, r.Text("last_record")); err == nil {
			a.moments = append(a.moments, moment{at: at})
		}
	}
}

func (a *absence) told() (gaps []*sensorv1.Unwatched) {
	slices.SortStableFunc(a.moments, func(x, y moment) int { return x.at.Compare(y.at) })
	for i, m := range a.moments {
		if !m.started || len(gaps) == maxGaps {
			continue
		}
		gap := &sensorv1.Unwatched{Until: m.at.UnixNano()}
		from := time.Time{}
		if i > 0 && !a.moments[i-1].started {
			from = a.moments[i-1].at
			gap.From = from.UnixNano()
		}
		if !a.since.IsZero() && m.at.Before(a.since) || !a.until.IsZero() && from.After(a.until) {
			continue
		}
		gaps = append(gaps, gap)
	}
	return gaps
}
