// Package isolation cuts one network namespace off from everything but its
// coordinator nodes, and puts it back exactly as it was.
//
// The cut is one nftables table of family netdev with an ingress and an egress
// base chain on every device but loopback. These two hooks are the only layer
// that every packet of a device passes: IPv4, IPv6 and unknown ethertypes,
// locally made and forwarded, AF_PACKET senders with or without a queueing
// discipline, and traffic of other namespaces that borrow the device. The
// policy is drop, so what is not named is cut, established flows included.
//
// Invariant: the table in the kernel is either absent or whole. Each change is
// one nftables transaction that replaces the whole table; a transaction that
// fails leaves what was there before. Nothing is ever left outside the table,
// so that removing it is an exact undo.
package isolation

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TableName is the one table of family netdev that this package owns.
const TableName = "vedette_isolation"

// MaxNodes bounds the coordinator addresses that stay open: a list longer than
// any cluster is an error or an attempt to widen the opening.
const MaxNodes = 32

// netlinkBufferBytes holds one acknowledgement for each message of a rebuild:
// about 1 KiB of socket memory each, for some thousand devices.
const netlinkBufferBytes = 16 << 20

var (
	// ErrNoEgress says that this kernel has no netdev egress hook (it came with
	// Linux 5.16). Half a cut is no isolation, so nothing is applied.
	ErrNoEgress = errors.New("this kernel cannot filter netdev egress: isolation needs Linux 5.16 or newer with CONFIG_NETFILTER_EGRESS and CONFIG_NF_TABLES_NETDEV")
	// ErrNoPermission says that nftables refused this process.
	ErrNoPermission = errors.New("isolation needs CAP_NET_ADMIN")
	// ErrNotApplied says that there is no cut to check or to probe.
	ErrNotApplied = errors.New("isolation is not applied")
)

// Spec is what stays open besides loopback, address resolution and DHCP.
type Spec struct {
	// Nodes are the coordinator nodes' UDP endpoints. Loopback ones need no opening.
	Nodes []netip.AddrPort
}

// normal is the spec as the kernel sees it: unmapped, without zones, loopback or
// repetitions, in one order.
func (s Spec) normal() (Spec, error) {
	var nodes []netip.AddrPort
	for _, node := range s.Nodes {
		address := node.Addr().Unmap().WithZone("")
		switch {
		case !address.IsValid() || address.IsUnspecified() || address.IsMulticast() || node.Port() == 0:
			return Spec{}, fmt.Errorf("coordinator address %s: want one unicast address and a port", node)
		case address.IsLoopback():
			continue
		}
		nodes = append(nodes, netip.AddrPortFrom(address, node.Port()))
	}
	slices.SortFunc(nodes, netip.AddrPort.Compare)
	nodes = slices.Compact(nodes)
	if len(nodes) > MaxNodes {
		return Spec{}, fmt.Errorf("%d coordinator addresses: at most %d can stay open", len(nodes), MaxNodes)
	}
	return Spec{Nodes: nodes}, nil
}

// LeftOpen says, for people, all that passes an isolation of this spec.
func (s Spec) LeftOpen() []string {
	open := []string{
		"loopback",
		"ARP requests and replies",
		"IPv6 neighbour discovery with hop limit 255: solicitations and advertisements on the link, router solicitation out, router advertisement in",
		"DHCPv4 client: UDP 68 to 255.255.255.255:67 out, UDP 67 to 68 in",
		"DHCPv6 client: link-local UDP 546 to ff02::1:2 port 547 out, link-local UDP 547 to 546 in",
	}
	normal, err := s.normal()
	if err != nil {
		return open
	}
	for _, node := range normal.Nodes {
		open = append(open, fmt.Sprintf("coordinator %s: UDP to it and from it, unfragmented", node))
	}
	return open
}

// NotCut says, for people, what this package is known not to cut. Each is
// measured by the leak matrix, or cannot be on one machine.
func NotCut() []string {
	return []string{
		// __dev_direct_xmit and the drivers' zero-copy paths have no netfilter hook.
		"AF_XDP sockets (they need CAP_NET_RAW)",
		// tc runs before the ingress hook, and a redirect from there skips the egress
		// hook (nf_skip_egress).
		"packets that a traffic-control or XDP program on one device redirects to another (some container networks do)",
		"a device that is moved to another network namespace while isolated",
	}
}

