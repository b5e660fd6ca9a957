package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"strings"
)

// chain is the running digest of what the entries of a window wrote: two nodes that
// apply the same entries in another way differ in it at the next comparison.
//
// What goes in is what the entry means to write, not how: the writer remembers and puts
// off (hot, later), and a restart empties that, so that the same rows come from other
// statements. So everything in hot.go and later.go notes what it was asked for, and
// exec notes the statements of the rest; TestHotIsCold holds them to it.
//
// SHA-256, over a buffer: with the processors' instructions for it that is a thirtieth of
// the cost of the row itself. It is a guard against accidents. Who is root on a
// node can write whatever digest they like.
type chain struct {
	buf []byte
	sum hash.Hash // of what did not fit into buf
	off bool      // nothing is noted: the window cannot be compared
}

// chainBuffer is about what an entry of 64 KiB writes.
const chainBuffer = 64 << 10

// begin makes it ready for an entry.
func (c *chain) begin(before []byte, index uint64) {
	if c.sum == nil {
		c.buf, c.sum = make([]byte, 0, chainBuffer+1024), sha256.New()
	}
	c.off = len(before) == 0
	c.sum.Reset()
	c.buf = binary.BigEndian.AppendUint64(append(c.buf[:0], before...), index)
}

// end is the chain with the entry in it; nil when it is off.
func (c *chain) end() []byte {
	if c.off {
		return nil
	}
	_, _ = c.sum.Write(c.buf)
	return c.sum.Sum(nil)
}

func (c *chain) flush() {
	if len(c.buf) >= chainBuffer {
		_, _ = c.sum.Write(c.buf)
		c.buf = c.buf[:0]
	}
}

// note takes a write in by the name of what it does and its arguments.
func (tx *Tx) note(what byte, args ...val) {
	c := &tx.db.chain
	if c.off {
		return
	}
	c.buf = append(c.buf, what, byte(len(args)))
	for _, a := range args {
		c.buf = appendValue(c.buf, a)
	}
	c.flush()
}

// noteStatement takes in a statement that changes rows, and how many it changed.
func (tx *Tx) noteStatement(mark int64, args []val, changed int64) {
	if mark == 0 {
		return
	}
	tx.note(noteStatement, args...)
	tx.note(noteChanged, mark, changed)
}

// markOf is what the chain calls a statement; 0 for one that changes no row.
func markOf(q string) int64 {
	verb, _, _ := strings.Cut(strings.TrimSpace(q), " ")
	switch verb {
	case "INSERT", "UPDATE", "DELETE":
		sum := sha256.Sum256([]byte(q))
		return int64(binary.BigEndian.Uint64(sum[:]) | 1) //nolint:gosec // a name
	}
	return 0
}

// counted is note for the write that is made most, without a place on the heap for each number.
func (tx *Tx) counted(host int64, key []byte, count, last int64, known bool) {
	c := &tx.db.chain
	if c.off {
		return
	}
	b := binary.BigEndian.AppendUint64(append(c.buf, noteCount), uint64(host))
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(key))), key...)
	b = binary.BigEndian.AppendUint64(b, uint64(count))
	b = binary.BigEndian.AppendUint64(b, uint64(last))
	if known {
		b = append(b, 1)
	}
	c.buf = b
	c.flush()
}

// What is noted of writes that are remembered or put off.
const (
	noteStatement = iota + 1
	noteChanged
	notePosition
	noteSeen
	noteWord
	noteOrdered
	noteAudit
	noteIsolation
	noteState
	noteReport
	noteCount
	noteSight
)

// appendValue appends a value so that it can be told from every other one, and read
// again by cutValue.
func appendValue(b []byte, v val) []byte {
	switch v := v.(type) {
	case int64:
		return binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
	case bool: // the driver's own encoding of it
		n := uint64(0)
		if v {
			n = 1
		}
		return binary.BigEndian.AppendUint64(append(b, 'i'), n)
	case string:
		return append(binary.BigEndian.AppendUint32(append(b, 's'), uint32(len(v))), v...)
	case []byte:
		return append(binary.BigEndian.AppendUint32(append(b, 'b'), uint32(len(v))), v...)
	}
	return append(b, fmt.Sprintf("?%T", v)...)
}

// cutValue reads what appendValue wrote.
func cutValue(b []byte) (v val, rest []byte, err error) {
	bad := fmt.Errorf("%w: the place of the next comparison is %x", ErrDamaged, b)
	if len(b) < 5 {
		return nil, nil, bad
	}
	if b[0] == 'i' {
		if len(b) < 9 {
			return nil, nil, bad
		}
		return int64(binary.BigEndian.Uint64(b[1:])), b[9:], nil
	}
	n := int(binary.BigEndian.Uint32(b[1:]))
	if len(b)-5 < n {
		return nil, nil, bad
	}
	switch b[0] {
	case 's':
		return string(b[5 : 5+n]), b[5+n:], nil
	case 'b':
		return bytes.Clone(b[5 : 5+n]), b[5+n:], nil
	}
	return nil, nil, bad
}
