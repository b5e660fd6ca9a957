package netnstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// Ether makes a frame.
func Ether(to, from net.HardwareAddr, ethertype uint16, payload []byte) []byte {
	frame := append(append([]byte{}, to...), from...)
	return append(binary.BigEndian.AppendUint16(frame, ethertype), payload...)
}

// Options of IP4.
type Options struct {
	Fragment uint16 // flags and offset as they stand in the header
	Options  []byte // a multiple of four
}

// IP4 makes a packet.
func IP4(protocol byte, from, to netip.Addr, payload []byte, o Options) []byte {
	size := 20 + len(o.Options)
	header := make([]byte, size)
	header[0] = 0x40 | byte(size/4)
	binary.BigEndian.PutUint16(header[2:], uint16(size+len(payload)))
	binary.BigEndian.PutUint16(header[4:], 0x7664)
	binary.BigEndian.PutUint16(header[6:], o.Fragment)
	header[8], header[9] = 64, protocol
	copy(header[12:], from.AsSlice())
	copy(header[16:], to.AsSlice())
	copy(header[20:], o.Options)
	binary.BigEndian.PutUint16(header[10:], Checksum(header))
	return append(header, payload...)
}

// IP6 makes a packet.
func IP6(next, hopLimit byte, from, to netip.Addr, payload []byte) []byte {
	header := make([]byte, 40)
	header[0], header[6], header[7] = 0x60, next, hopLimit
	binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
	copy(header[8:], from.AsSlice())
	copy(header[24:], to.AsSlice())
	return append(header, payload...)
}

// UDP makes a datagram without a checksum.
func UDP(from, to uint16, payload []byte) []byte {
	header := binary.BigEndian.AppendUint16(nil, from)
	header = binary.BigEndian.AppendUint16(header, to)
	header = binary.BigEndian.AppendUint16(header, uint16(8+len(payload)))
	return append(append(header, 0, 0), payload...)
}

// Flags of a TCP header.
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	ACK = 0x10
)

// TCP makes a segment without a checksum, for what is counted on the wire and not
// answered.
func TCP(from, to uint16, flags byte, payload []byte) []byte {
	header := binary.BigEndian.AppendUint16(nil, from)
	header = binary.BigEndian.AppendUint16(header, to)
	header = append(header, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	return append(header, payload...)
}

// NeighborSolicitation makes the ICMPv6 message with a checksum, asking for target.
func NeighborSolicitation(from, to, target netip.Addr, options []byte) []byte {
	message := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	message = append(message, options...)
	binary.BigEndian.PutUint16(message[2:], Checksum6(unix.IPPROTO_ICMPV6, from, to, message))
	return message
}

// NeighborAdvertisement is the answer, with a checksum: from is at mac.
func NeighborAdvertisement(from, to netip.Addr, mac net.HardwareAddr) []byte {
	message := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, from.AsSlice()...) // solicited, override
	message = append(append(message, 2, 1), mac...)
	binary.BigEndian.PutUint16(message[2:], Checksum6(unix.IPPROTO_ICMPV6, from, to, message))
	return message
}

// Checksum6 is that of a message over IPv6, which counts the addresses too.
func Checksum6(next byte, from, to netip.Addr, message []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = append(pseudo, 0, 0, 0, next)
	return Checksum(append(pseudo, message...))
}

// Checksum is the Internet checksum.
func Checksum(data []byte) uint16 {
	var sum uint32
	for i, b := range data {
		if i%2 == 0 {
			sum += uint32(b) << 8
		} else {
			sum += uint32(b)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Raw is a sender of whole frames (AF_PACKET).
type Raw struct {
	fd int
	// refused: the kernel did not let it go past the queueing discipline.
	refused bool
}

// NewRaw opens a sender in the namespace, one that goes past the queueing
// discipline if asked. One that an isolated host refuses that asks again with each
// frame, and sends none without.
func NewRaw(t testing.TB, n *Namespace, bypass bool) *Raw {
	t.Helper()
	var r *Raw
	n.Must(t, "opening a raw sender", func() (err error) {
		r, err = OpenRaw(bypass)
		return err
	})
	t.Cleanup(func() { _ = unix.Close(r.fd) })
	return r
}

// OpenRaw is NewRaw in the namespace of this thread, for as long as the process lives.
func OpenRaw(bypass bool) (*Raw, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	r := &Raw{fd: fd}
	if bypass {
		err := r.bypass()
		if r.refused = errors.Is(err, unix.EPERM); err != nil && !r.refused {
			return nil, errors.Join(fmt.Errorf("bypassing the queueing discipline: %w", err), unix.Close(fd))
		}
	}
	return r, nil
}

func (r *Raw) bypass() error {
	return unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
}

// Send puts a frame on a device, claiming ethertype to the kernel whatever the
// frame says.
func (r *Raw) Send(index int, ethertype uint16, frame []byte) error {
	if r.refused {
		if err := r.bypass(); err != nil {
			return err
		}
		r.refused = false
	}
	return unix.Sendto(r.fd, frame, 0, &unix.SockaddrLinklayer{Protocol: BigEndian16(ethertype), Ifindex: index})
}

// SendUDP sends one datagram by an ordinary socket from inside the namespace.
func SendUDP(local, remote string, payload []byte) error {
	var from *net.UDPAddr
	if local != "" {
		from = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local))
	}
	conn, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(remote)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write(payload)
	return err
}
