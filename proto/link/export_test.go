package link

import "net"

// Writing reports whether a Write on the stream is under way.
func Writing(c net.Conn) bool {
	s := c.(*stream)
	if s.writing.TryLock() {
		s.writing.Unlock()
		return false
	}
	return true
}
