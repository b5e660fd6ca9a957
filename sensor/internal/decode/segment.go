package decode

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Segment is some bytes of a TCP stream that may carry DNS; Streams makes messages of
// them.
type Segment struct {
	event.Header
	Cookie        uint64 // of the socket
	Position      uint32 // of the first byte in its stream, modulo 2^32
	Ingress       bool
	Last          bool // the sender says nothing after these bytes
	Local, Remote netip.AddrPort
	Data          []byte
}

func decodeSegment(raw []byte) (event.Event, error) {
	if len(raw) < segmentSize {
		return nil, fmt.Errorf("%w: segment of %d bytes", ErrMalformed, len(raw))
	}
	s := new(Segment)
	flags := head(raw, &s.Header)
	b := raw[headSize:]
	s.Cookie, s.Position = order.Uint64(b[0:]), order.Uint32(b[8:])
	family, length := order.Uint16(b[12:]), int(order.Uint16(b[14:]))
	if length != len(raw)-segmentSize {
		return nil, fmt.Errorf("%w: segment says %d bytes, has %d", ErrMalformed, length, len(raw)-segmentSize)
	}
	local, okLocal := address(family, b[24:40], order.Uint16(b[16:]))
	remote, okRemote := address(family, b[40:56], order.Uint16(b[18:]))
	if !okLocal || !okRemote {
		return nil, fmt.Errorf("%w: address family %d", ErrMalformed, family)
	}
	s.Local, s.Remote = local, remote
	s.Ingress, s.Last = flags&segmentIngress != 0, flags&segmentLast != 0
	s.Data = bytes.Clone(raw[segmentSize:])
	return s, nil
}

func decodeSocket(raw []byte) (event.Event, error) {
	if len(raw) != socketSize {
		return nil, fmt.Errorf("%w: socket of %d bytes", ErrMalformed, len(raw))
	}
	e := new(event.Socket)
	flags := head(raw, &e.Header)
	b := raw[headSize:]
	e.Asked = flags&socketAsked != 0
	e.Errno = -int32(order.Uint32(b[0:])) //nolint:gosec // the kernel's sign
	e.Protocol = order.Uint32(b[4:])
	e.Family, e.Type = order.Uint16(b[8:]), order.Uint16(b[10:])
	return e, nil
}
