// Package baseline learns what a host normally does: which image starts which,
// who talks to whom at which port, who looks up which domain. It says of every
// observation whether that was ever seen before and how improbable it is.
//
// Invariant: the sum of the counts that Harvest hands out for a behaviour is
// exactly how often it was observed, over any number of harvests and restarts;
// and nothing becomes known by a storyline with findings or in a window with
// losses.
package baseline

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Config is how learning goes. Zero values take the defaults.
type Config struct {
	// Window is the length of a learning window (default 10m): seeing something a
	// thousand times in one counts as seeing it once.
	Window time.Duration
	// KnownWindows is the number of distinct windows that make a behaviour known (default 3).
	KnownWindows int
	// LearnFor is the observed time after which novelty may be a finding: default
	// 24h, negative for at once. Time in which the sensor did not run is not observed.
	LearnFor time.Duration
	// MaxBehaviours bounds memory and file (default 20000). When full, the least
	// recently seen behaviour that is not known goes, else the least recently seen;
	// out of a sample, and never one with counts that no summary told yet. If there
	// is none to go, the new one is not kept and counted as a loss.
	MaxBehaviours int
	// HalfLife is the observed time after which a window counts for half (default 60
	// days): what was seen in three windows of one day, and never again, stops being known
	// after 155 days in which the sensor watched. A machine that is off forgets nothing.
	HalfLife time.Duration
	// FlushEvery is how often changes are written (default 10s); a crash loses at
	// most so much learning.
	FlushEvery time.Duration
	// TaintFor is how long a storyline with findings teaches nothing (default 24h), and
	// SuspectFor one that is only suspect (default 1h).
	TaintFor, SuspectFor time.Duration
	// SummaryBytes is about how much one Harvest hands out at most (default 512
	// KiB, so that it fits a frame); the rest comes with the next.
	SummaryBytes int
	// TellKnownEvery is how often the counts of one known behaviour are handed out
	// (default 1h, negative for with each Harvest): of what a host does all day they
	// would be most of what it sends. What is new, or became known, is told at once.
	TellKnownEvery time.Duration
	// Now is the clock; default time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Window <= 0 {
		c.Window = 10 * time.Minute
	}
	if c.KnownWindows <= 0 {
		c.KnownWindows = 3
	}
	if c.LearnFor == 0 {
		c.LearnFor = 24 * time.Hour
	}
	if c.MaxBehaviours <= 0 {
		c.MaxBehaviours = 20000
	}
	if c.HalfLife <= 0 {
		c.HalfLife = 60 * 24 * time.Hour
	}
	if c.FlushEvery <= 0 {
		c.FlushEvery = 10 * time.Second
	}
	if c.TaintFor <= 0 {
		c.TaintFor = 24 * time.Hour
	}
	if c.SuspectFor <= 0 {
		c.SuspectFor = time.Hour
	}
	if c.SummaryBytes <= 0 {
		c.SummaryBytes = 512 << 10
	}
	if c.TellKnownEvery == 0 {
		c.TellKnownEvery = time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ErrInUse is returned by Open when another process holds the file.
var ErrInUse = errors.New("baseline is used by another sensor")

// kinds is one more than the last event.BehaviourKind.
const kinds = event.BehaviourPrivilege + 1

// maxTainted bounds the remembered storylines with findings; the oldest mark goes first.
const maxTainted = 4096

// Baseline is the stage. Observe is for one goroutine; everything may be called from any.
type Baseline struct {
	cfg  Config
	path string

	mu       sync.Mutex
	entries  map[event.BehaviourKey]*entry
	subjects map[subjectKey]*subject
	objects  map[objectKey]int // distinct subjects
	images   map[string]*image
	edges    [kinds]int // distinct behaviours by kind
	things   [kinds]int // distinct objects by kind
	known    uint64

	window  int64 // index of the current learning window
	lossy   bool  // this window lost events: it teaches nothing
	touched map[*entry]event.ProcessKey
	tainted map[event.ProcessKey]time.Time

	pack     *packed // what peers do; nil: nobody said
	fleet    *packed // how usual things are in the whole fleet; nil: nobody said
	excepted map[event.BehaviourKey]struct{}
	families map[event.BehaviourKey]int // known ones, without versions
	paused   time.Time                  // learns nothing before
	pausing  bool                       // and the log says so

	kept    map[uint64]*entry   // what the kernel counts, by its own keys
	prior   Prior               // nil: nothing is known of other hosts
	changed map[*entry]struct{} // counts that no summary told
	dirty   map[event.BehaviourKey]struct{}
	losses  map[string]uint64 // since the last harvest, by cause

	observed  time.Duration
	faded     time.Duration // observed when the sums were last decayed
	odds      []byte        // detect's calibration, kept for it
	oddTold   []byte        // and the findings of it that were told
	lastTick  time.Time
	harvested time.Time

	db      *bbolt.DB
	writing sync.Mutex // one batch at a time, taken before mu
	stop    chan struct{}
	stopped sync.WaitGroup
	once    sync.Once
	closeE  error
}

// entry is one behaviour.
type entry struct {
	key             event.BehaviourKey
	kind            event.BehaviourKind
	subject, object string
	count, pending  uint64
	first, last     int64 // Unix ns
	windows         uint32
	lastWindow      int64
	weight          float32       // windows, each decayed since it was seen
	seen            time.Duration // observed, as of which weight is
	hours           hours
	days            uint8 // distinct ones in hours, as far as it counts
	lastHour        int64 // of the calendar
	known           bool
	clean           bool  // seen outside of storylines with findings
	told            bool  // a summary named it
	vouched         bool  // a person said that it is ordinary: it is learnt in whatever storyline
	toldAt          int64 // Unix ns of the last summary with its count as known; not kept over a restart
	kept            int   // keys of the kernel's that count for it: while there are any it stays
	rehoured        bool  // an hour was credited while there were
}

// Open reads the baseline at path, or begins one. A file that cannot be read is
// moved aside: learning anew is better than not watching.
func Open(path string, cfg Config) (*Baseline, error) {
	cfg = cfg.withDefaults()
	b := &Baseline{cfg: cfg, path: path, stop: make(chan struct{})}
	b.reset()
	now := cfg.Now()
	b.lastTick, b.harvested = now, now
	if err := b.open(); err != nil {
		return nil, err
	}
	b.window = b.windowOf(now)
	b.stopped.Add(1)
	go b.flushing()
	return b, nil
}

func (b *Baseline) reset() {
	b.entries = map[event.BehaviourKey]*entry{}
	b.subjects = map[subjectKey]*subject{}
	b.objects = map[objectKey]int{}
	b.images = map[string]*image{}
	b.excepted = map[event.BehaviourKey]struct{}{}
	b.families = map[event.BehaviourKey]int{}
	b.touched = map[*entry]event.ProcessKey{}
	b.tainted = map[event.ProcessKey]time.Time{}
	b.kept = map[uint64]*entry{}
	b.changed = map[*entry]struct{}{}
	b.dirty = map[event.BehaviourKey]struct{}{}
	b.losses = map[string]uint64{}
	b.edges, b.things, b.known, b.observed = [kinds]int{}, [kinds]int{}, 0, 0
	b.faded, b.odds, b.oddTold = 0, nil, nil
}

// Observe counts an observation's behaviour and says what was known of it before.
func (b *Baseline) Observe(o *event.Observation) event.Verdict {
	kind, subjectName, objectName, ok := b.behaviourOf(o)
	if !ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.tick(o.Time)
		return event.Verdict{Learning: b.learning(), Paused: b.pausedAt(b.lastTick), Watched: b.observed}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick(o.Time)
	if kind == event.BehaviourFlow {
		objectName = b.collapse(subjectName, objectName)
	}
	key := KeyOf(kind, subjectName, objectName)
	e := b.entries[key]
	b.endPack(o.Time)
	v := event.Verdict{
		Behaviour: event.Behaviour{Key: key, Kind: kind, Subject: subjectName, Object: objectName},
		Tracked:   true, New: e == nil || !e.clean, Learning: b.learning(),
		Paused:   b.pausedAt(b.lastTick),
		Watched:  b.observed,
		HostBits: b.surprise(kind, subjectName, objectName, e),
	}
	b.judge(&v, e, o.Time)
	acting := subjectName
	if kind == event.BehaviourExec {
		acting = objectName
	}
	img := b.images[acting]
	v.ImageNew = img == nil || img.clean == 0
	b.byPack(&v, e, acting)
	fresh := e == nil
	if e != nil {
		v.Known, v.Seen = e.known, e.count
	} else if e = b.admit(kind, key, subjectName, objectName, o.Time); e == nil {
		b.losses["full"]++
		return v
	}
	if fresh {
		b.carry(e, &v, o.Process.Anchor)
	}
	e.count++
	e.pending++
	e.last = max(e.last, o.Time.UnixNano())
	b.changed[e] = struct{}{}
	b.dirty[key] = struct{}{}
	b.learn(e, o.Process.Anchor)
	return v
}

// learn gives the current window to an entry, unless its storyline is marked.
func (b *Baseline) learn(e *entry, anchor event.ProcessKey) {
	if b.pausedAt(b.lastTick) {
		return
	}
	if len(b.tainted) > 0 && !e.vouched {
		if _, bad := b.tainted[anchor]; bad {
			return
		}
	}
	if !e.clean {
		b.setClean(e, true)
	}
	if by, seen := b.touched[e]; !seen {
		b.touched[e] = anchor
	} else if by != anchor {
		b.touched[e] = event.ProcessKey{} // seen in several storylines
	}
}

// MarkTainted says that a storyline has a finding: from now on it teaches
// nothing, and what it alone taught in this window is forgotten.
func (b *Baseline) MarkTainted(anchor event.ProcessKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.distrust(anchor, b.lastTick)
}

// MarkSuspect says that a storyline is odd, though not enough for a finding. It teaches as
// little as one with a finding, so that nobody makes himself known by doing each day a
// little less than what is told; but only for SuspectFor after it was last odd.
func (b *Baseline) MarkSuspect(anchor event.ProcessKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.distrust(anchor, b.lastTick.Add(b.cfg.SuspectFor-b.cfg.TaintFor))
}

// distrust marks a storyline as if it had its finding at a time.
func (b *Baseline) distrust(anchor event.ProcessKey, at time.Time) {
	if anchor == (event.ProcessKey{}) {
		return
	}
	before, marked := b.tainted[anchor]
	if marked && before.After(at) {
		at = before
	}
	if len(b.tainted) >= maxTainted && !marked {
		var oldest event.ProcessKey
		var first time.Time
		for k, t := range b.tainted {
			if first.IsZero() || t.Before(first) {
				oldest, first = k, t
			}
		}
		delete(b.tainted, oldest)
	}
	b.tainted[anchor] = at
	if marked {
		return // since the mark it has touched nothing
	}
	for e, by := range b.touched {
		if by != anchor || e.vouched {
			continue
		}
		delete(b.touched, e)
		if e.windows == 0 {
			b.setClean(e, false)
			b.dirty[e.key] = struct{}{}
		}
	}
}

// MarkLoss says that events of the current window were lost: it teaches nothing.
func (b *Baseline) MarkLoss() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lossy = true
}

