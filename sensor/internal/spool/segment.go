package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A segment file is a header and records, all little endian:
//
//	header  magic[8] class:u32 ordinal:u32 stream[16] firstIndex:u64 crc:u32
//	record  magic:u32 size:u32 crc:u32 sequence:u64 index:u64 payload[size]
//
// A record's crc (Castagnoli) covers all of it but magic and crc. The magic is
// where reading goes on after damage; the index, which counts the class's
// records without a gap, says how many the damage has cost.
const (
	segmentMagic  = "VDSPOOL1"
	headerSize    = 8 + 4 + 4 + 16 + 8 + 4
	recordHeader  = 4 + 4 + 4 + 8 + 8
	maxSegment    = 16 << 20 // read at most; a segment is rotated far below
	maxIndexJump  = 1 << 30
	recordMagicLE = 0x31526456 // "VdR1"
)

var (
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
	recordMagic = binary.LittleEndian.AppendUint32(nil, recordMagicLE)
	errHeader   = errors.New("damaged segment header")
	errRecord   = errors.New("damaged record")
)

type class uint32

const (
	bulk class = iota
	critical
	classes
)

func (c class) String() string { return [...]string{"bulk", "critical"}[c] }

type segmentHeader struct {
	class      class
	ordinal    uint32
	stream     [16]byte
	firstIndex uint64
}

// entry is where a record lies in its segment.
type entry struct {
	sequence uint64
	offset   uint32
	size     uint32 // of the payload
	index    uint32 // in the segment's class, from its first index
}

func encodeHeader(h segmentHeader) []byte {
	buf := append(make([]byte, 0, headerSize), segmentMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(h.class))
	buf = binary.LittleEndian.AppendUint32(buf, h.ordinal)
	buf = append(buf, h.stream[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, h.firstIndex)
	return binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
}

func decodeHeader(data []byte) (segmentHeader, error) {
	if len(data) < headerSize || string(data[:8]) != segmentMagic {
		return segmentHeader{}, errHeader
	}
	data = data[:headerSize]
	if crc32.Checksum(data[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(data[headerSize-4:]) {
		return segmentHeader{}, errHeader
	}
	h := segmentHeader{
		class:      class(binary.LittleEndian.Uint32(data[8:])),
		ordinal:    binary.LittleEndian.Uint32(data[12:]),
		firstIndex: binary.LittleEndian.Uint64(data[32:]),
	}
	copy(h.stream[:], data[16:32])
	if h.class >= classes {
		return segmentHeader{}, errHeader
	}
	return h, nil
}

func encodeRecord(sequence, index uint64, payload []byte) []byte {
	buf := make([]byte, 0, recordHeader+len(payload))
	buf = append(buf, recordMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	buf = append(buf, 0, 0, 0, 0)
	buf = binary.LittleEndian.AppendUint64(buf, sequence)
	buf = binary.LittleEndian.AppendUint64(buf, index)
	buf = append(buf, payload...)
	binary.LittleEndian.PutUint32(buf[8:], recordCRC(buf))
	return buf
}

func recordCRC(record []byte) uint32 {
	return crc32.Update(crc32.Checksum(record[4:8], castagnoli), castagnoli, record[12:])
}

// decodeRecord reads the record at the start of data.
func decodeRecord(data []byte) (sequence, index uint64, payload []byte, err error) {
	if len(data) < recordHeader || binary.LittleEndian.Uint32(data) != recordMagicLE {
		return 0, 0, nil, errRecord
	}
	size := uint64(binary.LittleEndian.Uint32(data[4:]))
	if size > MaxRecord || size > uint64(len(data)-recordHeader) {
		return 0, 0, nil, errRecord
	}
	data = data[:recordHeader+size]
	if recordCRC(data) != binary.LittleEndian.Uint32(data[8:]) {
		return 0, 0, nil, errRecord
	}
	return binary.LittleEndian.Uint64(data[12:]), binary.LittleEndian.Uint64(data[20:]), data[recordHeader:], nil
}

// span is a half-open range of indices.
type span struct{ From, To uint64 }

// without counts what of it lies in none of the spans, which do not overlap.
func (s span) without(spans []span) uint64 {
	n := s.To - s.From
	for _, other := range spans {
		if from, to := max(s.From, other.From), min(s.To, other.To); from < to {
			n -= to - from
		}
	}
	return n
}

// gap is a run of damaged records and the sequences around them.
type gap struct {
	span
	after, before uint64
}

// lost is how many of these records the coordinator may not have. The other class's
// records share the sequences, so when the gap spans acked it is the most it can be.
func (g gap) lost(records, acked uint64) uint64 {
	from := max(g.after, acked) + 1
	if g.before <= from {
		return 0
	}
	return min(records, g.before-from)
}

// scanned is what a segment file holds.
type scanned struct {
	entries   []entry
	gaps      []gap  // between the readable ones
	nextIndex uint64 // of the record after the last readable one
	end       int64  // where the last readable record ends
	tail      bool   // something unreadable follows
}

// scan reads all of a segment after its header, passing over what is damaged.
func scan(data []byte, firstIndex uint64) scanned {
	s := scanned{nextIndex: firstIndex, end: int64(min(headerSize, len(data)))}
	last := uint64(0)
	for off := headerSize; off < len(data); {
		sequence, index, payload, err := decodeRecord(data[off:])
		if err == nil && sequence > last && index >= s.nextIndex && index-s.nextIndex < maxIndexJump {
			if index > s.nextIndex {
				s.gaps = append(s.gaps, gap{span: span{s.nextIndex, index}, after: last, before: sequence})
			}
			s.entries = append(s.entries, entry{sequence: sequence, offset: uint32(off), size: uint32(len(payload)), index: uint32(index - firstIndex)})
			last, s.nextIndex = sequence, index+1
			off += recordHeader + len(payload)
			s.end = int64(off)
			continue
		}
		next := bytes.Index(data[off+1:], recordMagic)
		if next < 0 {
			break
		}
		off += 1 + next
	}
	s.tail = int64(len(data)) > s.end
	return s
}

func segmentName(ordinal uint32, c class, firstIndex uint64) string {
	return fmt.Sprintf("%08x-%c-%016x.seg", ordinal, "bc"[c], firstIndex)
}

func parseSegmentName(name string) (ordinal uint32, c class, firstIndex uint64, ok bool) {
	var letter rune
	if n, err := fmt.Sscanf(name, "%08x-%c-%016x.seg", &ordinal, &letter, &firstIndex); n != 3 || err != nil {
		return 0, 0, 0, false
	}
	if letter == 'c' {
		c = critical
	}
	return ordinal, c, firstIndex, segmentName(ordinal, c, firstIndex) == name
}
