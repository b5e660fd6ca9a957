package sensor

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/pulse"
)

const (
	// budgetEvery is how often the sensor looks at its own cost, and over how long it
	// is held to it: a burst of a second is no breach.
	budgetEvery = 5 * time.Second
	budgetSpan  = 2 // looks
	// budgetEase is after how many looks below half the budget one step is taken back.
	budgetEase = 12
	// returnEvery is how often memory is given back while there is too much.
	returnEvery = 30 * time.Second
)

// degradation is the order in which the sensor leaves things out. Execs, privileges and
// tampering are in none of it, nor files of credentials and persistence.
var degradation = []struct {
	sampleShift uint32
	says        string
}{
	{0, ""},
	{2, "file events other than of credentials and persistence are sampled: one in 4 is told, the others are counted as lost"},
	{5, "file events other than of credentials and persistence are sampled: one in 32 is told, the others are counted as lost"},
	{8, "file events other than of credentials and persistence are sampled: one in 256 is told, the others are counted as lost"},
}

// budget holds the sensor to what its host gives it.
type budget struct {
	cpuShare float64 // of one core
	rss      uint64

	mu       sync.Mutex
	at       time.Time
	cpu      time.Duration
	over     int // looks in a row
	under    int
	level    int
	declared []string
	returned time.Time
}

// note takes what the sensor has cost until now, and says whether the level changed and
// whether memory should be given back.
func (b *budget) note(now time.Time, used usage) (changed, giveBack bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.at, b.cpu = now, used.cpu
		return false, false
	}
	span := now.Sub(b.at)
	if span <= 0 {
		return false, false
	}
	share := float64(used.cpu-b.cpu) / float64(span)
	b.at, b.cpu = now, used.cpu
	level := b.level
	switch {
	case share > b.cpuShare:
		b.under = 0
		if b.over++; b.over >= budgetSpan && b.level < len(degradation)-1 {
			b.level, b.over = b.level+1, 0
		}
	case share < b.cpuShare/2:
		b.over = 0
		if b.under++; b.under >= budgetEase && b.level > 0 {
			b.level, b.under = b.level-1, 0
		}
	default:
		b.over, b.under = 0, 0
	}
	var declared []string
	if b.level > 0 {
		declared = append(declared, degradation[b.level].says)
	}
	if b.over >= budgetSpan && b.level == len(degradation)-1 {
		declared = append(declared, fmt.Sprintf("it takes %.1f %% of a core, more than its budget of %.1f %%, for what it never leaves out", 100*share, 100*b.cpuShare))
	}
	if used.rss > b.rss {
		declared = append(declared, fmt.Sprintf("it holds %d MiB, more than its budget of %d MiB", used.rss>>20, b.rss>>20))
		if now.Sub(b.returned) >= returnEvery {
			b.returned, giveBack = now, true
		}
	}
	// The figures in the words change with each look; what is declared does not.
	changed = level != b.level || len(declared) != len(b.declared)
	b.declared = declared
	return changed, giveBack
}

func (b *budget) state() (level int, declared []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.level, slices.Clone(b.declared)
}

// keepBudget holds the sensor to its budget until ctx ends, and declares at once what
// it leaves out for it.
func (s *Sensor) keepBudget(ctx context.Context) error {
	for range pulse.Ticks(ctx, budgetEvery) {
		now := time.Now() // not when it was due: the CPU is read now
		used := readUsage()
		used.cpu -= s.asking.spent() // it has bounds of its own, and must not make the host see less
		changed, giveBack := s.budget.note(now, used)
		if giveBack {
			debug.FreeOSMemory()
		}
		if !changed {
			continue
		}
		level, declared := s.budget.state()
		if err := s.source.SetFileSampling(degradation[level].sampleShift); err != nil {
			s.log.Error("sampling file events", "error", err)
		}
		s.log.Warn("the sensor's cost changed what it leaves out", "level", level, "declared", declared)
		s.summary(now)
	}
	return nil
}
