package isolation

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// flood sends on many paths at once, without a pause, and counts at the other side
// what arrived of each path in each phase. A packet belongs to the phase in which it
// was made, which it says itself.
type flood struct {
	paths    []*flow
	phase    atomic.Uint32
	began    atomic.Int64  // of the phase, Unix time, ns
	ready    chan struct{} // closed when all paths are known
	quit     chan struct{}
	senders  sync.WaitGroup
	counters sync.WaitGroup
	cleanup  []func()
	// pace is how often each path sends; 0 is as often as it can.
	pace time.Duration
}

const maxPhases = 8

// flow is a path of a flood.
type flow struct {
	path
	// limit is how many packets are sent in a phase; 0 is any number.
	limit uint64
	// sealed tells this path's frames when they cannot be read.
	sealed func(frame []byte) bool

	sent, arrived [maxPhases]atomic.Uint64
	lastArrived   atomic.Int64 // Unix time, ns
	firstArrived  [maxPhases]atomic.Pointer[string]
	failed        atomic.Pointer[error]
}

func markerOf(phase uint32, index int) []byte { return fmt.Appendf(nil, "<Vd%d/%03d>", phase, index) }

const markerLength = len("<Vd0/000>")

// count books a frame that arrived at a place.
func (f *flood) count(place string, frame []byte) {
	at := bytes.Index(frame, []byte("<Vd"))
	if at >= 0 && len(frame) >= at+markerLength {
		var phase uint32
		var index int
		if n, _ := fmt.Sscanf(string(frame[at:at+markerLength]), "<Vd%d/%d>", &phase, &index); n == 2 && index < len(f.paths) && phase < maxPhases {
			// A connection that is let go on sends again what it could not before.
			if now := f.phase.Load(); now >= phaseEnding && phase < phaseEnding {
				return
			}
			now := time.Now().UnixNano()
			f.paths[index].lastArrived.Store(now)
			if f.paths[index].arrived[phase].Add(1) == 1 {
				said := fmt.Sprintf("the first at %s, %v into the phase %q, %d bytes", place,
					time.Duration(now-f.began.Load()).Round(time.Millisecond), phaseNames[f.phase.Load()], len(frame))
				f.paths[index].firstArrived[phase].Store(&said)
			}
		}
		return
	}
	for _, p := range f.paths {
		if p.sealed != nil && p.sealed(frame) {
			p.arrived[f.phase.Load()].Add(1)
			return
		}
	}
}

// newEmptyFlood waits for its paths, and for start.
func newEmptyFlood() *flood { return &flood{ready: make(chan struct{}), quit: make(chan struct{})} }

// counting begins to count when all paths are known.
func (f *flood) counting(count func()) {
	f.counters.Go(func() {
		select {
		case <-f.ready:
			count()
		case <-f.quit:
		}
	})
}

// watch counts what arrives at a device until the flood ends.
func (f *flood) watch(t testing.TB, n *netnstest.Namespace, device string) {
	capture := netnstest.NewCapture(t, n, device)
	f.counting(func() { capture.Each(f.quit, func(frame []byte) { f.count(device, frame) }) })
}

// from sends on the paths that begin in one namespace, from inside it.
func (f *flood) from(n *netnstest.Namespace) {
	var here []int
	for i, p := range f.paths {
		if p.path.from == n {
			here = append(here, i)
		}
	}
	// A namespace with few paths would take as much of the processors as the one with
	// most of them.
	var pace <-chan time.Time
	const few = 10
	every := f.pace
	if every == 0 && len(here) < few {
		every = time.Millisecond
	}
	if every > 0 {
		ticker := time.NewTicker(every)
		f.cleanup = append(f.cleanup, ticker.Stop)
		pace = ticker.C
	}
	f.senders.Go(func() {
		_ = n.Do(func() error {
			for {
				if pace != nil {
					<-pace
				}
				for _, i := range here {
					select {
					case <-f.quit:
						return nil
					default:
						f.send(i)
					}
				}
			}
		})
	})
}

func (f *flood) send(i int) {
	p, phase := f.paths[i], f.phase.Load()
	if p.limit > 0 && p.sent[phase].Load() >= p.limit {
		return
	}
	p.sent[phase].Add(1)
	if err := p.path.send(markerOf(phase, i)); err != nil && !tolerable(err) {
		p.failed.CompareAndSwap(nil, &err)
	}
}

// tolerable are the errors by which a kernel tells a sender that a packet was
// dropped, that the other side has not answered, or that a device is not up yet.
func tolerable(err error) bool {
	for _, errno := range []error{
		unix.ENOBUFS, unix.EPERM, unix.EAGAIN, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENODEV, unix.ENXIO,
		unix.ECONNREFUSED, unix.ETIMEDOUT, unix.ECONNRESET, unix.EPIPE, unix.EADDRNOTAVAIL, unix.EADDRINUSE,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	var deadline interface{ Timeout() bool }
	return errors.As(err, &deadline) && deadline.Timeout()
}

// start sends from each namespace that paths begin in.
func (f *flood) start() {
	close(f.ready)
	seen := map[*netnstest.Namespace]bool{}
	for _, p := range f.paths {
		if !seen[p.path.from] {
			seen[p.path.from] = true
			f.from(p.path.from)
		}
	}
}

// enter begins a phase.
func (f *flood) enter(phase uint32) {
	f.began.Store(time.Now().UnixNano())
	f.phase.Store(phase)
}

// during sends in a phase for a while.
func (f *flood) during(phase uint32, d time.Duration) {
	f.enter(phase)
	wait := time.NewTimer(d)
	defer wait.Stop()
	<-wait.C
}

// stop ends all of it; what was on the way is counted.
func (f *flood) stop() {
	close(f.quit)
	f.senders.Wait()
	f.counters.Wait()
	for _, end := range f.cleanup {
		end()
	}
}
