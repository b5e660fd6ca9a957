// Package netnstest gives tests network namespaces of their own: two hosts on a
// wire, real senders and a capture that counts what reached the other side.
//
// Nothing here has a name on the machine: a namespace lives by its descriptor
// and is gone with the test, however it ends.
package netnstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a fresh network namespace with loopback up.
type Namespace struct {
	file *os.File
}

// machine is read before any thread of this process can have moved.
var machine, machineErr = func() (stat unix.Stat_t, err error) {
	err = unix.Stat("/proc/self/ns/net", &stat)
	return stat, err
}()

// New makes a namespace, or skips the test where that is not allowed.
func New(t testing.TB) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN) to make network namespaces")
	}
	type made struct {
		file *os.File
		err  error
	}
	done := make(chan made, 1)
	go func() {
		// Never unlocked: the thread is in the new namespace and ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: err}
			return
		}
		file, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		done <- made{file, err}
	}()
	result := <-done
	if errors.Is(result.err, unix.EPERM) {
		t.Skip("SKIP: needs CAP_SYS_ADMIN to make network namespaces")
	}
	if result.err != nil {
		t.Fatalf("making a network namespace: %v", result.err)
	}
	n := &Namespace{result.file}
	t.Cleanup(func() { _ = n.file.Close() })
	n.mustBeForeign(t)
	n.Up(t, "lo")
	return n
}

// mustBeForeign is the guard: no test of isolation may ever work on the
// namespace that the machine itself lives in.
func (n *Namespace) mustBeForeign(t testing.TB) {
	t.Helper()
	var other unix.Stat_t
	if err := errors.Join(machineErr, unix.Fstat(int(n.file.Fd()), &other)); err != nil {
		t.Fatalf("comparing network namespaces: %v", err)
	}
	own := machine
	if own.Dev == other.Dev && own.Ino == other.Ino {
		t.Fatal("refusing to test in the machine's own network namespace")
	}
}

// Path can be opened, by this process only, to reach the namespace.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()) }

// Do runs fn on a thread inside the namespace. Sockets that fn opens stay there.
func (n *Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// Must is Do for what has to work.
func (n *Namespace) Must(t testing.TB, what string, fn func() error) {
	t.Helper()
	if err := n.Do(fn); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Handle speaks rtnetlink with the namespace.
func (n *Namespace) Handle(t testing.TB) *vnl.Handle {
	t.Helper()
	handle, err := vnl.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatalf("opening rtnetlink: %v", err)
	}
	t.Cleanup(handle.Close)
	return handle
}

// Up brings a device up.
func (n *Namespace) Up(t testing.TB, name string) {
	t.Helper()
	handle := n.Handle(t)
	link, err := handle.LinkByName(name)
	if err == nil {
		err = handle.LinkSetUp(link)
	}
	if err != nil {
		t.Fatalf("bringing %s up: %v", name, err)
	}
}

// Address gives a device an address that is usable at once.
func (n *Namespace) Address(t testing.TB, name, cidr string) {
	t.Helper()
	handle := n.Handle(t)
	link, err := handle.LinkByName(name)
	if err != nil {
		t.Fatalf("finding %s: %v", name, err)
	}
	address, err := vnl.ParseAddr(cidr)
	if err != nil {
		t.Fatalf("parsing %s: %v", cidr, err)
	}
	if address.IP.To4() == nil {
		address.Flags = unix.IFA_F_NODAD
	}
	if err := handle.AddrAdd(link, address); err != nil {
		t.Fatalf("adding %s to %s: %v", cidr, name, err)
	}
}

// Index is a device's number.
func (n *Namespace) Index(t testing.TB, name string) int {
	t.Helper()
	link, err := n.Handle(t).LinkByName(name)
	if err != nil {
		t.Fatalf("finding %s: %v", name, err)
	}
	return link.Attrs().Index
}

// MAC is a device's link-layer address.
func (n *Namespace) MAC(t testing.TB, name string) net.HardwareAddr {
	t.Helper()
	link, err := n.Handle(t).LinkByName(name)
	if err != nil {
		t.Fatalf("finding %s: %v", name, err)
	}
	return link.Attrs().HardwareAddr
}

// Wire joins two namespaces by a veth pair, both ends up.
func Wire(t testing.TB, a *Namespace, aName string, b *Namespace, bName string) {
	t.Helper()
	handle := a.Handle(t)
	attrs := vnl.NewLinkAttrs()
	attrs.Name = aName
	err := handle.LinkAdd(&vnl.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: vnl.NsFd(b.file.Fd())})
	if err != nil {
		t.Fatalf("wiring %s to %s: %v", aName, bName, err)
	}
	a.Up(t, aName)
	b.Up(t, bName)
}

// The addresses that Pair gives.
const (
	HostIP4, PeerIP4 = "10.77.0.1", "10.77.0.2"
	HostIP6, PeerIP6 = "fd77::1", "fd77::2"
	HostDevice       = "host0"
	PeerDevice       = "peer0"
)

// Pair is a host and the world that it must be cut from, on one wire.
func Pair(t testing.TB) (host, peer *Namespace) {
	t.Helper()
	host, peer = New(t), New(t)
	Join(t, host, peer)
	return host, peer
}

// Join puts two namespaces on one wire, with Pair's addresses.
func Join(t testing.TB, host, peer *Namespace) {
	t.Helper()
	Wire(t, host, HostDevice, peer, PeerDevice)
	host.Address(t, HostDevice, HostIP4+"/24")
	host.Address(t, HostDevice, HostIP6+"/64")
	peer.Address(t, PeerDevice, PeerIP4+"/24")
	peer.Address(t, PeerDevice, PeerIP6+"/64")
}

// Adopt moves a device of another namespace here.
func (n *Namespace) Adopt(from *vnl.Handle, link vnl.Link) error {
	return from.LinkSetNsFd(link, int(n.file.Fd()))
}
