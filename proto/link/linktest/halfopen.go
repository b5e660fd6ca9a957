package linktest

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"testing"
)

// HalfOpen is a peer that begins a handshake and never ends it: it writes its first packets itself.
type HalfOpen struct {
	Socket *net.UDPConn

	head   []byte // of an Initial packet, up to its length
	number uint64
	keys   protection
}

// initialSalt is QUIC version 1's (RFC 9001, section 5.2).
var initialSalt = []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}

// NewHalfOpen has a connection's ids, and has sent nothing yet.
func NewHalfOpen(t testing.TB, node *net.UDPAddr) *HalfOpen {
	t.Helper()
	socket, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	theirs, ours := Noise(8), Noise(8)
	secret, err := hkdf.Extract(sha256.New, theirs, initialSalt)
	if err != nil {
		t.Fatal(err)
	}
	h := &HalfOpen{Socket: socket, keys: protect(t, expand(secret, "client in", sha256.Size))}
	h.head = binary.BigEndian.AppendUint32([]byte{0xc3}, 1)
	h.head = append(append(h.head, byte(len(theirs))), theirs...)
	h.head = append(append(h.head, byte(len(ours))), ours...)
	h.head = append(h.head, 0) // no token
	return h
}

// Packet is an Initial packet with the given frames, as large as one must be at least.
func (h *HalfOpen) Packet(frames []byte) []byte {
	const least = 1200
	const number, length = 4, 2
	h.number++
	body := make([]byte, max(len(frames), least-len(h.head)-length-number-h.keys.seal.Overhead()))
	copy(body, frames) // what is left is padding
	head := binary.BigEndian.AppendUint16(append([]byte(nil), h.head...), 0x4000|uint16(number+len(body)+h.keys.seal.Overhead()))
	return h.keys.packet(head, h.number, body)
}
