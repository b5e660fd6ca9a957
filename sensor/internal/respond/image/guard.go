// Package image keeps programs of given content from being executed.
//
// While something is blocked the kernel asks this package before each exec on the
// file systems that it covers (fanotify, FAN_OPEN_EXEC_PERM): the file is hashed
// by the descriptor that the kernel hands over, and exec fails with EPERM before
// anything of it runs. A copy, a link or a new name is the same content. The
// hash is remembered by inode, change time and size, so that a program costs a
// hash once and a look after that; with nothing blocked it costs nothing.
//
// An exec must never hang because of a sensor. An answer is given within
// Config.Patience, if need be "yes"; when the hash then says no, the process is
// told to Config.Late to be killed. A sensor that is stopped or frozen with execs
// waiting is killed by a timer in the kernel (dead.go), and what it held goes on.
//
// Not met: what runs without being executed (a script that is read by its
// interpreter, ld.so PROGRAM, a library), a memfd, file systems that cannot be
// marked, and a file that is exchanged between the answer and the kernel's look
// at it. The sensor sees executions of these too, and kills, after they began.
package image

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Hash is SHA-256 of a whole file.
type Hash = [sha256.Size]byte

var (
	// ErrUnsupported: the kernel or the rights are not there.
	ErrUnsupported = errors.New("this sensor cannot hold executions: it needs CAP_SYS_ADMIN and a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS (Linux 5.0 or newer)")
	// ErrRan: a probe was executed.
	ErrRan = errors.New("the probe program was not kept from running")
)

// Bounds.
const (
	// MaxBytes is the largest file that is hashed; a larger one runs, and is counted.
	MaxBytes = 1 << 30
	// maxCached files are remembered.
	maxCached = 8192
	workers   = 2
	maxQueued = 512
	// settled is how old a change must be to be told from the next by its time: the
	// clock of some file systems ticks every 10 ms.
	settled = 100 * time.Millisecond
)

// Config is what a Guard needs.
type Config struct {
	// Mounts are paths on the file systems to cover.
	Mounts func() ([]string, error)
	// Dir is on a covered file system, for the probe.
	Dir string
	// Late is told of a process that was let through too early; it must not block.
	Late func(pid int, hash Hash)
	// Patience is how long an exec may be held, default 2 s.
	Patience time.Duration
	// Dead is how long the process may be stopped before the kernel ends it, so that
	// nobody waits for it; 0: never.
	Dead   time.Duration
	Logger *slog.Logger
}

// Counters are totals since the start.
type Counters struct {
	Asked, Denied, Hashed, Late, TooLarge, Overrun uint64
}

// Guard holds executions while something is blocked.
type Guard struct {
	cfg Config

	mu      sync.Mutex
	running *session
	covered map[uint64]bool // devices
	missed  []string        // mounts that could not be covered

	blocked atomic.Pointer[map[Hash]int64] // with sizes, -1: not known
	cacheMu sync.Mutex
	cache   map[identity]Hash

	asked, denied, hashed, late, tooLarge, overrun atomic.Uint64
}

// identity of a file's content, as far as the file system tells.
type identity struct {
	dev, ino            uint64
	size, change, write int64
}

func identityOf(st *unix.Stat_t) identity {
	return identity{st.Dev, st.Ino, st.Size, st.Ctim.Nano(), st.Mtim.Nano()}
}

