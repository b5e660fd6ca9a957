package sensor

import (
	"slices"
	"sort"
	"sync"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// lossMeter turns cumulative counters into the losses of a window, so that each
// loss is told exactly once in a summary, and in every finding of its window.
type lossMeter struct {
	mu     sync.Mutex
	own    map[lossKey]uint64 // counted here, cumulative
	told   map[lossKey]uint64 // cumulative at the last summary
	latest map[lossKey]uint64 // cumulative as last read
}

type lossKey struct{ where, cause string }

// add counts a loss that no stage counts.
func (m *lossMeter) add(where, cause string, count uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.own == nil {
		m.own = map[lossKey]uint64{}
	}
	m.own[lossKey{where, cause}] += count
}

// note remembers the stages' totals for window and total.
func (m *lossMeter) note(totals []event.Loss) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteLocked(totals)
}

func (m *lossMeter) noteLocked(totals []event.Loss) {
	m.latest = make(map[lossKey]uint64, len(totals)+len(m.own))
	for _, l := range totals {
		m.latest[lossKey{l.Where, l.Cause}] += l.Count
	}
	for key, count := range m.own {
		m.latest[key] += count
	}
}

// window is what was lost since the last summary, as last noted.
func (m *lossMeter) window() []event.Loss {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.windowLocked()
}

func (m *lossMeter) windowLocked() []event.Loss {
	var losses []event.Loss
	for key, count := range m.latest {
		if told := m.told[key]; count > told {
			losses = append(losses, event.Loss{Where: key.where, Cause: key.cause, Count: count - told})
		}
	}
	sort.Slice(losses, func(i, j int) bool {
		a, b := losses[i], losses[j]
		if a.Where != b.Where {
			return a.Where < b.Where
		}
		return a.Cause < b.Cause
	})
	return losses
}

// harvest ends the window and returns its losses.
func (m *lossMeter) harvest(totals []event.Loss) []event.Loss {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteLocked(totals)
	losses := m.windowLocked()
	m.told = m.latest
	return losses
}

// all is every count since the start, as last noted.
func (m *lossMeter) all() []event.Loss {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]event.Loss, 0, len(m.latest))
	for key, count := range m.latest {
		all = append(all, event.Loss{Where: key.where, Cause: key.cause, Count: count})
	}
	return all
}

// correlationLosses is the place of what rules about more than one event forgot.
const correlationLosses = "correlation"

// findingLosses is the place of what was found and not told.
const findingLosses = "findings"

// unseen tells whether any of these were events that the baseline did not see: what
// only the recorder or a correlation lost, and what was found and not told, was learnt from,
// and a full disk must not end learning.
func unseen(losses []event.Loss) bool {
	return slices.ContainsFunc(losses, func(l event.Loss) bool {
		return l.Where != recorder.LossPlace && l.Where != correlationLosses && l.Where != findingLosses
	})
}

// total is all that was lost since the start.
func (m *lossMeter) total() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum uint64
	for _, count := range m.latest {
		sum += count
	}
	return sum
}
