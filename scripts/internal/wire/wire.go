// Package wire counts what one process sends over UDP on loopback, datagram by
// datagram, as a packet socket sees it: no program that is measured has a part in it.
//
// Invariant: a count is whole or an error. A datagram that the socket had no room for,
// or a process that changed its socket meanwhile, is told.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Small is the largest UDP payload that is taken for one without content: QUIC's
// acknowledgements and pings are less than this, a record is more.
const Small = 80

// Sent is what a process sent: UDP payload, without the headers below it.
type Sent struct {
	Bytes, Datagrams           uint64
	SmallBytes, SmallDatagrams uint64 // of these, those of at most Small bytes
}

// Since is what was sent after an earlier count.
func (s Sent) Since(before Sent) Sent {
	return Sent{s.Bytes - before.Bytes, s.Datagrams - before.Datagrams, s.SmallBytes - before.SmallBytes, s.SmallDatagrams - before.SmallDatagrams}
}

// Large is what the datagrams with content carried.
func (s Sent) Large() uint64 { return s.Bytes - s.SmallBytes }

// Tap counts until it is closed.
type Tap struct {
	pid   int
	ports []uint16 // that the process sends from
	to    []uint16
	fd    int
	done  chan struct{}
	stop  chan struct{}
	once  sync.Once

	mu   sync.Mutex
	sent Sent
	err  error
}

// room is the packet socket's buffer.
const room = 16 << 20

// Open counts what pid sends to these ports of this machine.
func Open(pid int, to ...uint16) (*Tap, error) {
	ports, err := portsOf(pid)
	if err != nil {
		return nil, err
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("process %d has no UDP socket", pid)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	lo := unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: 1}
	// So that closing is noticed.
	wait := unix.Timeval{Usec: 100_000}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait), unix.Bind(fd, &lo)); err != nil {
		return nil, errors.Join(fmt.Errorf("binding a packet socket to lo: %w", err), unix.Close(fd))
	}
	t := &Tap{pid: pid, ports: ports, to: to, fd: fd, done: make(chan struct{}), stop: make(chan struct{})}
	go t.run()
	return t, nil
}

func (t *Tap) run() {
	defer close(t.done)
	var packet [64]byte
	for {
		select {
		case <-t.stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(t.fd, packet[:], 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.mu.Lock()
			t.err = fmt.Errorf("reading the packet socket: %w", err)
			t.mu.Unlock()
			return
		}
		// On loopback each packet passes twice; the one that leaves is counted.
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_OUTGOING {
			t.note(packet[:n])
		}
	}
}

func (t *Tap) note(packet []byte) {
	source, dest, payload, ok := parse(packet)
	if !ok || !slices.Contains(t.ports, source) || !slices.Contains(t.to, dest) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent.Bytes += uint64(payload)
	t.sent.Datagrams++
	if payload <= Small {
		t.sent.SmallBytes += uint64(payload)
		t.sent.SmallDatagrams++
	}
}

// parse reads the ports and the payload's length of a UDP datagram over IPv4 or IPv6.
func parse(packet []byte) (source, dest uint16, payload int, ok bool) {
	const (
		ip6Header = 40
		udpHeader = 8
	)
	if len(packet) < 20 {
		return 0, 0, 0, false
	}
	var offset int
	switch packet[0] >> 4 {
	case 4:
		offset = int(packet[0]&15) * 4
		fragment := binary.BigEndian.Uint16(packet[6:]) & 0x1fff
		if packet[9] != unix.IPPROTO_UDP || offset < 20 || fragment != 0 {
			return 0, 0, 0, false
		}
	case 6:
		offset = ip6Header
		if packet[6] != unix.IPPROTO_UDP {
			return 0, 0, 0, false
		}
	default:
		return 0, 0, 0, false
	}
	if len(packet) < offset+udpHeader {
		return 0, 0, 0, false
	}
	udp := packet[offset:]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < udpHeader {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:]), length - udpHeader, true
}

// Sent until now.
func (t *Tap) Sent() (Sent, error) {
	ports, err := portsOf(t.pid)
	if err != nil {
		return Sent{}, err
	}
	if !slices.Equal(ports, t.ports) {
		return Sent{}, fmt.Errorf("process %d changed its UDP sockets from %v to %v meanwhile", t.pid, t.ports, ports)
	}
	stats, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return Sent{}, fmt.Errorf("reading the packet socket's losses: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if stats.Drops > 0 {
		t.err = errors.Join(t.err, fmt.Errorf("the packet socket missed %d packets", stats.Drops))
	}
	return t.sent, t.err
}

// Close ends the counting.
func (t *Tap) Close() error {
	var err error
	t.once.Do(func() {
		close(t.stop)
		<-t.done
		err = unix.Close(t.fd)
	})
	return err
}

// portsOf are the ports of a process's UDP sockets, sorted.
func portsOf(pid int) ([]uint16, error) {
	inodes := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		target, err := os.Readlink(l)
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var ports []uint16
	for _, table := range []string{"udp", "udp6"} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			return nil, fmt.Errorf("listing UDP sockets: %w", err)
		}
		for line := range strings.Lines(string(raw)) {
			// sl local rem st queues tr:when retrnsmt uid timeout inode …
			fields := strings.Fields(line)
			if len(fields) < 10 || !inodes[fields[9]] {
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err != nil {
				return nil, fmt.Errorf("reading a UDP socket's port %q: %w", fields[1], err)
			}
			ports = append(ports, uint16(port))
		}
	}
	slices.Sort(ports)
	return ports, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
