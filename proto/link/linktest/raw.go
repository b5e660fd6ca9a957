package linktest

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
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/vedette-edr/vedette/proto/link"
)

// Raw is a peer that has shaken hands like anybody who enrols, and from then on writes its
// packets itself: it sends what no honest implementation would.
type Raw struct {
	// Socket is connected to the node, Received the bytes that came from there.
	Socket   *net.UDPConn
	Received atomic.Int64

	t      testing.TB
	node   *net.UDPAddr
	id     []byte // the node's connection id
	number uint64

	keys    protection
	readers sync.WaitGroup
}

// connIDLength is the node's.
const connIDLength = 8

// NewRaw shakes hands with a node by means of the library, takes the keys, and silences
// the library.
func NewRaw(t testing.TB, node *net.UDPAddr) *Raw {
	t.Helper()
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &Raw{t: t, Socket: socket, node: node, number: 1 << 20}
	tap := &tap{UDPConn: socket, known: make(chan struct{})}
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
	r.id = tap.connectionID(t)
	tap.silent.Store(true)
	_ = qc.CloseWithError(0, "")
	_ = transport.Close()
	r.keys = protect(t, secrets.client(t))
	if r.Socket, err = net.DialUDP("udp4", socket.LocalAddr().(*net.UDPAddr), node); err != nil {
		// The library has left the socket open, as it was not its own.
		_ = socket.Close()
		if r.Socket, err = net.DialUDP("udp4", socket.LocalAddr().(*net.UDPAddr), node); err != nil {
			t.Fatal(err)
		}
	}
	r.Count(r.Socket)
	t.Cleanup(func() {
		_ = r.Socket.Close()
		_ = socket.Close()
		r.readers.Wait()
	})
	return r
}

// Count counts what another socket gets, too.
func (r *Raw) Count(socket *net.UDPConn) {
	r.readers.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			r.Received.Add(int64(n))
		}
	})
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

// Packet is a protected 1-RTT packet with the given frames (RFC 9001, section 5).
func (r *Raw) Packet(frames []byte) []byte {
	r.number++
	return r.keys.packet(append([]byte{0x43}, r.id...), r.number, frames)
}

// protection is that of packets in one direction, with AES-128-GCM.
type protection struct {
	seal   cipher.AEAD
	iv     []byte
	header cipher.Block
}

func protect(t testing.TB, secret []byte) protection {
	t.Helper()
	block := func(label string) cipher.Block {
		b, err := aes.NewCipher(expand(secret, label, 16))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	seal, err := cipher.NewGCM(block("quic key"))
	if err != nil {
		t.Fatal(err)
	}
	return protection{seal, expand(secret, "quic iv", 12), block("quic hp")}
}

// packet puts a packet number of four bytes behind head, and protects what is there.
func (p protection) packet(head []byte, number uint64, frames []byte) []byte {
	at, hidden := len(head), byte(0x1f)
	if head[0]&0x80 != 0 { // a long header
		hidden = 0x0f
	}
	head = binary.BigEndian.AppendUint32(head, uint32(number))
	nonce := append([]byte(nil), p.iv...)
	for i := range 8 {
		nonce[4+i] ^= byte(number >> (56 - 8*i))
	}
	out := p.seal.Seal(head, nonce, frames, head)
	var mask [aes.BlockSize]byte
	p.header.Encrypt(mask[:], out[at+4:at+4+aes.BlockSize])
	out[0] ^= mask[0] & hidden
	for i := range 4 {
		out[at+i] ^= mask[1+i]
	}
	return out
}

// tap is a socket that looks at what the library sends, until it is silenced.
type tap struct {
	*net.UDPConn
	silent atomic.Bool
	known  chan struct{} // closed with the first id
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
		if p.id == nil {
			close(p.known)
		}
		p.id = append([]byte(nil), b[1:1+connIDLength]...)
		p.mu.Unlock()
	}
}

// connectionID waits for the first packet that carries the node's.
func (p *tap) connectionID(t testing.TB) []byte {
	t.Helper()
	select {
	case <-p.known:
	case <-time.After(10 * time.Second):
		t.Fatal("waited 10 s for a packet with the node's connection id")
	}
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

func (k *keyLog) client(t testing.TB) []byte {
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

// Varint is QUIC's (RFC 9000, section 16), in its longest form.
func Varint(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v|3<<62) }

// Shortest is the same in the form that a packet holds most of.
func Shortest(v uint64) []byte { return quicvarint.Append(nil, v) }

// Frames is a frame of that kind.
func Frames(kind byte, fields ...[]byte) []byte {
	out := []byte{kind}
	for _, f := range fields {
		out = append(out, f...)
	}
	return out
}
