package link_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/vedette-edr/vedette/proto/link"
)

// raw is a peer that has shaken hands like anybody who enrols, and from then on writes its
// packets itself: it sends what no honest implementation would.
type raw struct {
	t      *testing.T
	socket *net.UDPConn
	node   *net.UDPAddr
	id     []byte // the node's connection id
	number uint64

	seal     cipher.AEAD
	iv       []byte
	header   cipher.Block
	received atomic.Int64
	readers  sync.WaitGroup
}

// connIDLength is the node's.
const connIDLength = 8

// newRaw shakes hands with a node by means of the library, takes the keys, and silences
// the library.
func newRaw(t *testing.T, node *net.UDPAddr) *raw {
	t.Helper()
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &raw{t: t, socket: socket, node: node, number: 1 << 20}
	tap := &tap{UDPConn: socket}
	var secrets keyLog
	transport := &quic.Transport{Conn: tap}
	qc, err := transport.Dial(t.Context(), node, &tls.Config{
		NextProtos: []string{link.ALPNEnroll}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, KeyLogWriter: &secrets, //nolint:gosec // an attacker does not mind
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-qc.HandshakeComplete()
	if suite := qc.ConnectionState().TLS.CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("SKIP: this machine prefers %s, and the test knows AES-128-GCM alone", tls.CipherSuiteName(suite))
	}
	until(t, "a packet with the node's connection id", func() bool { r.id = tap.connectionID(); return r.id != nil })
	tap.silent.Store(true)
	_ = qc.CloseWithError(0, "")
	_ = transport.Close()
	r.keys(secrets.client(t))
	if r.socket, err = net.DialUDP("udp4", socket.LocalAddr().(*net.UDPAddr), node); err != nil {
		// The library has left the socket open, as it was not its own.
		_ = socket.Close()
		if r.socket, err = net.DialUDP("udp4", socket.LocalAddr().(*net.UDPAddr), node); err != nil {
			t.Fatal(err)
		}
	}
	r.count(r.socket)
	t.Cleanup(func() {
		_ = r.socket.Close()
		_ = socket.Close()
		r.readers.Wait()
	})
	return r
}

// count counts what a socket gets.
func (r *raw) count(socket *net.UDPConn) {
	r.readers.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			r.received.Add(int64(n))
		}
	})
}

func (r *raw) keys(secret []byte) {
	block := func(label string) cipher.Block {
		b, err := aes.NewCipher(expand(secret, label, 16))
		if err != nil {
			r.t.Fatal(err)
		}
		return b
	}
	var err error
	if r.seal, err = cipher.NewGCM(block("quic key")); err != nil {
		r.t.Fatal(err)
	}
	r.iv, r.header = expand(secret, "quic iv", 12), block("quic hp")
}

// expand is HKDF-Expand-Label (RFC 8446, section 7.1).
func expand(secret []byte, label string, length int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(append(info, "tls13 "+label...), 0)
	out, err := hkdf.Expand(sha256.New, secret, string(info), length)
	if err != nil {
		panic(err)
	}
	return out
}

// packet is a protected 1-RTT packet with the given frames (RFC 9001, section 5).
func (r *raw) packet(frames []byte) []byte {
	r.number++
	head := append([]byte{0x43}, r.id...)
	head = binary.BigEndian.AppendUint32(head, uint32(r.number))
	nonce := append([]byte(nil), r.iv...)
	for i := range 8 {
		nonce[4+i] ^= byte(r.number >> (56 - 8*i))
	}
	out := r.seal.Seal(head, nonce, frames, head)
	var mask [aes.BlockSize]byte
	at := 1 + connIDLength
	r.header.Encrypt(mask[:], out[at+4:at+4+aes.BlockSize])
	out[0] ^= mask[0] & 0x1f
	for i := range 4 {
		out[at+i] ^= mask[1+i]
	}
	return out
}

// tap is a socket that looks at what the library sends, until it is silenced.
type tap struct {
	*net.UDPConn
	silent atomic.Bool
	mu     sync.Mutex
	id     []byte
}

func (p *tap) WriteTo(b []byte, to net.Addr) (int, error) {
	p.look(b)
	if p.silent.Load() {
		return len(b), nil
	}
	return p.UDPConn.WriteTo(b, to)
}

func (p *tap) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (int, int, error) {
	p.look(b)
	if p.silent.Load() {
		return len(b), len(oob), nil
	}
	return p.UDPConn.WriteMsgUDP(b, oob, to)
}

func (p *tap) look(b []byte) {
	if len(b) > connIDLength && b[0]&0x80 == 0 {
		p.mu.Lock()
		p.id = append([]byte(nil), b[1:1+connIDLength]...)
		p.mu.Unlock()
	}
}

func (p *tap) connectionID() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

// keyLog takes TLS secrets in the NSS format.
type keyLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (k *keyLog) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text.Write(b)
}

