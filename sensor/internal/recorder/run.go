package recorder

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Run writes what is recorded until done is closed; Close writes the rest.
func (r *Recorder) Run(done <-chan struct{}) {
	if r == nil {
		return
	}
	timer := time.NewTimer(flushAfter)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-r.began:
		}
		timer.Reset(flushAfter)
		select {
		case <-done:
			return
		case <-timer.C:
		case <-r.filled:
		}
		if r.flush() == nil {
			continue
		}
		timer.Reset(retryAfter)
		select {
		case <-done:
			return
		case <-timer.C:
		}
		r.resume()
	}
}

// flush writes all blocks that have a record.
func (r *Recorder) flush() error {
	r.writing.Lock()
	defer r.writing.Unlock()
	for {
		b := r.take()
		if b == nil {
			return nil
		}
		if err := r.disk.write(b.header, b.raw); err != nil {
			r.pause(b, err)
			return err
		}
		if r.disk.full() {
			r.endChapter()
		}
		r.give(b)
	}
}

// take returns the oldest block that has a record.
func (r *Recorder) take() *batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active != nil && r.active.records > 0 && len(r.full) == 0 {
		b := r.active
		r.active = nil
		return b
	}
	if len(r.full) == 0 {
		return nil
	}
	b := r.full[0]
	r.full = append(r.full[:0], r.full[1:]...)
	return b
}

func (r *Recorder) give(b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, b)
}

// endChapter lets the next segment begin with the next block.
func (r *Recorder) endChapter() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn = true
}

// pause drops what waits, as what follows would refer to it, and stops recording.
func (r *Recorder) pause(failed *batch, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = &r.lost.writeFailed
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		r.refused = &r.lost.diskFull
	}
	dropped := []*batch{failed}
	dropped = append(dropped, r.full...)
	if r.active != nil {
		dropped = append(dropped, r.active)
	}
	for _, b := range dropped {
		*r.refused += uint64(b.records)
	}
	r.free = append(r.free, dropped...)
	r.full, r.active, r.turn = nil, nil, true
	if !r.warned {
		r.warned = true
		r.cfg.Logger.Warn("the flight recorder cannot write; it goes on by itself when it can", "error", err)
	}
}

func (r *Recorder) resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = nil
}

// Close records that the sensor stopped, writes what is left and ends the segment.
// Run must have returned. It is idempotent.
func (r *Recorder) Close() error {
	if r == nil {
		return nil
	}
	r.resume()
	r.note(TypeStop, func(*Attrs) {})
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		return nil
	}
	// A disk that refuses is told and counted; it is no reason to end badly.
	_ = r.flush()
	r.writing.Lock()
	defer r.writing.Unlock()
	return r.disk.close()
}
