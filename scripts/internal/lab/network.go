package lab

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a named network namespace (visible to "ip netns").
type Namespace struct {
	Name string
	fd   netns.NsHandle
}

// enter runs fn with the calling thread in the namespace; a nil one is where we are.
func (n *Namespace) enter(fn func() error) error {
	if n == nil {
		return fn()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return fmt.Errorf("opening our own namespace: %w", err)
	}
	defer home.Close()
	if err := netns.Set(n.fd); err != nil {
		return fmt.Errorf("entering namespace %s: %w", n.Name, err)
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			// A thread left in another namespace would act on the wrong host.
			panic(fmt.Sprintf("leaving namespace %s: %v", n.Name, err))
		}
	}()
	return fn()
}

// Do runs fn in the namespace, on a thread of its own.
func (n *Namespace) Do(fn func() error) error {
	result := make(chan error, 1)
	go func() { result <- n.enter(fn) }()
	return <-result
}

// Path is the file that names the namespace.
func (n *Namespace) Path() string { return "/run/netns/" + n.Name }

// Namespace makes a namespace that Close removes. One with this name from an
// earlier run that was killed is removed first.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	_ = netns.DeleteNamed(name)
	ns := &Namespace{Name: name}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		ns.fd, err = netns.NewNamed(name)
		if back := netns.Set(home); back != nil {
			// The thread is lost to Go (never unlocked), so that nothing else runs on it.
			result <- errors.Join(err, back)
			return
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	if err := <-result; err != nil {
		return nil, fmt.Errorf("making namespace %s: %w", name, err)
	}
	l.OnClose(func() error {
		return errors.Join(ns.fd.Close(), netns.DeleteNamed(name))
	})
	return ns, ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// Switch makes a namespace with one bridge that Attach plugs hosts into.
func (l *Lab) Switch(name string) (*Namespace, error) {
	ns, err := l.Namespace(name)
	if err != nil {
		return nil, err
	}
	return ns, ns.Do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("making the bridge: %w", err)
		}
		return netlink.LinkSetUp(bridge)
	})
}

// Attach plugs a namespace into a switch as eth0 with these addresses (CIDR).
func Attach(sw, host *Namespace, port string, addresses ...string) error {
	err := sw.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(host.fd))}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("making the cable %s: %w", port, err)
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
	})
	if err != nil {
		return err
	}
	return host.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, address := range addresses {
			parsed, err := netlink.ParseAddr(address)
			if err != nil {
				return err
			}
			// No duplicate-address detection: the address is used at once.
			parsed.Flags = 0x02
			if parsed.IP.To4() != nil {
				parsed.Flags = 0
			}
			if err := netlink.AddrAdd(link, parsed); err != nil {
				return fmt.Errorf("adding %s: %w", address, err)
			}
		}
		return netlink.LinkSetUp(link)
	})
}

// DefaultRoute sends what has no better way through eth0 to gateway.
func DefaultRoute(host *Namespace, gateway string) error {
	return host.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)})
	})
}

// Run runs a program in the namespace to its end and returns all that it printed.
func (l *Lab) Run(ns *Namespace, cmd *exec.Cmd) ([]byte, error) {
	var out []byte
	err := ns.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return out, fmt.Errorf("running %v: %w\n%s", cmd.Args, err, out)
	}
	return out, nil
}
