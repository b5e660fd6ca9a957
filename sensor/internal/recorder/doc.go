// Package recorder is the flight recorder: what left the kernel, kept on disk in
// a bounded ring for whoever asks later. Its answers are in recorder/query.
//
// Invariant: the event path never waits for the disk. Record encodes into memory
// that is there already, or counts a loss; one goroutine compresses and writes.
// What was recorded is in the file at most a second later, so that a killed sensor
// loses at most a second; a machine that loses its power loses what the kernel had
// not written back. Nothing on disk can stop the recorder or a reader: a torn tail
// is cut, a damaged block is passed over and its records are counted.
//
// # Format
//
// A folder of segments NNNNNNNNNNNNNNNN.rec, numbered in hexadecimal from the
// oldest; the oldest is dropped whole. All integers are little endian, "varint" is
// encoding/binary's. A segment is
//
//	header  "VDRECORD" version:u32 (1)
//	block*
//	seal    when it was ended by will: magic:u32 crc:u32 wallMin:i64 wallMax:i64 next:u64
//
// and a block, which is written at once and read without any other,
//
//	magic:u32 size:u32 crc:u32 raw:u32 records:u32 flags:u32
//	first:u64 chapter:u64 bootMin:u64 bootMax:u64 clock:i64 boot[16] payload[size]
//
// crc is CRC32C of all that follows it. payload is one zstd frame of raw bytes.
// first counts the ring's records without a gap, so that it tells how many a damaged
// block had. boot is the kernel's boot id; clock is the time of day minus
// CLOCK_BOOTTIME when the block began: a record's place is its place in the file and
// its boot time, and a step of the time of day moves neither.
//
// A record is
//
//	size:u32 type:text boot:varint(zigzag, from the record before, the first from 0) flags:u8
//	[process id:varint pid:varint start:varint [description:text]]
//	[storyline pid:varint start:varint]
//	[flow protocol:u8 direction:u8 local:endpoint remote:endpoint name:text in:varint out:varint failed:u8]
//	(kind:u8 name:text value)* 0
//
// where text is a length (varint) and that many bytes, of any kind. A process is
// described once in a chapter, at its first record and again when what is known of it
// changed; later records name the description by its id. A chapter begins with a
// block (flag 1), at the latest with each segment and after maxDescriptions. Beside
// the id each record has the process's key and its storyline: where the block with
// the description is damaged, these remain.
package recorder
