package baseline

import (
	"slices"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// bytes that a behaviour and a delta take in a message beside their strings.
const (
	behaviourBytes = 48
	deltaBytes     = 48
)

// waits tells whether a behaviour's count may go with a later summary. What is told
// can be evicted, so that a full table waits for nothing.
func (b *Baseline) waits(e *entry, now time.Time) bool {
	return e.known && e.told && e.toldAt > 0 && now.Sub(time.Unix(0, e.toldAt)) < b.cfg.TellKnownEvery &&
		len(b.entries) < b.cfg.MaxBehaviours*3/4
}

// Harvest hands out the counts since the last one, of known behaviours those whose time
// has come, with the health and losses that the caller knows. They are handed out once:
// the caller keeps the summary.
func (b *Baseline) Harvest(now time.Time, health event.Health, losses []event.Loss) event.Summary {
	summary := b.harvest(now, health, losses)
	if err := b.flush(); err != nil {
		b.cfg.Logger.Error("writing baseline", "path", b.path, "error", err)
	}
	return summary
}

func (b *Baseline) harvest(now time.Time, health event.Health, losses []event.Loss) event.Summary {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick(now)
	s := event.Summary{Start: b.harvested, End: now, Health: health, Losses: slices.Clone(losses)}
	b.harvested = now
	room := b.cfg.SummaryBytes
	for e := range b.changed {
		if b.waits(e, now) {
			continue
		}
		cost := deltaBytes
		if !e.told {
			cost += behaviourBytes + len(e.subject) + len(e.object)
		}
		if room -= cost; room < 0 {
			break
		}
		if !e.told {
			s.New = append(s.New, event.Behaviour{Key: e.key, Kind: e.kind, Subject: e.subject, Object: e.object})
			s.FirstSeen = append(s.FirstSeen, time.Unix(0, e.first))
			e.told = true
		}
		s.Deltas = append(s.Deltas, event.BehaviourDelta{Key: e.key, Count: e.pending, LastSeen: time.Unix(0, e.last), Known: e.known})
		if e.pending = 0; e.known {
			e.toldAt = now.UnixNano()
		}
		delete(b.changed, e)
		b.dirty[e.key] = struct{}{}
	}
	for _, cause := range []string{"corrupt-file", "damaged-entry", "evicted", "full", "kept-unknown", "write-failed"} {
		if n := b.losses[cause]; n > 0 {
			s.Losses = append(s.Losses, event.Loss{Where: "baseline", Cause: cause, Count: n})
		}
	}
	clear(b.losses)
	s.Baseline = b.state()
	return s
}
