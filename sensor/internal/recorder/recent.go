package recorder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Reached is how far a reading of Recent came.
type Reached struct {
	// Oldest is the time of the oldest record that the ring has; zero: it has none.
	Oldest time.Time
	// Covered: every record since then was read, up to what was written when the reading
	// came to it. Zero: not even the newest segment was.
	Covered time.Time
	Damaged uint64
}

// Recent is Read from the newest segment to the oldest, in the order of recording within
// each, for a sensor that reads what it is recording: whoever ends it early has the newest,
// and it holds a window of a segment and not all of it. Records of processes are handed to each
// when wanted says so of their storyline (nil: all of them); the others cost a tenth.
func Recent(ctx context.Context, dir string, from, to time.Time, wanted func(storyline event.ProcessKey) bool, each func(*Record) error) (reached Reached, err error) {
	ordinals, err := list(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return reached, fmt.Errorf("%w in %s", ErrNone, dir)
	}
	if err != nil {
		return reached, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return reached, fmt.Errorf("making a zstd decoder: %w", err)
	}
	defer decoder.Close()
	r := reader{ctx: ctx, decoder: decoder, raw: make([]byte, 0, maxRaw), each: each, words: glossary{wanted: wanted}}
	w := window{buf: make([]byte, 0, windowSize)}
	for _, ordinal := range ordinals {
		if reached.Oldest, err = w.begins(filepath.Join(dir, segmentName(ordinal))); err != nil {
			return reached, err
		}
		if !reached.Oldest.IsZero() {
			break
		}
	}
	for _, ordinal := range slices.Backward(ordinals) {
		began, err := r.recent(&w, filepath.Join(dir, segmentName(ordinal)), from, to)
		reached.Damaged = r.stats.Damaged
		if errors.Is(err, ErrStop) {
			return reached, nil
		}
		if err != nil {
			return reached, err
		}
		if !began.IsZero() {
			reached.Covered = began
		}
	}
	reached.Covered = reached.Oldest
	if from.After(reached.Covered) {
		reached.Covered = from
	}
	return reached, nil
}

// recent reads one segment, and says when it begins; zero when it was passed over.
func (r *reader) recent(w *window, path string, from, to time.Time) (began time.Time, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return began, nil // the ring has moved on
	}
	if err != nil {
		return began, fmt.Errorf("opening a segment: %w", err)
	}
	defer f.Close()
	sealed, closed := sealOf(f)
	if closed && (span{min: sealed.wallMin, max: sealed.wallMax}).outside(from, to) {
		return began, nil
	}
	r.next, r.err = 0, nil
	r.words.forget()
	err = w.scan(f, func(h header, payload []byte) bool {
		if r.err = r.ctx.Err(); r.err != nil {
			return false
		}
		if began.IsZero() {
			began = time.Unix(0, h.wall(h.bootMin)).UTC()
		}
		r.expect(h.first)
		r.block(h, payload)
		r.next = h.first + uint64(h.records)
		return r.err == nil
	})
	if err == nil {
		err = r.err
	}
	if err == nil && closed {
		r.expect(sealed.next)
	}
	return began, err
}

// windowSize holds the largest block twice.
const windowSize = 2 * (blockHeader + maxPayload)

// window is the part of a segment that is looked at.
type window struct{ buf []byte }

// begins is the time of a segment's first block, zero when it has none or is gone.
func (w *window) begins(path string) (began time.Time, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return began, nil
	}
	if err != nil {
		return began, fmt.Errorf("opening a segment: %w", err)
	}
	defer f.Close()
	err = w.scan(f, func(h header, _ []byte) bool {
		began = time.Unix(0, h.wall(h.bootMin)).UTC()
		return false
	})
	return began, err
}

// scan is the function scan over a file. each must not keep the payload.
func (w *window) scan(f *os.File, each func(h header, payload []byte) bool) error {
	w.buf = w.buf[:0]
	in := io.LimitReader(f, maxSegment)
	first, ended := true, false
	for at := 0; ; {
		if !ended && len(w.buf)-at < blockHeader+maxPayload {
			w.buf = w.buf[:copy(w.buf, w.buf[at:])]
			at = 0
			n, err := io.ReadFull(in, w.buf[len(w.buf):cap(w.buf)])
			w.buf = w.buf[:len(w.buf)+n]
			switch {
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				ended = true
			case err != nil:
				return fmt.Errorf("reading a segment: %w", err)
			}
		}
		if first {
			first = false
			if v := versionOf(w.buf); v > formatVersion {
				return fmt.Errorf("%s: %w (format %d, this program reads up to %d)", f.Name(), ErrNewer, v, formatVersion)
			}
		}
		if h, payload, ok := decodeBlock(w.buf[at:]); ok {
			at += blockHeader + len(payload)
			if !each(h, payload) {
				return nil
			}
			continue
		}
		if len(w.buf)-at < len(blockMark) && ended {
			return nil
		}
		// A header that is damaged hides no block.
		switch next := bytes.Index(w.buf[min(at+1, len(w.buf)):], blockMark); {
		case next >= 0:
			at += 1 + next
		case ended:
			return nil
		default:
			at = max(at, len(w.buf)-len(blockMark)+1)
		}
	}
}