// tick moves the observed time and the learning window on.
func (b *Baseline) tick(now time.Time) {
	if step := now.Sub(b.lastTick); step > 0 {
		// A longer gap means that the machine slept or the clock was set.
		b.observed += min(step, max(b.cfg.Window, time.Minute))
		b.lastTick = now
	}
	if b.pausing {
		b.notePause(b.lastTick)
	}
	if w := b.windowOf(now); w > b.window {
		b.settle()
		b.window, b.lossy = w, b.pausedAt(now)
		for anchor, at := range b.tainted {
			if now.Sub(at) > b.cfg.TaintFor {
				delete(b.tainted, anchor)
			}
		}
	}
}

func (b *Baseline) windowOf(t time.Time) int64 { return t.UnixNano() / int64(b.cfg.Window) }

// settle credits the window that ended to what was seen in it.
func (b *Baseline) settle() {
	b.fade()
	began := time.Unix(0, b.window*int64(b.cfg.Window))
	for e := range b.touched {
		if b.lossy || e.lastWindow == b.window {
			continue
		}
		e.windows++
		e.lastWindow = b.window
		e.weight, e.seen = float32(b.weightOf(e)+1), b.observed
		e.credit(began)
		if s := b.subjects[subjectKey{e.kind, e.subject}]; s != nil {
			s.windows++
		}
		if img := b.images[e.subject]; img != nil && img.lastWindow != b.window {
			img.lastWindow = b.window
			img.windows++
		}
		if !e.known && float64(e.weight) >= float64(b.cfg.KnownWindows)-halfWindow {
			b.setKnown(e, true)
			b.changed[e] = struct{}{} // the summary says that it is known now
		}
		b.dirty[e.key] = struct{}{}
	}
	clear(b.touched)
}

func (b *Baseline) learning() bool { return b.observed < b.cfg.LearnFor }

// State is how far learning is.
func (b *Baseline) State() event.BaselineState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state()
}

func (b *Baseline) state() event.BaselineState {
	s := event.BaselineState{Behaviours: uint64(len(b.entries)), Known: b.known, Learning: b.learning(), Confidence: 1}
	if b.cfg.LearnFor > 0 {
		s.Confidence = min(1, float64(b.observed)/float64(b.cfg.LearnFor))
	}
	if s.Behaviours > 0 {
		s.Confidence *= 0.5 + 0.5*float64(s.Known)/float64(s.Behaviours)
	} else {
		s.Confidence = 0
	}
	return s
}

// Close writes what is not yet written. It is idempotent.
func (b *Baseline) Close() error {
	b.once.Do(func() {
		close(b.stop)
		b.stopped.Wait()
		b.mu.Lock()
		b.settle()
		b.mu.Unlock()
		err := b.flush()
		if closeErr := b.db.Close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("closing baseline: %w", closeErr))
		}
		b.closeE = err
	})
	return b.closeE
}
