package enrich

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	maxHashes = 4096
	// hashWait is the longest that a finding waits for its image's hash.
	hashWait = 500 * time.Millisecond
	hashPart = 256 << 10
)

var (
	// errChanged: the file is not, or no longer, the one that was executed.
	errChanged = errors.New("file is not the executed one")
	// errTooLarge: the file is larger than MaxHashBytes.
	errTooLarge = errors.New("file is larger than the limit for hashing")
)

// content names the bytes of a file: the same file seen from another mount
// namespace, or after an unlink of its last name, has the same hash.
type content struct{ device, inode, change, size uint64 }

func contentOf(id event.ImageID) content { return content{id.Device, id.Inode, id.Change, id.Size} }

type hashJob struct {
	id    event.ImageID
	image string
	pid   uint32
}

type hashState struct {
	sum  [32]byte
	ok   bool
	done chan struct{} // closed when sum is final, or there will be none
}

// hashes is the cache of what was hashed, is being, or cannot be.
type hashes struct {
	known  map[content]*hashState
	order  []content // oldest first
	queue  chan hashJob
	urgent chan hashJob
	buffer []byte
}

func newHashes(cfg Config) hashes {
	return hashes{
		known: map[content]*hashState{}, queue: make(chan hashJob, cfg.HashQueue),
		urgent: make(chan hashJob, 64), buffer: make([]byte, hashPart),
	}
}

// wantHash asks for an image's hash; it never waits.
func (e *Enricher) wantHash(p *event.Process, urgent bool) *hashState {
	if p.ImageID.Inode == 0 {
		return nil
	}
	key := contentOf(p.ImageID)
	state := e.hashes.known[key]
	if state != nil && !urgent {
		return state
	}
	job := hashJob{p.ImageID, p.Image, p.Key.PID}
	if state == nil {
		state = &hashState{done: make(chan struct{})}
		if len(e.hashes.order) >= maxHashes {
			delete(e.hashes.known, e.hashes.order[0])
			e.hashes.order = e.hashes.order[1:]
		}
		e.hashes.known[key] = state
		e.hashes.order = append(e.hashes.order, key)
	}
	queue := e.hashes.queue
	if urgent {
		select {
		case <-state.done:
			return state
		default:
			queue = e.hashes.urgent
		}
	}
	select {
	case queue <- job:
	default:
		if !urgent {
			// Forget it, so that the next exec of this image asks again.
			delete(e.hashes.known, key)
			e.hashes.order = e.hashes.order[:len(e.hashes.order)-1]
		}
		e.stats.HashDropped++
	}
	return state
}

// hash does one job and returns the time it took.
func (e *Enricher) hash(ctx context.Context, job hashJob) time.Duration {
	key := contentOf(job.id)
	e.mu.Lock()
	state := e.hashes.known[key]
	e.mu.Unlock()
	if state == nil {
		return 0
	}
	select {
	case <-state.done: // asked for twice, once urgently
		return 0
	default:
	}
	start := time.Now()
	sum, err := e.hashFile(ctx, job)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.stats.HashRefused++
		e.cfg.Logger.Debug("hashing image", "image", job.image, "error", err)
		if ctx.Err() == nil && !errors.Is(err, errTooLarge) {
			delete(e.hashes.known, key) // the next process with this image may be readable
		}
	} else {
		state.sum, state.ok = sum, true
	}
	close(state.done)
	return time.Since(start)
}

// hashFile reads the executed file: by the process, which reaches it in any mount
// namespace and after its deletion; else by its path.
func (e *Enricher) hashFile(ctx context.Context, job hashJob) ([32]byte, error) {
	sum, err := e.hashPath(ctx, procPath(e.cfg.Proc, job.pid, "exe"), job.id)
	if err == nil || errors.Is(err, errTooLarge) || ctx.Err() != nil {
		return sum, err
	}
	if byPath, pathErr := e.hashPath(ctx, job.image, job.id); pathErr == nil {
		return byPath, nil
	}
	return sum, err
}

func (e *Enricher) hashPath(ctx context.Context, path string, id event.ImageID) ([32]byte, error) {
	var sum [32]byte
	// O_NONBLOCK: the path may be a FIFO by now.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return sum, fmt.Errorf("opening image: %w", err)
	}
	defer file.Close()
	if err := sameFile(file, id); err != nil {
		return sum, err
	}
	if id.Size > uint64(e.cfg.MaxHashBytes) { //nolint:gosec // positive by withDefaults
		return sum, errTooLarge
	}
	digest := sha256.New()
	for read := int64(0); read <= e.cfg.MaxHashBytes; {
		if ctx.Err() != nil {
			return sum, ctx.Err()
		}
		n, err := file.Read(e.hashes.buffer)
		digest.Write(e.hashes.buffer[:n])
		read += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sum, fmt.Errorf("reading image: %w", err)
		}
	}
	if err := sameFile(file, id); err != nil {
		return sum, err
	}
	digest.Sum(sum[:0])
	return sum, nil
}

// sameFile checks an open file against an identity. overlayfs and btrfs show user
// space another device number than the kernel's own (a pseudo device for each
// layer or subvolume), so there inode, change time and size must do.
func sameFile(file *os.File, id event.ImageID) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil { //nolint:gosec // a descriptor fits
		return fmt.Errorf("looking at image: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Ino != id.Inode || changeTime(&st) != id.Change || uint64(st.Size) != id.Size { //nolint:gosec // not negative
		return errChanged
	}
	if kernelDevice(st.Dev) == id.Device {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil { //nolint:gosec // a descriptor fits
		return fmt.Errorf("looking at image's file system: %w", err)
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC || fs.Type == unix.BTRFS_SUPER_MAGIC {
		return nil
	}
	return errChanged
}

// hashed is a node's process with its hash, as soon as there is one.
func (e *Enricher) hashed(n *node) *event.Process {
	if n.proc.Hashed || n.proc.ImageID.Inode == 0 {
		return n.proc
	}
	if state := e.hashes.known[contentOf(n.proc.ImageID)]; state != nil && state.ok {
		n.replace(func(p *event.Process) { p.SHA256, p.Hashed = state.sum, true })
	}
	return n.proc
}

// WithHashes is p with its image's hash, waited for up to 500 ms, and with those
// hashes of its ancestors that are there. It needs Run, and must not be called
// from the event path.
func (e *Enricher) WithHashes(ctx context.Context, p *event.Process) *event.Process {
	if p == nil {
		return nil
	}
	e.mu.Lock()
	var state *hashState
	if !p.Hashed {
		state = e.wantHash(p, true)
	}
	e.mu.Unlock()
	if state != nil {
		timer := time.NewTimer(hashWait)
		defer timer.Stop()
		select {
		case <-state.done:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fill(p, 0)
}

// fill copies the chain with the hashes that are known; unchanged tails are shared.
func (e *Enricher) fill(p *event.Process, depth int) *event.Process {
	if p == nil || depth > 2*maxDepth {
		return p
	}
	parent := e.fill(p.Parent, depth+1)
	var state *hashState
	if !p.Hashed && p.ImageID.Inode != 0 {
		state = e.hashes.known[contentOf(p.ImageID)]
	}
	if parent == p.Parent && (state == nil || !state.ok) {
		return p
	}
	c := *p
	c.Parent = parent
	if state != nil && state.ok {
		c.SHA256, c.Hashed = state.sum, true
	}
	return &c
}
