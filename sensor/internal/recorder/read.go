package recorder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

var (
	// ErrNone is returned by Read when there is no folder of recordings.
	ErrNone = errors.New("no recordings")
	// ErrStop ends Read early and is no error of it.
	ErrStop = errors.New("enough read")
	// ErrNewer is returned by Read for a segment of a later format.
	ErrNewer = errors.New("recorded by a newer version")
)

// Stats is what Read could not read.
type Stats struct {
	Damaged uint64 // records in damaged blocks
}

// Read calls each with the records in dir in the order in which they were recorded;
// a Record is each's to keep. A sensor may be recording there: Read sees what was
// in the files when it came to them. Segments that have nothing between from and to
// (zero: no limit) are passed over; the records themselves are not looked at.
func Read(ctx context.Context, dir string, from, to time.Time, each func(*Record) error) (Stats, error) {
	ordinals, err := list(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Stats{}, fmt.Errorf("%w in %s", ErrNone, dir)
	}
	if err != nil {
		return Stats{}, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return Stats{}, fmt.Errorf("making a zstd decoder: %w", err)
	}
	defer decoder.Close()
	r := reader{ctx: ctx, decoder: decoder, raw: make([]byte, 0, maxRaw), each: each}
	if len(ordinals) > 0 && ordinals[0] == 1 {
		r.next = 1 // nothing was dropped yet
	}
	for _, ordinal := range ordinals {
		if err = r.file(filepath.Join(dir, segmentName(ordinal)), from, to); err != nil {
			break
		}
	}
	if errors.Is(err, ErrStop) {
		err = nil
	}
	return r.stats, err
}

// reader goes through segments; what it remembers is a chapter and a segment.
type reader struct {
	ctx     context.Context
	decoder *zstd.Decoder
	raw     []byte
	data    []byte
	each    func(*Record) error
	words   glossary
	next    uint64 // index of the next record, 0 when it is not known
	stats   Stats
	err     error
}

func (r *reader) file(path string, from, to time.Time) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		r.next = 0 // the ring has moved on
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening a segment: %w", err)
	}
	defer f.Close()
	sealed, closed := sealOf(f)
	if closed && (span{min: sealed.wallMin, max: sealed.wallMax}).outside(from, to) {
		r.next = sealed.next
		return nil
	}
	if r.data, err = readInto(r.data, f); err != nil {
		return fmt.Errorf("reading a segment: %w", err)
	}
	if v := versionOf(r.data); v > formatVersion {
		return fmt.Errorf("%s: %w (format %d, this program reads up to %d): use the installed vedette-sensor", path, ErrNewer, v, formatVersion)
	}
	r.segment(r.data)
	if closed && r.err == nil {
		r.expect(sealed.next)
	}
	return r.err
}

// segment reads one segment's bytes.
func (r *reader) segment(data []byte) {
	r.words.forget()
	scan(data, func(h header, payload []byte) bool {
		if r.err = r.ctx.Err(); r.err == nil {
			r.expect(h.first)
			r.block(h, payload)
			r.next = h.first + uint64(h.records)
		}
		return r.err == nil
	})
}

// expect counts what lies between the record that was read last and the next one.
func (r *reader) expect(next uint64) {
	if r.next != 0 && next > r.next {
		r.stats.Damaged += next - r.next
	}
}

func (r *reader) block(h header, payload []byte) {
	raw, err := r.decoder.DecodeAll(payload, r.raw[:0])
	n := uint32(0)
	if err == nil {
		n, err = r.words.records(h, raw, func(rec *Record) bool {
			r.err = r.each(rec)
			return r.err == nil
		})
	}
	if err != nil && h.records > n {
		r.stats.Damaged += uint64(h.records - n)
	}
}

// sealOf reads the seal of a file, if it has one.
func sealOf(f *os.File) (seal, bool) {
	info, err := f.Stat()
	if err != nil || info.Size() < sealSize {
		return seal{}, false
	}
	tail := make([]byte, sealSize)
	if _, err := f.ReadAt(tail, info.Size()-sealSize); err != nil {
		return seal{}, false
	}
	return decodeSeal(tail)
}

// readInto is io.ReadAll into a buffer that is there, and bounded.
func readInto(buf []byte, from io.Reader) ([]byte, error) {
	buf = buf[:0]
	limited := io.LimitReader(from, maxSegment)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, max(len(buf), 256<<10))...)[:len(buf)]
		}
		n, err := limited.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}
