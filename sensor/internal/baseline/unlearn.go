package baseline

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// maxPause is the longest that one word of a coordinator keeps this host from learning.
const maxPause = 24 * time.Hour

// Pause has the host learn nothing before a time, at most maxPause from now; what it learnt in
// the window that runs does not count. A time that has passed ends it. Whoever may say it can
// make a host tell more than it must, and never less: what is told from stands still meanwhile
// (detect's calibration), or what nobody lets the host learn would pass for ordinary there.
func (b *Baseline) Pause(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Now()
	if until.After(now.Add(maxPause)) {
		until = now.Add(maxPause)
	}
	b.paused = until
	if until.After(now) {
		b.lossy = true
	}
	b.notePause(now)
}

// notePause has the log say when a pause begins and when it ends; the lock is held.
func (b *Baseline) notePause(now time.Time) {
	paused := b.pausedAt(now)
	if paused == b.pausing {
		return
	}
	b.pausing = paused
	if paused {
		b.cfg.Logger.Warn("a coordinator has this host learn nothing", "until", b.paused.UTC().Format(time.RFC3339))
		return
	}
	b.cfg.Logger.Info("this host learns again")
}

func (b *Baseline) pausedAt(now time.Time) bool { return now.Before(b.paused) }

// Unlearn makes what matches new again: not known, not seen outside of storylines with findings,
// in no window, and in no pack. So are the behaviours of keys, which the host may not have.
// Counts stay, and are told. It answers how many behaviours the host had, and the kernel's keys
// that must be told again from now on.
func (b *Baseline) Unlearn(match func(event.Behaviour, time.Time) bool, keys ...event.BehaviourKey) (forgot int, kernel []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	named := make(map[event.BehaviourKey]bool, len(keys))
	for _, key := range keys {
		named[key] = true
		b.except(key)
	}
	gone := make(map[*entry]bool)
	for _, e := range b.entries {
		if !named[e.key] && !match(event.Behaviour{Key: e.key, Kind: e.kind, Subject: e.subject, Object: e.object}, time.Unix(0, e.first)) {
			continue
		}
		b.except(e.key)
		b.forget(e)
		gone[e] = true
	}
	for key, e := range b.kept {
		if gone[e] {
			kernel = append(kernel, key)
		}
	}
	return len(gone), kernel
}

// Vouch says that behaviours are ordinary, by the word of a person who looked at a finding of each:
// they are new no more, and are learnt as any other from now on, in storylines with findings too. Else
// what a person calls benign would be found anew each time, since a storyline that is found
// teaches nothing. What a storyline does beside them is judged as before. It answers how many the
// host has.
func (b *Baseline) Vouch(keys ...event.BehaviourKey) (have int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		e := b.entries[key]
		if e == nil {
			continue
		}
		have++
		e.vouched = true
		if !e.clean {
			b.setClean(e, true)
		}
		b.changed[e] = struct{}{}
		b.dirty[key] = struct{}{}
	}
	return have
}

// forget takes from an entry what it taught, and what was said for it.
func (b *Baseline) forget(e *entry) {
	e.vouched = false
	if s := b.subjects[subjectKey{e.kind, e.subject}]; s != nil {
		s.windows = max(s.windows-b.weightOf(e), 0)
	}
	b.setKnown(e, false)
	b.setClean(e, false)
	e.windows, e.weight, e.lastWindow = 0, 0, -1
	e.hours, e.days, e.lastHour = hours{}, 0, 0
	delete(b.touched, e)
	b.changed[e] = struct{}{} // the summary says that it is not known
	b.dirty[e.key] = struct{}{}
}

// What the file keeps of it, in bucket "meta": keys of 16 bytes, in order, and a time, ns.
var (
	keyExcepted = []byte("excepted")
	keyPaused   = []byte("paused")
)

func (b *Baseline) readLearning(meta *bbolt.Bucket) {
	for raw := meta.Get(keyExcepted); len(raw) >= len(event.BehaviourKey{}) && len(b.excepted) < maxExcepted; {
		b.excepted[event.BehaviourKey(raw[:16])] = struct{}{}
		raw = raw[16:]
	}
	if v := meta.Get(keyPaused); len(v) == 8 {
		b.paused = time.Unix(0, int64(binary.BigEndian.Uint64(v))) //nolint:gosec // written from an int64
	}
}

// learningFile is what writeLearning writes; the lock is held.
func (b *Baseline) learningFile() (excepted []byte, paused int64) {
	keys := make([]event.BehaviourKey, 0, len(b.excepted))
	for key := range b.excepted {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b event.BehaviourKey) int { return bytes.Compare(a[:], b[:]) })
	for _, key := range keys {
		excepted = append(excepted, key[:]...)
	}
	if !b.paused.IsZero() {
		paused = b.paused.UnixNano()
	}
	return excepted, paused
}

func writeLearning(meta *bbolt.Bucket, excepted []byte, paused int64) error {
	if err := meta.Put(keyExcepted, excepted); err != nil {
		return err
	}
	return meta.Put(keyPaused, binary.BigEndian.AppendUint64(nil, uint64(paused))) //nolint:gosec // read as an int64
}
