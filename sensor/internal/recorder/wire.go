package recorder

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errRecord  = errors.New("damaged record")
)

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTexts(b []byte, all []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, s := range all {
		b = appendText(b, s)
	}
	return b
}

// appendEndpoint writes the length of the address, 0 for none, the address and the port.
func appendEndpoint(b []byte, a netip.AddrPort) []byte {
	switch addr := a.Addr().Unmap(); {
	case addr.Is4():
		raw := addr.As4()
		b = append(append(b, 4), raw[:]...)
	case addr.Is6():
		raw := addr.As16()
		b = append(append(b, 16), raw[:]...)
	default:
		return append(b, 0)
	}
	return binary.LittleEndian.AppendUint16(b, a.Port())
}

func appendFlag(b []byte, set bool) []byte {
	if set {
		return append(b, 1)
	}
	return append(b, 0)
}

// cursor reads what the functions above wrote. After an error everything it gives
// is zero and the error stays.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) fail() { c.rest, c.err = nil, errRecord }

func (c *cursor) take(n uint64) []byte {
	if n > uint64(len(c.rest)) {
		c.fail()
		return nil
	}
	taken := c.rest[:n]
	c.rest = c.rest[n:]
	return taken
}

func (c *cursor) byte() byte {
	if raw := c.take(1); raw != nil {
		return raw[0]
	}
	return 0
}

func (c *cursor) uint() uint64 {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) int() int64 {
	v, n := binary.Varint(c.rest)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) uint32() uint32 {
	v := c.uint()
	if v > 1<<32-1 {
		c.fail()
		return 0
	}
	return uint32(v)
}

func (c *cursor) text() string { return string(c.take(c.uint())) }

// texts cannot be longer than the bytes there are: each text has a length of its own.
func (c *cursor) texts() []string {
	n := c.uint()
	if n > uint64(len(c.rest)) || n > maxList {
		c.fail()
		return nil
	}
	all := make([]string, 0, n)
	for range n {
		all = append(all, c.text())
	}
	if c.err != nil {
		return nil
	}
	return all
}

func (c *cursor) endpoint() netip.AddrPort {
	size := c.byte()
	if size == 0 {
		return netip.AddrPort{}
	}
	addr, ok := netip.AddrFromSlice(c.take(uint64(size)))
	port := c.take(2)
	if !ok || port == nil {
		c.fail()
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, binary.LittleEndian.Uint16(port))
}
