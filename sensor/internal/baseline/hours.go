package baseline

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// hours says at which hours of the day (UTC) a behaviour happens: in how many different
// hours of the calendar it was seen, by hour of the day. A bin that is full halves them
// all, so that old habits fade. 24 bytes a behaviour, 0.5 MiB for 20,000.
type hours [24]uint8

const (
	// hourDays is on how many days a behaviour must have been seen before its hours say
	// anything: a day has only so many hours to be seen in.
	hourDays = 5
	// maxHourBits bounds what an hour may add: people do work at night now and then.
	maxHourBits = 6.0
	// oddHours and oddBits: a behaviour keeps to its hours when so many others of the day would
	// be so odd. rareWindow is how often a window it may come to be told each time.
	oddHours   = 12
	oddBits    = 3.0
	rareWindow = 64
)

func (h *hours) note(hour int) {
	if h[hour] == math.MaxUint8 {
		for i := range h {
			h[i] /= 2
		}
	}
	h[hour]++
}

// sum is in how many hours of the calendar, and in how many of the day, it was seen.
func (h *hours) sum() (seen, distinct float64) {
	for _, n := range h {
		if n > 0 {
			seen += float64(n)
			distinct++
		}
	}
	return seen, distinct
}

// bits is how much less likely an hour is than one of an even day. Neighbours count by
// half a weight each, because clocks change and people are late. Hours that were never
// seen share what Witten and Bell give to the unseen: a behaviour that kept to one hour
// fourteen times leaves less to the others than one that roamed.
func (h *hours) bits(hour int) float64 {
	seen, distinct := h.sum()
	return h.of(hour, seen, distinct)
}

func (h *hours) of(hour int, seen, distinct float64) float64 {
	near := 0.5*float64(h[hour]) + 0.25*float64(h[(hour+23)%24]) + 0.25*float64(h[(hour+1)%24])
	share := (near + distinct/24) / (seen + distinct + 1e-9)
	return min(max(-math.Log2(max(24*share, 1e-9)), 0), maxHourBits)
}

// keeps tells whether most hours of the day would be odd.
func (h *hours) keeps() bool {
	seen, distinct := h.sum()
	odd := 0
	for hour := range h {
		if h.of(hour, seen, distinct) >= oddBits {
			odd++
		}
	}
	return odd >= oddHours
}

// text is the hours for a person: "02:00-04:00 UTC".
func (h *hours) text() string {
	var parts []string
	for from := 0; from < 24; from++ {
		if h[from] == 0 {
			continue
		}
		to := from
		for to+1 < 24 && h[to+1] > 0 {
			to++
		}
		parts = append(parts, fmt.Sprintf("%02d:00-%02d:00", from, to+1))
		from = to
	}
	if len(parts) > 4 {
		parts = append(parts[:4], "…")
	}
	return strings.Join(parts, ", ") + " UTC"
}

// credit gives the hour of a window to an entry, once in each hour of the calendar.
func (e *entry) credit(at time.Time) {
	hour := at.Unix() / 3600
	if hour == e.lastHour {
		return
	}
	if hour/24 != e.lastHour/24 && e.days < math.MaxUint8 {
		e.days++
	}
	e.lastHour = hour
	e.hours.note(at.UTC().Hour())
	e.rehoured = e.kept > 0
}

// hourOf is what the hour of an observation says about an entry.
func (e *entry) hourOf(at time.Time) (bits float64, text string, timed bool) {
	if e == nil || !e.clean || e.days < hourDays {
		return 0, "", false
	}
	bits = e.hours.bits(at.UTC().Hour())
	if bits >= 1 {
		text = e.hours.text()
	}
	return bits, text, e.timed()
}

// timed tells whether an entry is rare and keeps to its hours.
func (e *entry) timed() bool {
	return e.clean && e.days >= hourDays && e.count <= rareWindow*uint64(max(e.windows, 1)) && e.hours.keeps()
}