// Barrier is the cut of one network namespace. Its methods may be called from
// any goroutine.
type Barrier struct {
	ns *os.File // nil: the caller's namespace

	mu      sync.Mutex
	current *applied
}

// applied is what the last transaction of this process put into the kernel.
type applied struct {
	spec        Spec
	surround    surroundings
	fingerprint fingerprint
	// unproved: another program wrote nftables at the same moment every time, so the
	// fingerprint may show its edit of our table, or there is none. Reconcile builds
	// it again.
	unproved bool
	nonce    [probeNonceBytes]byte
}

// Open takes the namespace at path, such as /run/netns/web; empty is the
// process's own. It changes nothing.
func Open(path string) (*Barrier, error) {
	if path == "" {
		return &Barrier{}, nil
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace: %w", err)
	}
	return &Barrier{ns: ns}, nil
}

// Close lets go of the namespace. It leaves the table in the kernel.
func (b *Barrier) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ns == nil {
		return nil
	}
	ns := b.ns
	b.ns = nil
	return ns.Close()
}

func (b *Barrier) conn() (*nftables.Conn, error) {
	options := []nftables.ConnOption{nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(netlinkBufferBytes), c.SetWriteBuffer(netlinkBufferBytes))
	})}
	if fd := b.fd(); fd > 0 {
		options = append(options, nftables.WithNetNSFd(fd))
	}
	return nftables.New(options...)
}

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyNetdev}
}

// Supported asks the kernel for both hooks without leaving anything: one
// transaction that makes a table with an empty accepting egress chain on
// loopback and deletes it.
func (b *Barrier) Supported() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.supported()
}

func (b *Barrier) supported() error {
	conn, err := b.conn()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	trial := conn.AddTable(&nftables.Table{Name: TableName + "_trial", Family: nftables.TableFamilyNetdev})
	accept := nftables.ChainPolicyAccept
	for _, hook := range []*nftables.ChainHook{nftables.ChainHookIngress, nftables.ChainHookEgress} {
		conn.AddChain(&nftables.Chain{
			Name: fmt.Sprintf("hook_%d", *hook), Table: trial, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &accept, Device: "lo",
		})
	}
	conn.DelTable(trial)
	return explain(conn.Flush())
}

// explain turns what a kernel answers into what a person can act on.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (%w)", ErrNoPermission, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w (%w)", ErrNoEgress, err)
	}
	return fmt.Errorf("changing nftables: %w", err)
}

// Apply puts the cut in place, or replaces it, in one transaction. Calling it
// again with the same spec is harmless and repairs whatever was changed.
func (b *Barrier) Apply(spec Spec) error {
	spec, err := spec.normal()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil {
		if err := b.supported(); err != nil {
			return err
		}
	}
	return b.rebuild(spec)
}

// rebuildAttempts bounds what devices that come and go, or another writer of
// nftables, can make us repeat at once.
const rebuildAttempts = 4

func (b *Barrier) rebuild(spec Spec) error {
	var last error
	for range rebuildAttempts {
		surround, err := b.surroundings()
		if err != nil {
			return err
		}
		next := &applied{spec: spec, surround: surround, nonce: newProbeNonce()}
		before, err := b.generation()
		if err != nil {
			return err
		}
		if err := b.commit(next); err != nil {
			// A device that vanished between the listing and the transaction.
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
				last = err
				continue
			}
			return explain(err)
		}
		next.fingerprint, err = b.fingerprint()
		switch {
		case errors.Is(err, errBusy):
			// The cut stands; what is not known is how the kernel tells it back.
			next.unproved = true
			b.current, last = next, nil
			continue
		case err != nil:
			return err
		}
		// Exactly one transaction between the two readings is ours alone, so the
		// fingerprint shows our table and nobody's edit of it.
		next.unproved = next.fingerprint.generation != before+1
		b.current, last = next, nil
		if !next.unproved {
			return nil
		}
	}
	// The last transaction stands even when it is unproved: whoever writes nftables
	// in a loop must not be able to prevent an isolation.
	if last != nil {
		return fmt.Errorf("applying isolation in %d attempts: %w", rebuildAttempts, last)
	}
	return nil
}

