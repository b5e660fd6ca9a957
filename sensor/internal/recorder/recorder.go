package recorder

import (
	"encoding/binary"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// flushAfter is the longest that a record waits to be written: on a busy machine,
	// and with what writing takes, it stays below the second that is promised.
	flushAfter = 500 * time.Millisecond
	// retryAfter is how long recording pauses after the disk refused.
	retryAfter = time.Second
	// queueBlocks bounds what waits for the disk: 1 MiB, some 20,000 short events, which is
	// what a burst leaves in the rings until they are read.
	queueBlocks = 16
)

// Config is what a Recorder can be told. Zero values take the defaults.
type Config struct {
	// MaxBytes bounds the folder (default 256 MiB, at least MinBytes).
	MaxBytes int64
	// Boot is the kernel's boot id.
	Boot [16]byte
	// Version is the sensor's, told in its start record.
	Version string
	// Now and Boottime are the clocks; default the machine's. Boottime is CLOCK_BOOTTIME in ns.
	Now      func() time.Time
	Boottime func() uint64
	// Logger hears once of each trouble with the disk; default: nobody.
	Logger *slog.Logger
}

// MinBytes is the smallest ring: what waits for the disk fits into it.
const MinBytes = 1 << 20

func (c Config) withDefaults() Config {
	if c.MaxBytes <= 0 {
		c.MaxBytes = 256 << 20
	}
	c.MaxBytes = max(c.MaxBytes, MinBytes)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Boottime == nil {
		c.Boottime = boottime
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func boottime() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0 // only without CLOCK_BOOTTIME, which every kernel with BTF has
	}
	return uint64(ts.Nano()) //nolint:gosec // never negative
}

// batch is a block in the making.
type batch struct {
	header
	raw  []byte
	last uint64 // boot time of the last record
}

// recentProcesses is how many processes are known by their address alone: what a short
// life tells, and who starts it, need no second look at what they are.
const recentProcesses = 8

// described is a process, which never changes, and its description's id.
type described struct {
	process *event.Process
	id      uint64
}

// Recorder is the stage. A nil Recorder records nothing and loses nothing.
// Record, NoteLosses and Losses may be called from any goroutine.
type Recorder struct {
	cfg    Config
	began  chan struct{} // a block has its first record
	filled chan struct{} // a block is full
	seed   maphash.Seed

	mu      sync.Mutex // guards what follows; held for no longer than encoding takes
	active  *batch
	full    []*batch // oldest first
	free    []*batch
	made    int
	attrs   Attrs
	scratch []byte
	ids     map[uint64]uint64          // of a description's hash, in this chapter
	recent  [recentProcesses]described // the last of them, the next place after the newest
	next    int
	bytes   int // of the descriptions
	chapter uint64
	turn    bool    // the next block begins a chapter
	refused *uint64 // counts while recording pauses for the disk, else nil
	warned  bool
	closed  bool
	lost    losses
	told    map[[2]string]uint64 // losses that are in records, cumulative

	writing sync.Mutex // guards disk: Run's, and then Close's
	disk    *disk
}

// Open makes a Recorder that records in dir. It does not fail: a disk that refuses
// is tried again and again, and what is lost meanwhile is counted.
func Open(dir string, cfg Config) *Recorder {
	cfg = cfg.withDefaults()
	r := &Recorder{
		cfg:    cfg,
		began:  make(chan struct{}, 1),
		filled: make(chan struct{}, 1),
		seed:   maphash.MakeSeed(),
		ids:    map[uint64]uint64{},
		told:   map[[2]string]uint64{},
		turn:   true,
		disk:   newDisk(dir, cfg),
	}
	if err := r.disk.prepare(); err != nil {
		cfg.Logger.Warn("the flight recorder's folder is not to be used yet", "error", err)
	}
	if u := r.disk.unclean; u != nil {
		r.lost.cut = u.cut
		r.note(TypeUncleanStop, func(a *Attrs) {
			if u.found {
				a.Text("last_record", time.Unix(0, u.last.wall(u.last.bootMax)).UTC().Format(time.RFC3339Nano))
				a.Bool("same_boot", u.last.boot == cfg.Boot)
			}
		})
	}
	r.note(TypeStart, func(a *Attrs) { a.Text("version", cfg.Version) })
	return r
}

// Record takes an event that left the kernel, with its process and flow as far as
// they are known. It never waits: what finds no room is counted.
func (r *Recorder) Record(ev event.Event, p *event.Process, f *event.Flow) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || !r.ready(true) {
		return
	}
	h := ev.Head()
	r.attrs.reset()
	kind := describe(ev, &r.attrs)
	if p == nil {
		describeKey(h, &r.attrs)
	}
	describeParent(kind, p, &r.attrs)
	if f == nil {
		f = r.attrs.flow
	}
	r.write(kind, h.Time, &h.Process, p, f)
}

// note records what the recorder says of itself. Unlike an event it is not counted
// when there is no room.
func (r *Recorder) note(kind string, fill func(*Attrs)) (taken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.noteLocked(kind, fill)
}

