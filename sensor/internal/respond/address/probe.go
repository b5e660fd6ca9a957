package address

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const nonceBytes = 8

func newNonce() (nonce [nonceBytes]byte) {
	_, _ = rand.Read(nonce[:]) // never fails, by its documentation
	return nonce
}

type device struct {
	index   int
	name    string
	up      bool
	address net.HardwareAddr
}

func (d device) same(o device) bool { return d.index == o.index && d.name == o.name }

func (t *Table) route() (*vnl.Handle, error) {
	if t.ns == nil {
		return vnl.NewHandle(unix.NETLINK_ROUTE)
	}
	return vnl.NewHandleAt(netns.NsHandle(t.fd()), unix.NETLINK_ROUTE)
}

func (t *Table) devices() ([]device, error) {
	handle, err := t.route()
	if err != nil {
		return nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	var devices []device
	for _, link := range links {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback == 0 {
			devices = append(devices, device{index: a.Index, name: a.Name, up: a.Flags&net.FlagUp != 0, address: a.HardwareAddr})
		}
	}
	slices.SortFunc(devices, func(a, b device) int { return a.index - b.index })
	return devices, nil
}

// needed are this host's addresses and those of its default routes.
func (t *Table) needed() (own, gateways []netip.Addr, err error) {
	handle, err := t.route()
	if err != nil {
		return nil, nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	defer handle.Close()
	addresses, err := handle.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			own = append(own, ip.Unmap())
		}
	}
	routes, err := handle.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		hops := []net.IP{r.Gw}
		for _, hop := range r.MultiPath {
			hops = append(hops, hop.Gw)
		}
		for _, hop := range hops {
			if ip, ok := netip.AddrFromSlice(hop); ok {
				gateways = append(gateways, ip.Unmap())
			}
		}
	}
	return own, gateways, nil
}

// packet is a UDP datagram from an address reserved for documentation.
func packet(to netip.Addr, port uint16, payload []byte) (ethertype uint16, raw []byte) {
	datagram := binary.BigEndian.AppendUint16(nil, 9)
	datagram = binary.BigEndian.AppendUint16(datagram, port)
	datagram = binary.BigEndian.AppendUint16(datagram, uint16(8+len(payload))) //nolint:gosec // some hundred
	datagram = append(append(datagram, 0, 0), payload...)
	if to.Is4() {
		header := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 1, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1}
		header = append(header, to.AsSlice()...)
		binary.BigEndian.PutUint16(header[2:], uint16(20+len(datagram))) //nolint:gosec // some hundred
		binary.BigEndian.PutUint16(header[10:], checksum(header))
		return unix.ETH_P_IP, append(header, datagram...)
	}
	header := make([]byte, 40)
	header[0], header[6], header[7] = 0x60, unix.IPPROTO_UDP, 1
	binary.BigEndian.PutUint16(header[4:], uint16(len(datagram))) //nolint:gosec // some hundred
	copy(header[8:], []byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 15: 1})
	copy(header[24:], to.AsSlice())
	return unix.ETH_P_IPV6, append(header, datagram...)
}

func checksum(header []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum) //nolint:gosec // folded to 16 bits
}

// Probe proves a block: on every device that is up it tries to send a packet to
// the first address of each prefix and a question for each name. Each must be
// counted at the drop and refused to its sender. Nothing leaves: should it pass,
// its Ethernet destination is the sending device itself.
func (t *Table) Probe(prefixes []netip.Prefix, names []string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == nil || t.current.spec.empty() {
		return "", errors.New("nothing is blocked")
	}
	before, err := t.counted()
	if err != nil {
		return "", err
	}
	devices, err := t.devices()
	if err != nil {
		return "", err
	}
	devices = slices.DeleteFunc(devices, func(d device) bool { return !d.up })
	if len(devices) == 0 {
		return "no device but loopback is up: nothing to probe", nil
	}
	const most = 16
	var sent, passed int
	err = t.inside(func() error {
		raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // protocol 0: it never receives
		if err != nil {
			return fmt.Errorf("opening a packet socket to prove the block (needs CAP_NET_RAW): %w", err)
		}
		defer func() { _ = unix.Close(raw) }()
		for _, d := range devices {
			for _, p := range prefixes[:min(len(prefixes), most)] {
				ethertype, bytes := packet(p.Addr(), 9, t.current.nonce[:])
				if err := d.send(raw, ethertype, bytes, &sent, &passed); err != nil {
					return err
				}
			}
			for _, name := range names {
				question := append([]byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, wire("Probe."+strings.ToUpper(name))...)
				ethertype, bytes := packet(netip.MustParseAddr("198.51.100.1"), domainPort, append(question, 0, 1, 0, 1))
				if err := d.send(raw, ethertype, bytes, &sent, &passed); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	after, err := t.counted()
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%d probes on %d devices: %d dropped by the egress hook, %d not refused", sent, len(devices), after-before, passed)
	// Others may be dropped meanwhile as well.
	if passed > 0 || after-before < uint64(sent) { //nolint:gosec // a count
		return text, fmt.Errorf("%w: %s", ErrLeak, text)
	}
	return text, nil
}

func (d device) send(raw int, ethertype uint16, bytes []byte, sent, passed *int) error {
	to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, ethertype)), Ifindex: d.index}
	if len(d.address) > 0 && len(d.address) <= len(to.Addr) {
		to.Halen = uint8(copy(to.Addr[:], d.address)) //nolint:gosec // at most 8
	}
	switch err := unix.Sendto(raw, bytes, 0, to); {
	case err == nil:
		*sent++
		*passed++
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EPERM): // how the hook's drop is told
		*sent++
	case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
	default:
		return fmt.Errorf("sending a probe on %s: %w", d.name, err)
	}
	return nil
}

// inside runs fn on a thread in the namespace, which ends with it.
func (t *Table) inside(fn func() error) error {
	if t.ns == nil {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(t.fd(), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering network namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// counted is all that the egress chain dropped.
func (t *Table) counted() (uint64, error) {
	conn, err := t.conn()
	if err != nil {
		return 0, err
	}
	objects, err := conn.GetNamedObjects(table())
	if err != nil {
		return 0, fmt.Errorf("reading the block's counters: %w", err)
	}
	var total uint64
	for _, object := range objects {
		if named, ok := object.(*nftables.NamedObj); ok && (named.Name == counterProbe || named.Name == counterEgress) {
			if counter, ok := named.Obj.(*expr.Counter); ok {
				total += counter.Packets
			}
		}
	}
	return total, nil
}