// New changes nothing.
func New(cfg Config) *Guard {
	if cfg.Patience <= 0 {
		cfg.Patience = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Late == nil {
		cfg.Late = func(int, Hash) {}
	}
	return &Guard{cfg: cfg, cache: map[identity]Hash{}}
}

// session is one open fanotify group.
type session struct {
	fd     int
	file   *os.File
	jobs   chan *question
	done   sync.WaitGroup
	disarm func()
	over   atomic.Bool
}

// Set replaces what is blocked; sizes that are not known are -1. Nothing blocked
// closes the group, which is an exact undo.
func (g *Guard) Set(blocked map[Hash]int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.blocked.Store(&blocked)
	if len(blocked) == 0 {
		g.stop()
		return nil
	}
	if g.running == nil {
		if err := g.start(); err != nil {
			return err
		}
	}
	return g.mark()
}

func (g *Guard) start() error {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE|unix.FAN_UNLIMITED_MARKS,
		unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NOATIME)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	// The sensor starts itself as its canary with a vfork, during which the runtime
	// can be at a halt and nobody would answer.
	err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_IGNORED_MASK|unix.FAN_MARK_IGNORED_SURV_MODIFY, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, "/proc/self/exe")
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("%w: leaving the sensor's own program out: %w", ErrUnsupported, err)
	}
	s := &session{fd: fd, file: os.NewFile(uintptr(fd), "fanotify"), jobs: make(chan *question, maxQueued), disarm: func() {}}
	if g.cfg.Dead > 0 {
		if s.disarm, err = deadMan(g.cfg.Dead); err != nil {
			_ = s.file.Close()
			return err
		}
	}
	g.running, g.covered = s, map[uint64]bool{}
	for range workers {
		s.done.Go(func() {
			for q := range s.jobs {
				g.decide(q, s.over.Load)
			}
		})
	}
	s.done.Go(func() {
		defer close(s.jobs)
		g.listen(s)
	})
	return nil
}

// stop lets everybody through who waits: the kernel does when the group closes.
func (g *Guard) stop() {
	if g.running == nil {
		return
	}
	s := g.running
	g.running, g.covered, g.missed = nil, nil, nil
	s.over.Store(true)
	_ = s.file.Close()
	s.disarm()
	s.done.Wait()
}

// Close lifts every block.
func (g *Guard) Close() error { return g.Set(nil) }

// mark covers the file systems that are mounted now.
func (g *Guard) mark() error {
	mounts, err := g.cfg.Mounts()
	if err != nil {
		return fmt.Errorf("listing file systems: %w", err)
	}
	g.missed = nil
	for _, path := range mounts {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || g.covered[st.Dev] {
			continue
		}
		err := unix.FanotifyMark(g.running.fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, path)
		if err != nil {
			g.missed = append(g.missed, fmt.Sprintf("%s (%v)", path, err))
			continue
		}
		g.covered[st.Dev] = true
	}
	if len(g.covered) == 0 {
		return fmt.Errorf("%w: no file system could be covered: %v", ErrUnsupported, g.missed)
	}
	return nil
}

// Refresh covers what was mounted since.
func (g *Guard) Refresh() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running == nil {
		return nil
	}
	return g.mark()
}

// Covered says how many file systems are, and which could not be.
func (g *Guard) Covered() (int, []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.covered), g.missed
}

// Counters are what was done since the start.
func (g *Guard) Counters() Counters {
	return Counters{g.asked.Load(), g.denied.Load(), g.hashed.Load(), g.late.Load(), g.tooLarge.Load(), g.overrun.Load()}
}

const metadataBytes = int(unsafe.Sizeof(unix.FanotifyEventMetadata{}))

// listen reads the kernel's questions until the group closes. It does nothing that
// could wait for another process: not even a log line.
func (g *Guard) listen(s *session) {
	buffer := make([]byte, 64*metadataBytes)
	for {
		n, err := s.file.Read(buffer)
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ETXTBSY) {
			continue // one question could not be put, and the kernel answered it itself
		}
		if err != nil {
			_ = s.file.Close() // whatever it was, nobody waits any longer
			return
		}
		for raw := buffer[:n]; len(raw) >= metadataBytes; {
			m := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&raw[0])) //nolint:gosec // the kernel's layout
			length := int(m.Event_len)
			if length < metadataBytes || length > len(raw) || m.Vers != unix.FANOTIFY_METADATA_VERSION {
				_ = s.file.Close()
				return
			}
			if m.Fd >= 0 {
				g.ask(s, &question{guard: g, group: s.file, fd: int(m.Fd), pid: int(m.Pid)})
			}
			raw = raw[length:]
		}
	}
}

