package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

const (
	// maxCauses bounds how many reasons are told apart, maxCause the text of one.
	maxCauses = 64
	maxCause  = 90
)

// counts are since the fleet's beginning.
type counts struct {
	ended, welcomed, open          atomic.Int64
	made, got, spoolLost           atomic.Int64 // records of honest sensors; dropped at a full spool
	goodbyes, dropped, born, tardy atomic.Int64
	stalls                         atomic.Int64

	mu       sync.Mutex // guards what follows
	times    []time.Duration
	lost     map[string]int64 // sessions that ended by themselves, by cause
	failed   map[string]int64 // tries to open one
	misdeeds map[world.Kind]Misdeeds
}

// Misdeeds are what hostile sensors of a kind did and what became of it.
type Misdeeds struct{ Tried, Refused, Taken int64 }

// Tally is what a fleet has counted.
type Tally struct {
	Open, Welcomed     int64 // sessions now, and since the beginning
	Made, Acknowledged int64 // records of honest sensors
	Dropped            int64 // records that a full spool lost
	Goodbyes, Born     int64 // hosts that left, and that came later
	Stormed            int64 // sessions that a storm ended
	Tardy              int64 // reports that this process made more than a second late
	Stalls             int64 // times that it was itself held up for two seconds
	Lost, Failed       map[string]int64
	Misdeeds           map[world.Kind]Misdeeds
}

// Tally reads the counters.
func (f *Fleet) Tally() Tally {
	c := &f.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	return Tally{Open: c.open.Load(), Welcomed: c.welcomed.Load(), Made: c.made.Load(), Acknowledged: c.got.Load(), Dropped: c.spoolLost.Load(),
		Goodbyes: c.goodbyes.Load(), Born: c.born.Load(), Stormed: c.dropped.Load(), Tardy: c.tardy.Load(), Stalls: c.stalls.Load(),
		Lost: maps.Clone(c.lost), Failed: maps.Clone(c.failed), Misdeeds: maps.Clone(c.misdeeds)}
}

// Sum of what was counted by cause.
func Sum(by map[string]int64) (sum int64) {
	for _, n := range by {
		sum += n
	}
	return sum
}

// Causes writes counts by cause for people, the most frequent first; of before only what
// came since.
func Causes(now, before map[string]int64) string {
	since := make(map[string]int64)
	for cause, n := range now {
		if n -= before[cause]; n > 0 {
			since[cause] = n
		}
	}
	names := slices.SortedFunc(maps.Keys(since), func(a, b string) int {
		if since[a] != since[b] {
			return int(since[b] - since[a])
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%d × %s", since[name], name))
	}
	return strings.Join(parts, "; ")
}

// TakeTimes hands out how long each record of an honest sensor took from being made to
// being acknowledged since the last call, ascending.
func (f *Fleet) TakeTimes() []time.Duration {
	f.counts.mu.Lock()
	times := f.counts.times
	f.counts.times = nil
	f.counts.mu.Unlock()
	slices.Sort(times)
	return times
}

func (c *counts) acked(took time.Duration) {
	c.got.Add(1)
	c.mu.Lock()
	c.times = append(c.times, took)
	c.mu.Unlock()
}

func (c *counts) misdeed(kind world.Kind, tried, refused, taken int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.misdeeds == nil {
		c.misdeeds = make(map[world.Kind]Misdeeds)
	}
	m := c.misdeeds[kind]
	c.misdeeds[kind] = Misdeeds{m.Tried + tried, m.Refused + refused, m.Taken + taken}
}

// ended notes that a session, or a try to open one, ended by itself.
func (f *Fleet) ended(s *sensor, node int, welcomed bool, err error) {
	s.mu.Lock()
	own, offended := s.dropping, s.offended
	s.dropping, s.offended = "", false
	s.mu.Unlock()
	switch {
	case welcomed && own == causeStorm:
		f.counts.dropped.Add(1)
		return
	case welcomed && offended:
		f.counts.misdeed(s.kind, 0, 1, 0)
		return
	}
	why := causeOf(err)
	if own != "" {
		why = own
	}
	f.counts.ended.Add(1)
	text := fmt.Sprintf("%s at %s: %v", why, f.cfg.Nodes[node], err)
	f.lastLost.Store(&text)
	f.counts.mu.Lock()
	defer f.counts.mu.Unlock()
	by := &f.counts.failed
	if welcomed {
		by = &f.counts.lost
	}
	if *by == nil {
		*by = make(map[string]int64)
	}
	if _, known := (*by)[why]; !known && len(*by) >= maxCauses {
		why = "other"
	}
	(*by)[why]++
}

// causeOf is why a session ended, in words that are the same for many.
func causeOf(err error) string {
	refused, isRefused := errors.AsType[*refusedError](err)
	closed, isClosed := errors.AsType[*link.ClosedError](err)
	switch {
	case isRefused:
		return "refused: " + refused.code
	case errors.Is(err, link.ErrBusy):
		return "busy: the node refuses new connections"
	case isClosed && closed.Remote:
		return short(fmt.Sprintf("the node closed it (code %d): %s", closed.Code, closed.Reason))
	case errors.Is(err, link.ErrPeerLost):
		return short(err.Error())
	case errors.Is(err, link.ErrUnreachable):
		return "no answer to a handshake"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no welcome in time"
	case errors.Is(err, io.EOF):
		return "the node ended the session"
	}
	return short(fmt.Sprint(err))
}

func short(text string) string { return text[:min(len(text), maxCause)] }