func (k *keyLog) client(t *testing.T) []byte {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for line := range strings.Lines(k.text.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
	}
	t.Fatal("no secret in the key log")
	return nil
}

// varint is QUIC's (RFC 9000, section 16), in its longest form.
func varint(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v|3<<62) }

func frames(kind byte, fields ...[]byte) []byte {
	out := []byte{kind}
	for _, f := range fields {
		out = append(out, f...)
	}
	return out
}

// Ensure that packets which only an attacker writes, from one who has shaken hands, cost a
// node bounded memory and at most three times the bytes in answers, and no honest sensor
// anything.
func TestFloodWithinConnection(t *testing.T) {
	for name, next := range map[string]func(i uint64) []byte{
		"path challenges": func(uint64) []byte {
			var out []byte
			for range 120 {
				out = append(out, frames(0x1a, noise(8))...)
			}
			return out
		},
		"connection ids": func(i uint64) []byte {
			var out []byte
			for k := range uint64(20) { // each retires all before it
				n := 1 + 20*i + k
				out = append(out, frames(0x18, varint(n), varint(n), []byte{8}, noise(8), noise(16))...)
			}
			return out
		},
		"retired ids":    func(i uint64) []byte { return frames(0x19, varint(i)) },
		"pings":          func(uint64) []byte { return []byte{1, 0, 0, 0} },
		"far crypto":     func(i uint64) []byte { return frames(0x06, varint(1<<40+i), varint(900), noise(900)) },
		"far stream":     func(i uint64) []byte { return frames(0x0e, varint(0), varint(1<<40), varint(900), noise(900)) },
		"holey stream":   func(i uint64) []byte { return frames(0x0e, varint(0), varint(2*i), varint(1), noise(1)) },
		"many streams":   func(i uint64) []byte { return frames(0x0e, varint(4*i), varint(0), varint(1), noise(1)) },
		"far ack":        func(i uint64) []byte { return frames(0x02, varint(1<<50), varint(0), varint(0), varint(1<<49)) },
		"blocked frames": func(i uint64) []byte { return frames(0x14, varint(i)) },
	} {
		t.Run(name, func(t *testing.T) {
			node := newFloodNode(t)
			attacker := newRaw(t, node.Addr().(*net.UDPAddr))
			before := heap()
			var sent int64
			for i := range uint64(floodedPackets) {
				n, err := attacker.socket.Write(attacker.packet(next(i)))
				if err != nil {
					continue // an ICMP error of a node that is gone would fail the sensor below
				}
				sent += int64(n)
			}
			if err := honest(t, node); err != nil {
				t.Fatalf("honest sensor: %v", err)
			}
			grown := heap() - before
			t.Logf("%d bytes sent, %d received, heap grown by %d KiB, %v", sent, attacker.received.Load(), grown>>10, node.Stats().Refused)
			if float64(attacker.received.Load()) > mostAmplified*float64(sent) {
				t.Errorf("amplified %d bytes to %d", sent, attacker.received.Load())
			}
			if grown > mostOfOne {
				t.Errorf("heap grew by %d bytes", grown)
			}
		})
	}
}

// floodedPackets of one attacker, and what they may cost the node: its queues of control
// frames are bounded by their number.
const (
	floodedPackets = 3000
	mostOfOne      = 4 << 20
)

// Ensure that the attacker of this file is heard: its packets are what a node accepts.
func TestRawPacketsAreAccepted(t *testing.T) {
	node := newFloodNode(t)
	attacker := newRaw(t, node.Addr().(*net.UDPAddr))
	until(t, "the connection", func() bool { return node.Stats().Open == 1 })
	if _, err := attacker.socket.Write(attacker.packet(frames(0x1d, varint(link.CodeOK), varint(0)))); err != nil {
		t.Fatal(err)
	}
	until(t, "its end by a hand-made packet", func() bool { return node.Stats().Open == 0 })
}

// Ensure that one who moves to an address which is not its own makes the node send little there.
func TestFloodFromStolenPath(t *testing.T) {
	node := newFloodNode(t)
	attacker := newRaw(t, node.Addr().(*net.UDPAddr))
	var sent int64
	for i := range 64 {
		victim, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 78, byte(i+1))}, node.Addr().(*net.UDPAddr))
		if err != nil {
			t.Skipf("SKIP: no loopback address of its own to be had: %v", err)
		}
		t.Cleanup(func() { _ = victim.Close() })
		attacker.count(victim)
		for range 20 {
			n, err := victim.Write(attacker.packet(append(frames(0x1a, noise(8)), 1)))
			if err != nil {
				t.Fatal(err)
			}
			sent += int64(n)
		}
	}
	if err := honest(t, node); err != nil {
		t.Fatalf("honest sensor: %v", err)
	}
	t.Logf("%d bytes sent, %d received", sent, attacker.received.Load())
	if float64(attacker.received.Load()) > mostAmplified*float64(sent) {
		t.Errorf("amplified %d bytes to %d", sent, attacker.received.Load())
	}
}
