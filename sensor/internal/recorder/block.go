package recorder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

const (
	formatVersion = 1
	fileMagic     = "VDRECORD"
	fileHeader    = len(fileMagic) + 4
	blockMagic    = 0x31466456 // "VdF1"
	sealMagic     = 0x31536456 // "VdS1"
	blockHeader   = 6*4 + 5*8 + 16
	sealSize      = 2*4 + 3*8

	// blockTarget is where a block is full: larger ones compress hardly better.
	blockTarget = 64 << 10
	// maxRecord bounds one record; what is longer is counted and left out. A block
	// takes one more as long as it is below its target.
	maxRecord = 64 << 10
	maxRaw    = blockTarget + maxRecord
	// blockMore is room for the last record of nearly every block.
	blockMore = 4 << 10
	// maxPayload is maxRaw that zstd cannot make smaller, with its frame.
	maxPayload = maxRaw + 1<<10
	// maxSegment bounds what of a segment is read. The writer ends it far below.
	maxSegment = 16 << 20

	flagChapter = 1 // the block begins a chapter
)

var blockMark = binary.LittleEndian.AppendUint32(nil, blockMagic)

// header is what a block says of itself.
type header struct {
	raw, records     uint32
	opens            bool
	first, chapter   uint64
	bootMin, bootMax uint64
	clock            int64
	boot             [16]byte
}

// appendHeader writes the header of payload, which follows it.
func appendHeader(b []byte, h header, payload []byte) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, blockMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload))) //nolint:gosec // at most maxPayload
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, h.raw)
	b = binary.LittleEndian.AppendUint32(b, h.records)
	flags := uint32(0)
	if h.opens {
		flags |= flagChapter
	}
	b = binary.LittleEndian.AppendUint32(b, flags)
	for _, v := range []uint64{h.first, h.chapter, h.bootMin, h.bootMax, uint64(h.clock)} { //nolint:gosec // bits, not a number
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = append(b, h.boot[:]...)
	crc := crc32.Update(crc32.Checksum(b[at+12:], castagnoli), castagnoli, payload)
	binary.LittleEndian.PutUint32(b[at+8:], crc)
	return b
}

// decodeBlock reads the block at the start of data.
func decodeBlock(data []byte) (h header, payload []byte, ok bool) {
	if len(data) < blockHeader || binary.LittleEndian.Uint32(data) != blockMagic {
		return header{}, nil, false
	}
	size := binary.LittleEndian.Uint32(data[4:])
	if size > maxPayload || uint64(size) > uint64(len(data)-blockHeader) {
		return header{}, nil, false
	}
	data = data[:blockHeader+size]
	if crc32.Checksum(data[12:], castagnoli) != binary.LittleEndian.Uint32(data[8:]) {
		return header{}, nil, false
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(data[at:]) }
	h = header{
		raw: u32(12), records: u32(16), opens: u32(20)&flagChapter != 0,
		first: u64(24), chapter: u64(32), bootMin: u64(40), bootMax: u64(48), clock: int64(u64(56)), //nolint:gosec // bits
	}
	copy(h.boot[:], data[64:])
	if h.raw > maxRaw {
		return header{}, nil, false
	}
	return h, data[blockHeader:], true
}

// wall is the time of day at boot nanoseconds of CLOCK_BOOTTIME, by the block's clock.
func (h header) wall(boot uint64) int64 { return int64(boot) + h.clock } //nolint:gosec // 292 years of uptime fit

// seal is the end of a segment that was ended by will.
type seal struct {
	wallMin, wallMax int64 // of all its records, ns since the epoch
	next             uint64
}

func appendSeal(b []byte, s seal) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, sealMagic)
	b = append(b, 0, 0, 0, 0)
	for _, v := range []uint64{uint64(s.wallMin), uint64(s.wallMax), s.next} { //nolint:gosec // bits
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b
}

// decodeSeal reads the seal that data ends with.
func decodeSeal(data []byte) (seal, bool) {
	if len(data) < sealSize {
		return seal{}, false
	}
	data = data[len(data)-sealSize:]
	if binary.LittleEndian.Uint32(data) != sealMagic || crc32.Checksum(data[8:], castagnoli) != binary.LittleEndian.Uint32(data[4:]) {
		return seal{}, false
	}
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(data[at:]) }
	return seal{wallMin: int64(u64(8)), wallMax: int64(u64(16)), next: u64(24)}, true //nolint:gosec // bits
}

// span is the times of day of a segment's records.
type span struct{ min, max int64 }

var noSpan = span{min: 1<<63 - 1, max: -1 << 63}

func (s span) with(h header) span {
	return span{min: min(s.min, h.wall(h.bootMin)), max: max(s.max, h.wall(h.bootMax))}
}

// outside tells that none of the span lies in from…to; a zero time is no limit.
func (s span) outside(from, to time.Time) bool {
	return !from.IsZero() && s.max < from.UnixNano() || !to.IsZero() && s.min > to.UnixNano()
}

// scan calls each with the blocks of a segment in order, passing over what is
// damaged, and returns where the last good one ends. each ends it by false.
func scan(data []byte, each func(h header, payload []byte) bool) (end int) {
	if versionOf(data) != 0 {
		end = fileHeader
	}
	for off := 0; off < len(data); { // a header that is damaged hides no block
		h, payload, ok := decodeBlock(data[off:])
		if ok {
			off += blockHeader + len(payload)
			end = off
			if !each(h, payload) {
				return end
			}
			continue
		}
		next := bytes.Index(data[off+1:], blockMark)
		if next < 0 {
			break
		}
		off += 1 + next
	}
	return end
}

func appendFileHeader(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(append(b, fileMagic...), formatVersion)
}

// versionOf is the format of a segment, 0 when its header is not to be read.
func versionOf(data []byte) uint32 {
	if len(data) < fileHeader || !bytes.HasPrefix(data, []byte(fileMagic)) {
		return 0
	}
	return binary.LittleEndian.Uint32(data[len(fileMagic):])
}

const suffix = ".rec"

func segmentName(ordinal uint64) string { return fmt.Sprintf("%016x%s", ordinal, suffix) }

func parseSegmentName(name string) (ordinal uint64, ok bool) {
	digits, found := strings.CutSuffix(name, suffix)
	if !found {
		return 0, false
	}
	if n, err := fmt.Sscanf(digits, "%x", &ordinal); n != 1 || err != nil {
		return 0, false
	}
	return ordinal, segmentName(ordinal) == name
}
