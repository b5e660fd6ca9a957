package recorder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// zstdWindow is more than a block: a larger one would only cost memory.
const zstdWindow = 128 << 10

// disk is the ring of segments. It is for one goroutine at a time.
type disk struct {
	dir     string
	max     int64
	encoder *zstd.Encoder
	out     []byte

	ready    bool
	segments []segment // oldest first; the last one may be open
	total    int64
	file     *os.File // nil: the next block begins a segment
	span     span     // of the open one
	next     uint64   // index of the next record; the ring's first has 1
	unclean  *unclean // how the last run ended, when it was not by will
}

type segment struct {
	ordinal uint64
	size    int64 // without its seal while it is open
}

// unclean is where a run ended that did not end by will.
type unclean struct {
	last  header
	found bool   // whether there was any block
	cut   uint64 // 1 when a torn tail was cut
}

func newDisk(dir string, cfg Config) *disk {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(zstdWindow), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		panic(fmt.Errorf("making a zstd encoder of constants: %w", err))
	}
	return &disk{dir: dir, max: cfg.MaxBytes, encoder: encoder, next: 1}
}

// segmentSize: small enough that dropping one costs little of what is allowed.
func (d *disk) segmentSize() int64 { return min(max(d.max/64, 64<<10), 4<<20) }

// full tells that the next chapter belongs into another segment.
func (d *disk) full() bool {
	return d.file == nil || d.segments[len(d.segments)-1].size >= d.segmentSize()
}

// prepare finds what earlier runs left, cuts a torn tail and goes on behind it.
func (d *disk) prepare() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("making the recorder's folder: %w", err)
	}
	segments, err := list(d.dir)
	if err != nil {
		return err
	}
	d.segments, d.total = nil, 0
	for _, ordinal := range segments {
		info, err := os.Stat(d.path(ordinal))
		if err != nil {
			return fmt.Errorf("looking at a segment: %w", err)
		}
		d.segments = append(d.segments, segment{ordinal: ordinal, size: info.Size()})
		d.total += info.Size()
	}
	for i := len(d.segments) - 1; i >= 0; i-- {
		found, err := d.recover(i)
		if err != nil {
			return err
		}
		if found {
			break
		}
	}
	d.ready = true
	return nil
}

// list returns the ordinals of the segments in dir, oldest first.
func list(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing the recorder's folder: %w", err)
	}
	var all []uint64
	for _, e := range entries {
		if ordinal, ok := parseSegmentName(e.Name()); ok && e.Type().IsRegular() {
			all = append(all, ordinal)
		}
	}
	slices.Sort(all)
	return all, nil
}

func (d *disk) path(ordinal uint64) string { return filepath.Join(d.dir, segmentName(ordinal)) }

// recover learns from a segment where the last run ended, and goes on in it when it
// is the newest. One without a good block, or of another format, is left as it is.
func (d *disk) recover(i int) (found bool, err error) {
	seg := &d.segments[i]
	f, err := os.OpenFile(d.path(seg.ordinal), os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("opening a segment: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSegment))
	if err != nil {
		return false, errors.Join(fmt.Errorf("reading a segment: %w", err), f.Close())
	}
	newest := i == len(d.segments)-1
	var last header
	span := noSpan
	end := scan(data, func(h header, _ []byte) bool {
		last, span, found = h, span.with(h), true
		return true
	})
	if found {
		d.next = last.first + uint64(last.records)
	}
	if sealed, clean := decodeSeal(data); clean {
		d.next, found = max(d.next, sealed.next), true
	} else if newest && d.unclean == nil {
		d.unclean = &unclean{}
		if end < len(data) {
			d.unclean.cut = 1
		}
	}
	if u := d.unclean; u != nil && !u.found {
		u.last, u.found = last, found
	}
	if !newest || end <= fileHeader || versionOf(data) != formatVersion || seg.size > maxSegment {
		return found, f.Close()
	}
	if err := f.Truncate(int64(end)); err != nil {
		return false, errors.Join(fmt.Errorf("cutting a torn tail: %w", err), f.Close())
	}
	d.total -= seg.size - int64(end)
	seg.size = int64(end)
	d.file, d.span = f, span
	return true, nil
}

// write appends a block. When it returns an error the segment is as it was.
func (d *disk) write(h header, raw []byte) error {
	if !d.ready {
		if err := d.prepare(); err != nil {
			return err
		}
	}
	if d.file != nil && h.opens && d.full() {
		if err := d.seal(); err != nil {
			return err
		}
	}
	h.raw, h.first = uint32(len(raw)), d.next //nolint:gosec // at most maxRaw
	d.out = slices.Grow(d.out[:0], blockHeader)[:blockHeader]
	d.out = d.encoder.EncodeAll(raw, d.out)
	appendHeader(d.out[:0], h, d.out[blockHeader:])
	if err := d.bound(int64(len(d.out) + fileHeader + sealSize)); err != nil {
		return err
	}
	if err := d.open(); err != nil {
		return err
	}
	if err := d.append(d.out); err != nil {
		return err
	}
	d.span, d.next = d.span.with(h), d.next+uint64(h.records)
	return nil
}

// bound drops the oldest segments until more fits beside the rest.
func (d *disk) bound(more int64) error {
	kept := 0 // of those that are left, the open one is not dropped
	if d.file != nil {
		kept = 1
	}
	for d.total+more > d.max && len(d.segments) > kept {
		oldest := d.segments[0]
		if err := os.Remove(d.path(oldest.ordinal)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("dropping the oldest segment: %w", err)
		}
		d.segments = d.segments[1:]
		d.total -= oldest.size
	}
	return nil
}

// open makes a segment when none is open.
func (d *disk) open() error {
	if d.file != nil {
		return nil
	}
	ordinal := uint64(1)
	if n := len(d.segments); n > 0 {
		ordinal = d.segments[n-1].ordinal + 1
	}
	f, err := os.OpenFile(d.path(ordinal), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making a segment: %w", err)
	}
	d.segments = append(d.segments, segment{ordinal: ordinal})
	d.file, d.span = f, noSpan
	return d.append(appendFileHeader(nil))
}

// append writes to the open segment, wholly or not at all.
func (d *disk) append(data []byte) error {
	seg := &d.segments[len(d.segments)-1]
	if _, err := d.file.WriteAt(data, seg.size); err != nil {
		err = fmt.Errorf("writing a segment: %w", err)
		undo := d.file.Truncate(seg.size)
		if seg.size <= int64(fileHeader) || undo != nil {
			undo = errors.Join(undo, d.leave())
		}
		return errors.Join(err, undo)
	}
	seg.size += int64(len(data))
	d.total += int64(len(data))
	return nil
}

// leave gives up the open segment: an empty one is removed, another kept as it is.
func (d *disk) leave() error {
	n := len(d.segments) - 1
	seg := d.segments[n]
	err := d.file.Close()
	d.file = nil
	if seg.size <= int64(fileHeader) {
		d.segments, d.total = d.segments[:n], d.total-seg.size
		err = errors.Join(err, os.Remove(d.path(seg.ordinal)))
	}
	return err
}

// seal ends the open segment by will.
func (d *disk) seal() error {
	err := d.append(appendSeal(nil, seal{wallMin: d.span.min, wallMax: d.span.max, next: d.next}))
	if err != nil || d.file == nil {
		return err
	}
	err = d.file.Close()
	d.file = nil
	return err
}

// close ends the segment, and waits until it is on the disk.
func (d *disk) close() error {
	err := d.encoder.Close()
	if d.file == nil {
		return err
	}
	return errors.Join(err, d.file.Sync(), d.seal())
}