// commit sends the whole table as one batch. Deleting and making it in the same
// transaction is atomic: the new chains are hooked before the old ones go.
func (b *Barrier) commit(next *applied) error {
	conn, err := b.conn()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	conn.AddTable(table())
	conn.DelTable(table())
	owned := conn.AddTable(table())
	for _, name := range []string{counterIngress, counterEgress, counterProbe} {
		conn.AddObj(&nftables.NamedObj{Table: owned, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	filter := newFilter(next)
	for _, direction := range []direction{ingress, egress} {
		for _, chain := range filter.chains(direction) {
			added := conn.AddChain(&nftables.Chain{Name: chain.name, Table: owned})
			for _, rule := range chain.rules {
				conn.AddRule(&nftables.Rule{Table: owned, Chain: added, Exprs: rule})
			}
		}
		drop := nftables.ChainPolicyDrop
		for _, device := range next.surround.devices {
			base := conn.AddChain(&nftables.Chain{
				Name: fmt.Sprintf("%s_%d", direction, device.index), Table: owned, Type: nftables.ChainTypeFilter,
				Hooknum: direction.hook(), Policy: &drop, Device: device.name,
				// First of all: nobody's chain may forward or mark a packet before it is cut.
				Priority: nftables.ChainPriorityRef(math.MinInt32),
			})
			conn.AddRule(&nftables.Rule{Table: owned, Chain: base, Exprs: []expr.Any{
				&expr.Verdict{Kind: expr.VerdictJump, Chain: direction.String()},
			}})
		}
	}
	return conn.Flush()
}

// Remove takes the table away, in one transaction. No table is no error.
func (b *Barrier) Remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	conn, err := b.conn()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	// Adding first makes the deletion sure to find something.
	conn.AddTable(table())
	conn.DelTable(table())
	if err := conn.Flush(); err != nil {
		return explain(err)
	}
	b.current = nil
	return nil
}

// Present says whether a table of our name is in the kernel, whoever put it there.
func (b *Barrier) Present() (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	print, err := b.fingerprint()
	if err != nil {
		return false, err
	}
	return len(print.objects) > 0, nil
}

// Drift is what Reconcile found changed.
type Drift int

// What Reconcile may find.
const (
	Unchanged Drift = iota
	// Surroundings: devices or addresses came or went; no one touched the table.
	Surroundings
	// Tampered: somebody removed or changed the table.
	Tampered
)

// Reconcile compares the kernel with what was applied and repairs it. spec may
// differ from the last one, which counts as Surroundings.
func (b *Barrier) Reconcile(spec Spec) (Drift, error) {
	spec, err := spec.normal()
	if err != nil {
		return Unchanged, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil {
		return Unchanged, ErrNotApplied
	}
	drift := Unchanged
	surround, err := b.surroundings()
	if err != nil {
		return drift, err
	}
	if b.current.unproved || !surround.equal(b.current.surround) || !slices.Equal(spec.Nodes, b.current.spec.Nodes) {
		drift = Surroundings
	}
	generation, err := b.generation()
	if err != nil {
		return drift, err
	}
	if generation != b.current.fingerprint.generation && len(b.current.fingerprint.objects) > 0 {
		print, err := b.fingerprint()
		if err != nil {
			return drift, err
		}
		if !print.equal(b.current.fingerprint) && !b.lostOnlyDevices(surround, print) {
			drift = Tampered
		}
		b.current.fingerprint.generation = print.generation
	}
	if drift == Unchanged {
		return drift, nil
	}
	return drift, b.rebuild(spec)
}

// lostOnlyDevices says whether the table differs only because the kernel took
// the chains of vanished devices with them, which is not tampering.
func (b *Barrier) lostOnlyDevices(now surroundings, print fingerprint) bool {
	gone := map[string]bool{}
	for _, device := range b.current.surround.devices {
		if !slices.ContainsFunc(now.devices, device.same) {
			gone[fmt.Sprintf("%s_%d", ingress, device.index)] = true
			gone[fmt.Sprintf("%s_%d", egress, device.index)] = true
		}
	}
	return len(gone) > 0 && print.without(gone).equal(b.current.fingerprint.without(gone))
}
