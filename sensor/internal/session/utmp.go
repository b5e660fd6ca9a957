package session

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"
)

// recordSize is glibc's struct utmp on x86-64, whose layout 32-bit programs share
// (utmp(5)); musl and newer systems write none.
const recordSize = 384

// Types of a record.
const (
	userProcess = 7
	deadProcess = 8
)

// record is one line of utmp or wtmp: what a program that may write there says.
type record struct {
	kind     int16
	pid      uint32
	terminal string
	user     string
	host     string
	time     time.Time
	addr     netip.Addr
}

// parse reads whole records; a torn one at the end is left for the next look.
func parse(raw []byte) (records []record) {
	for ; len(raw) >= recordSize; raw = raw[recordSize:] {
		order := binary.LittleEndian
		records = append(records, record{
			kind:     int16(order.Uint16(raw[0:])), //nolint:gosec // its sign is the file's
			pid:      order.Uint32(raw[4:]),
			terminal: text(raw[8:40]),
			user:     text(raw[44:76]),
			host:     text(raw[76:332]),
			time:     time.Unix(int64(order.Uint32(raw[340:])), 0),
			addr:     address(raw[348:364]),
		})
	}
	return records
}

func text(field []byte) string {
	field, _, _ = bytes.Cut(field, []byte{0})
	return string(field)
}

// address: IPv4 is in the first word, and the others are zero.
func address(field []byte) netip.Addr {
	if bytes.Equal(field[4:], make([]byte, 12)) {
		addr := netip.AddrFrom4([4]byte(field[:4]))
		if addr.IsUnspecified() {
			return netip.Addr{}
		}
		return addr
	}
	return netip.AddrFrom16([16]byte(field)).Unmap()
}
