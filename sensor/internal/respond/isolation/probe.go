package isolation

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const probeNonceBytes = 8

func newProbeNonce() (nonce [probeNonceBytes]byte) {
	_, _ = rand.Read(nonce[:]) // never fails, by its documentation
	return nonce
}

// probe is an ordinary packet that no opening covers, told from all others by
// the nonce in its payload.
type probe struct {
	ethertype     uint16
	payloadOffset uint32 // of the nonce, from the network header
	packet        []byte
}

const discardPort = 9

// probes are a UDP datagram for each IP version, between addresses that are
// reserved for documentation (RFC 5737, RFC 3849).
func probes(nonce [probeNonceBytes]byte) []probe {
	datagram := binary.BigEndian.AppendUint16(nil, discardPort)
	datagram = binary.BigEndian.AppendUint16(datagram, discardPort)
	datagram = binary.BigEndian.AppendUint16(datagram, 8+probeNonceBytes)
	datagram = append(datagram, 0, 0)
	datagram = append(datagram, nonce[:]...)

	ip4 := []byte{0x45, 0, 0, byte(20 + len(datagram)), 0, 0, 0x40, 0, 1, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1}
	binary.BigEndian.PutUint16(ip4[10:], checksum(ip4))

	ip6 := make([]byte, 40)
	ip6[0], ip6[5], ip6[6], ip6[7] = 0x60, byte(len(datagram)), unix.IPPROTO_UDP, 1
	copy(ip6[8:], []byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 15: 1})
	copy(ip6[24:], []byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 15: 2})
	return []probe{
		{unix.ETH_P_IP, 20 + 8, append(ip4, datagram...)},
		{unix.ETH_P_IPV6, 40 + 8, append(ip6, datagram...)},
	}
}

func checksum(header []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ProbeResult is what a probe of the cut saw.
type ProbeResult struct {
	Devices []string // the devices tried: those that are up
	Skipped []string // devices that are down, where nothing can be sent
	Sent    int
	Passed  int    // sends that the kernel did not refuse
	Counted uint64 // probes that reached the drop at the end of the egress chain
}

// String is for the self-test report.
func (r ProbeResult) String() string {
	if len(r.Devices) == 0 {
		return "no device but loopback is up: nothing to probe"
	}
	return fmt.Sprintf("%d probes (IPv4 and IPv6) on %s: %d dropped by the egress hook, %d not refused",
		r.Sent, strings.Join(r.Devices, " "), r.Counted, r.Passed)
}

// ErrLeak says that a probe was not dropped where it should be.
var ErrLeak = errors.New("a probe packet passed the isolation")

// Probe tries to send, on every device that is up, a packet that must be
// dropped. Nothing leaves the host: the hook drops it before the device, and its
// Ethernet destination is the sending device itself, in case the hook does not.
func (b *Barrier) Probe() (ProbeResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil {
		return ProbeResult{}, ErrNotApplied
	}
	before, err := b.counted(counterProbe)
	if err != nil {
		return ProbeResult{}, err
	}
	surround, err := b.surroundings()
	if err != nil {
		return ProbeResult{}, err
	}
	var result ProbeResult
	err = b.inside(func() error { return result.send(surround.devices, b.current.nonce) })
	if err != nil {
		return result, err
	}
	after, err := b.counted(counterProbe)
	if err != nil {
		return result, err
	}
	result.Counted = after - before
	if result.Passed > 0 || result.Counted != uint64(result.Sent) {
		return result, fmt.Errorf("%w: %s", ErrLeak, result)
	}
	return result, nil
}

func (r *ProbeResult) send(devices []device, nonce [probeNonceBytes]byte) error {
	// Protocol 0: this socket never receives.
	raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a packet socket to prove the isolation (needs CAP_NET_RAW): %w", err)
	}
	defer func() { _ = unix.Close(raw) }()
	for _, device := range devices {
		if !device.up {
			r.Skipped = append(r.Skipped, device.name)
			continue
		}
		r.Devices = append(r.Devices, device.name)
		for _, probe := range probes(nonce) {
			to := &unix.SockaddrLinklayer{Protocol: swap16(probe.ethertype), Ifindex: device.index}
			if len(device.address) > 0 && len(device.address) <= len(to.Addr) {
				to.Halen = uint8(copy(to.Addr[:], device.address))
			}
			r.Sent++
			// The egress hook's drop is told to the sender as ENOBUFS.
			switch err := unix.Sendto(raw, probe.packet, 0, to); {
			case err == nil:
				r.Passed++
			case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EPERM):
			case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
				r.Sent-- // went down or away since it was listed
			default:
				return fmt.Errorf("sending a probe on %s: %w", device.name, err)
			}
		}
	}
	return nil
}

func swap16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Dropped is how many packets the cut has dropped since it was last (re)built.
func (b *Barrier) Dropped() (in, out uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in, err = b.counted(counterIngress); err != nil {
		return 0, 0, err
	}
	out, err = b.counted(counterEgress)
	return in, out, err
}

func (b *Barrier) counted(name string) (uint64, error) {
	var options []nftables.ConnOption
	if fd := b.fd(); fd > 0 {
		options = append(options, nftables.WithNetNSFd(fd))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return 0, fmt.Errorf("opening nftables: %w", err)
	}
	objects, err := conn.GetNamedObjects(&nftables.Table{Name: TableName, Family: nftables.TableFamilyNetdev})
	if err != nil {
		return 0, fmt.Errorf("reading counter %s: %w", name, err)
	}
	for _, object := range objects {
		named, ok := object.(*nftables.NamedObj)
		if !ok || named.Name != name {
			continue
		}
		if counter, ok := named.Obj.(*expr.Counter); ok {
			return counter.Packets, nil
		}
	}
	return 0, fmt.Errorf("reading counter %s: it is not there", name)
}
