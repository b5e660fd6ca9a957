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

// Shown is how many certificates the peer has shown.
func (c *Conn) Shown() int { return len(c.quic.ConnectionState().TLS.PeerCertificates) }
