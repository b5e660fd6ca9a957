package detect

import (
	"strconv"

	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// socketValue is a field that a socket has for itself.
func socketValue(n int, s *event.Socket) (string, bool) {
	switch n {
	case taxonomy.Protocol:
		return protocol(uint8(min(s.Protocol, 255))), true //nolint:gosec // bounded
	case taxonomy.SocketFamily:
		return socketFamily(s.Family), true
	case taxonomy.SocketType:
		if s.Type == event.SocketTypeRaw {
			return "raw", true
		}
		return strconv.Itoa(int(s.Type)), true
	case taxonomy.SocketResult:
		return socketResult(s), true
	}
	return "", false
}

func socketFamily(family uint16) string {
	switch family {
	case event.FamilyInet:
		return "inet"
	case event.FamilyInet6:
		return "inet6"
	case event.FamilyPacket:
		return "packet"
	case event.FamilyXDP:
		return "xdp"
	case event.FamilyVsock:
		return "vsock"
	}
	return strconv.Itoa(int(family))
}

func socketResult(s *event.Socket) string {
	switch {
	case s.Asked:
		return "asked"
	case s.Errno != 0:
		return "refused"
	}
	return "made"
}

// loginValue is a field that a login has for itself; empty: it is not known.
func loginValue(n int, l *event.Login) (string, bool) {
	switch n {
	case taxonomy.User:
		return l.User, true
	case taxonomy.SourceIP:
		if l.Source.IsValid() {
			return l.Source.Addr().Unmap().String(), true
		}
		return "", true
	case taxonomy.SourcePort:
		if l.Source.Port() != 0 {
			return strconv.Itoa(int(l.Source.Port())), true
		}
		return "", true
	case taxonomy.Terminal:
		return l.Terminal, true
	case taxonomy.Via:
		return l.Via, true
	}
	return "", false
}