// question is one exec that waits. It is answered once.
type question struct {
	guard    *Guard
	group    *os.File // not its number, which another file has after a close
	fd, pid  int
	answered atomic.Bool
	timer    *time.Timer
}

func (q *question) answer(allow bool) bool {
	if q.answered.Swap(true) {
		return false
	}
	response := unix.FanotifyResponse{Fd: int32(q.fd), Response: unix.FAN_ALLOW} //nolint:gosec // a descriptor
	if !allow {
		response.Response = unix.FAN_DENY
		q.guard.denied.Add(1)
	}
	raw := make([]byte, 8)
	binary.NativeEndian.PutUint32(raw, uint32(response.Fd)) //nolint:gosec // a descriptor
	binary.NativeEndian.PutUint32(raw[4:], response.Response)
	_, _ = q.group.Write(raw) // closed: everybody was let through
	return true
}

func (g *Guard) ask(s *session, q *question) {
	g.asked.Add(1)
	if allow, known := g.quick(q.fd); known {
		q.answer(allow)
		_ = unix.Close(q.fd)
		return
	}
	q.timer = time.AfterFunc(g.cfg.Patience, func() {
		if q.answer(true) {
			g.late.Add(1)
		}
	})
	select {
	case s.jobs <- q:
	default:
		g.overrun.Add(1)
		q.timer.Stop()
		q.answer(true)
		_ = unix.Close(q.fd)
	}
}

// quick answers what needs no reading.
func (g *Guard) quick(fd int) (allow, known bool) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return true, true
	}
	blocked := *g.blocked.Load()
	mayBe := false
	for _, size := range blocked {
		mayBe = mayBe || size < 0 || size == st.Size
	}
	if !mayBe {
		return true, true
	}
	if st.Size > MaxBytes {
		g.tooLarge.Add(1)
		return true, true
	}
	g.cacheMu.Lock()
	hash, cached := g.cache[identityOf(&st)]
	g.cacheMu.Unlock()
	if !cached {
		return false, false
	}
	_, bad := blocked[hash]
	return !bad, true
}

func (g *Guard) decide(q *question, over func() bool) {
	defer func() { _ = unix.Close(q.fd) }()
	defer q.timer.Stop()
	hash, err := g.hash(q.fd, over)
	if err != nil {
		q.answer(true)
		return
	}
	_, bad := (*g.blocked.Load())[hash]
	if !q.answer(!bad) && bad {
		g.cfg.Late(q.pid, hash)
	}
}

var errOver = errors.New("nothing is blocked any more")

// hash reads a file whole and remembers what it read, if the file was at rest.
func (g *Guard) hash(fd int, over func() bool) (Hash, error) {
	var before, after unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return Hash{}, err
	}
	g.hashed.Add(1)
	sum, buffer := sha256.New(), make([]byte, 256<<10)
	for offset := int64(0); offset <= MaxBytes; {
		if over() {
			return Hash{}, errOver
		}
		n, err := unix.Pread(fd, buffer, offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Hash{}, err
		}
		if n == 0 {
			break
		}
		sum.Write(buffer[:n])
		offset += int64(n)
	}
	hash := Hash(sum.Sum(nil))
	if err := unix.Fstat(fd, &after); err != nil {
		return Hash{}, err
	}
	if identityOf(&before) == identityOf(&after) && time.Since(time.Unix(0, after.Ctim.Nano())) > settled {
		g.cacheMu.Lock()
		if len(g.cache) >= maxCached {
			for old := range g.cache {
				delete(g.cache, old) // any: what is used comes back
				break
			}
		}
		g.cache[identityOf(&after)] = hash
		g.cacheMu.Unlock()
	}
	return hash, nil
}