func (r *Recorder) noteLocked(kind string, fill func(*Attrs)) (taken bool) {
	if r.closed || !r.ready(false) {
		return false
	}
	r.attrs.reset()
	fill(&r.attrs)
	r.write(kind, r.cfg.Boottime(), nil, nil, nil)
	return true
}

// ready finds a block to write to.
func (r *Recorder) ready(count bool) bool {
	lost := &r.lost.queueFull
	switch {
	case r.refused != nil:
		lost = r.refused
	case r.active != nil:
		return true
	case len(r.free) > 0:
		r.active, r.free = r.free[len(r.free)-1], r.free[:len(r.free)-1]
	case r.made < queueBlocks:
		r.made++
		r.active = &batch{raw: make([]byte, 0, blockTarget+blockMore)}
	}
	if r.active == nil {
		if count {
			*lost++
		}
		return false
	}
	r.begin()
	return true
}

// begin makes the active block a new one.
func (r *Recorder) begin() {
	now := r.cfg.Boottime()
	if r.turn || len(r.ids) >= maxDescriptions || r.bytes >= maxDescribed {
		clear(r.ids)
		r.recent = [recentProcesses]described{}
		r.bytes, r.turn = 0, true
		r.chapter = max(r.chapter+1, now) // another one than before, on this boot and all earlier ones
	}
	*r.active = batch{raw: r.active.raw[:0], header: header{
		opens: r.turn, chapter: r.chapter, boot: r.cfg.Boot,
		clock: r.cfg.Now().UnixNano() - int64(now), //nolint:gosec // 292 years of uptime fit
	}}
	r.turn = false
	signal(r.began)
}

// write encodes a record into the active block.
func (r *Recorder) write(kind string, boot uint64, key *event.ProcessKey, p *event.Process, f *event.Flow) {
	b := r.active
	at := len(b.raw)
	raw := appendText(append(b.raw, 0, 0, 0, 0), kind)
	raw = binary.AppendVarint(raw, int64(boot-b.last)) //nolint:gosec // wraps back in the reader
	has := len(raw)
	raw = append(raw, 0)
	fresh := uint64(0)
	if key != nil {
		raw[has] |= hasProcess
		raw, fresh = r.process(raw, has, *key, p)
	}
	if p != nil && p.Anchor != (event.ProcessKey{}) {
		raw[has] |= hasStoryline
		raw = appendKey(raw, p.Anchor)
	}
	if f != nil {
		raw[has] |= hasFlow
		raw = appendFlow(raw, f)
	}
	raw = append(append(raw, r.attrs.buf...), 0)
	size := len(raw) - at - 4
	if size > maxRecord-4 {
		r.lost.tooLarge++
		r.forget(fresh)
		return
	}
	binary.LittleEndian.PutUint32(raw[at:], uint32(size)) //nolint:gosec // checked
	if b.records == 0 {
		b.bootMin = boot
	}
	b.raw, b.last = raw, boot
	b.records++
	b.bootMin, b.bootMax = min(b.bootMin, boot), max(b.bootMax, boot)
	if len(raw) >= blockTarget {
		r.push()
	}
}

// process writes who acted, and describes it when this chapter has not yet;
// fresh is then what ids knows the description by.
func (r *Recorder) process(raw []byte, has int, key event.ProcessKey, p *event.Process) (_ []byte, fresh uint64) {
	id := r.recently(p)
	if p != nil && id == 0 {
		r.scratch = appendProcess(r.scratch[:0], p)
		size := len(r.scratch)
		// Described anew in another storyline: who reads one of them reads nothing of the other.
		r.scratch = appendKey(r.scratch, p.Anchor)
		sum := maphash.Bytes(r.seed, r.scratch)
		r.scratch = r.scratch[:size]
		var known bool
		if id, known = r.ids[sum]; !known {
			id = uint64(len(r.ids)) + 1
			r.ids[sum] = id
			r.bytes += len(r.scratch)
			raw[has] |= hasDescription
			fresh = sum
		}
		r.recent[r.next], r.next = described{p, id}, (r.next+1)%recentProcesses
	}
	raw = binary.AppendUvarint(raw, id)
	raw = appendKey(raw, key)
	if raw[has]&hasDescription != 0 {
		raw = append(binary.AppendUvarint(raw, uint64(len(r.scratch))), r.scratch...)
	}
	return raw, fresh
}

func (r *Recorder) recently(p *event.Process) (id uint64) {
	for i := range r.recent {
		if p != nil && r.recent[i].process == p {
			return r.recent[i].id
		}
	}
	return 0
}

// forget takes back a description that did not get into the block.
func (r *Recorder) forget(sum uint64) {
	for i := range r.recent {
		if r.recent[i].id == r.ids[sum] {
			r.recent[i] = described{}
		}
	}
	delete(r.ids, sum)
}

func (r *Recorder) push() {
	r.full, r.active = append(r.full, r.active), nil
	signal(r.filled)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
