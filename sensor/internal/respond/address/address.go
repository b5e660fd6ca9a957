// Package address drops the traffic of one network namespace with some addresses,
// and its look-ups of some names.
//
// All blocks are one nftables table of family netdev, vedette_block, with an
// ingress and an egress chain on every device but loopback, where established
// flows, forwarded containers and packet sockets pass as well. It is built from
// the whole Spec and replaced in one transaction, so that it is absent or whole,
// and an empty Spec is its removal: an exact undo.
//
// Only the far side counts: where a packet comes from on its way in and where it
// goes on its way out, so that a prefix which holds an address of this host cuts
// nothing else. The coordinator nodes stay open whatever is blocked.
package address

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TableName is the one table of family netdev that this package owns.
const TableName = "vedette_block"

// Bounds.
const (
	// MaxPrefixes of all blocks together.
	MaxPrefixes = 4096
	// MaxNames whose look-ups are dropped: each is some five hundred rules that a
	// query to port 53 walks through.
	MaxNames = 16
	// Shortest prefixes: a wider one is an isolation by another name.
	shortest4, shortest6 = 8, 16
)

const netlinkBufferBytes = 16 << 20

var (
	// ErrRefused: what would be cut must stay.
	ErrRefused = errors.New("refused")
	// ErrNoEgress: half a block is none.
	ErrNoEgress = errors.New("this kernel cannot filter netdev egress: blocking needs Linux 5.16 or newer with CONFIG_NETFILTER_EGRESS and CONFIG_NF_TABLES_NETDEV")
	// ErrLeak: a probe passed.
	ErrLeak = errors.New("a probe packet passed the block")
)

// Spec is all that is blocked.
type Spec struct {
	Prefixes []netip.Prefix
	Names    []string
	// Nodes are the coordinator nodes' UDP endpoints.
	Nodes []netip.AddrPort
}

func (s Spec) empty() bool { return len(s.Prefixes) == 0 && len(s.Names) == 0 }

// nat64 is the well-known prefix of RFC 6052, by which a host without IPv4
// reaches the same peers.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// normal is sorted, without repetitions and without what another prefix holds,
// with the translated form of each IPv4 prefix.
func (s Spec) normal() Spec {
	var all []netip.Prefix
	for _, p := range s.Prefixes {
		p = unmap(p)
		all = append(all, p)
		if p.Addr().Is4() {
			bytes := nat64.Addr().As16()
			four := p.Addr().As4()
			copy(bytes[12:], four[:])
			all = append(all, netip.PrefixFrom(netip.AddrFrom16(bytes), 96+p.Bits()))
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var kept []netip.Prefix
	for _, p := range all {
		if n := len(kept); n > 0 && kept[n-1].Overlaps(p) {
			continue // the one before begins no later and is no longer
		}
		kept = append(kept, p)
	}
	var nodes []netip.AddrPort
	for _, node := range s.Nodes {
		if a := node.Addr().Unmap().WithZone(""); a.IsValid() && node.Port() != 0 {
			nodes = append(nodes, netip.AddrPortFrom(a, node.Port()))
		}
	}
	slices.SortFunc(nodes, netip.AddrPort.Compare)
	names := slices.Clone(s.Names)
	slices.Sort(names)
	return Spec{Prefixes: kept, Names: slices.Compact(names), Nodes: slices.Compact(nodes)}
}

func unmap(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func (s Spec) equal(o Spec) bool {
	return slices.Equal(s.Prefixes, o.Prefixes) && slices.Equal(s.Names, o.Names) && slices.Equal(s.Nodes, o.Nodes)
}

// Parse reads CIDR or one address, as people and grants write it.
func Parse(texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, err := netip.ParseAddr(text)
			if err != nil || a.Zone() != "" {
				return nil, fmt.Errorf("%w: %q is neither an address nor a prefix such as 203.0.113.0/24", ErrRefused, text)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		prefixes = append(prefixes, unmap(p))
	}
	return prefixes, nil
}

// never are the ranges that a host needs to be one.
var never = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("0.0.0.0/8"), "this network's own"},
	{netip.MustParsePrefix("::/128"), "the unspecified address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast and broadcast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// Refusal says why a prefix must not be blocked here; nil: it may.
func (t *Table) Refusal(p netip.Prefix, nodes []netip.AddrPort) error {
	p = unmap(p)
	least := shortest6
	if p.Addr().Is4() {
		least = shortest4
	}
	if p.Bits() < least {
		return fmt.Errorf("%w: %s is wider than /%d: isolate instead", ErrRefused, p, least)
	}
	for _, n := range never {
		if p.Overlaps(n.prefix) {
			return fmt.Errorf("%w: %s overlaps %s (%s)", ErrRefused, p, n.prefix, n.why)
		}
	}
	for _, node := range nodes {
		if p.Contains(node.Addr().Unmap().WithZone("")) {
			return fmt.Errorf("%w: %s holds the coordinator node %s", ErrRefused, p, node)
		}
	}
	own, gateways, err := t.needed()
	if err != nil {
		return err
	}
	for _, a := range gateways {
		if p.Contains(a) {
			return fmt.Errorf("%w: %s holds this host's gateway %s", ErrRefused, p, a)
		}
	}
	for _, a := range own {
		if p.Contains(a) && p.IsSingleIP() {
			return fmt.Errorf("%w: %s is this host's own", ErrRefused, a)
		}
	}
	return nil
}

// Table is the block of one network namespace.
type Table struct {
	ns *os.File // nil: the caller's namespace

	mu      sync.Mutex
	current *applied
}

type applied struct {
	spec    Spec
	devices []device
	print   fingerprint
	nonce   [nonceBytes]byte
}

// Open takes the namespace at path; empty is the process's own. It changes nothing.
func Open(path string) (*Table, error) {
	if path == "" {
		return &Table{}, nil
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace: %w", err)
	}
	return &Table{ns: ns}, nil
}

// Close leaves the table in the kernel.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ns == nil {
		return nil
	}
	ns := t.ns
	t.ns = nil
	return ns.Close()
}

func (t *Table) fd() int {
	if t.ns == nil {
		return 0
	}
	return int(t.ns.Fd())
}

func (t *Table) conn() (*nftables.Conn, error) {
	options := []nftables.ConnOption{nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(netlinkBufferBytes), c.SetWriteBuffer(netlinkBufferBytes))
	})}
	if fd := t.fd(); fd > 0 {
		options = append(options, nftables.WithNetNSFd(fd))
	}
	conn, err := nftables.New(options...)
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return conn, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyNetdev}
}

func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("blocking needs CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w (%w)", ErrNoEgress, err)
	}
	return fmt.Errorf("changing nftables: %w", err)
}

// Supported asks for both hooks and leaves nothing.
func (t *Table) Supported() error {
	conn, err := t.conn()
	if err != nil {
		return err
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

// Apply replaces all that is blocked.
func (t *Table) Apply(spec Spec) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rebuild(spec.normal())
}

const rebuildAttempts = 4

func (t *Table) rebuild(spec Spec) error {
	if len(spec.Prefixes) > 2*MaxPrefixes || len(spec.Names) > MaxNames {
		return fmt.Errorf("%w: %d prefixes and %d names; at most %d and %d can be blocked at once", ErrRefused, len(spec.Prefixes), len(spec.Names), MaxPrefixes, MaxNames)
	}
	var last error
	for range rebuildAttempts {
		devices, err := t.devices()
		if err != nil {
			return err
		}
		next := &applied{spec: spec, devices: devices, nonce: newNonce()}
		if last = t.commit(next); last != nil {
			// A device that vanished between the listing and the transaction.
			if errors.Is(last, unix.ENOENT) || errors.Is(last, unix.ENODEV) {
				continue
			}
			return explain(last)
		}
		if next.print, err = t.fingerprint(); err != nil && !errors.Is(err, errBusy) {
			return err
		}
		t.current = next
		return nil
	}
	return explain(last)
}

// commit sends the whole table as one batch.
func (t *Table) commit(next *applied) error {
	conn, err := t.conn()
	if err != nil {
		return err
	}
	conn.AddTable(table())
	conn.DelTable(table())
	if next.spec.empty() {
		return conn.Flush()
	}
	owned := conn.AddTable(table())
	for _, name := range []string{counterIngress, counterEgress, counterProbe} {
		conn.AddObj(&nftables.NamedObj{Table: owned, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	sets, err := addSets(conn, owned, next.spec)
	if err != nil {
		return err
	}
	for _, chain := range next.chains(sets) {
		added := conn.AddChain(&nftables.Chain{Name: chain.name, Table: owned})
		for _, rule := range chain.rules {
			conn.AddRule(&nftables.Rule{Table: owned, Chain: added, Exprs: rule})
		}
	}
	accept := nftables.ChainPolicyAccept
	for _, device := range next.devices {
		for direction, hook := range map[string]*nftables.ChainHook{"ingress": nftables.ChainHookIngress, "egress": nftables.ChainHookEgress} {
			base := conn.AddChain(&nftables.Chain{
				Name: fmt.Sprintf("%s_%d", direction, device.index), Table: owned, Type: nftables.ChainTypeFilter,
				Hooknum: hook, Policy: &accept, Device: device.name,
				// Right after an isolation.
				Priority: nftables.ChainPriorityRef(math.MinInt32 + 1),
			})
			conn.AddRule(&nftables.Rule{Table: owned, Chain: base, Exprs: []expr.Any{
				&expr.Verdict{Kind: expr.VerdictJump, Chain: direction},
			}})
		}
	}
	return conn.Flush()
}

// Remove takes the table away. No table is no error.
func (t *Table) Remove() error { return t.Apply(Spec{}) }

// Drift is what Reconcile found changed.
type Drift int

// What Reconcile may find.
const (
	Unchanged Drift = iota
	// Surroundings: devices came or went, or the Spec is another.
	Surroundings
	// Tampered: somebody removed or changed the table.
	Tampered
)

// Reconcile compares the kernel with what is wanted and repairs it.
func (t *Table) Reconcile(spec Spec) (Drift, error) {
	spec = spec.normal()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == nil {
		return Surroundings, t.rebuild(spec)
	}
	devices, err := t.devices()
	if err != nil {
		return Unchanged, err
	}
	drift := Unchanged
	if !slices.EqualFunc(devices, t.current.devices, device.same) || !spec.equal(t.current.spec) {
		drift = Surroundings
	}
	generation, err := t.generation()
	if err != nil {
		return drift, err
	}
	if drift == Unchanged && generation != t.current.print.generation {
		print, err := t.fingerprint()
		if err != nil {
			return drift, err
		}
		if !slices.Equal(print.objects, t.current.print.objects) {
			drift = Tampered
		}
		t.current.print.generation = print.generation
	}
	if drift == Unchanged {
		return drift, nil
	}
	return drift, t.rebuild(spec)
}

// Present says whether a table of our name is in the kernel.
func (t *Table) Present() (bool, error) {
	print, err := t.fingerprint()
	return len(print.objects) > 0, err
}

// String is for a report.
func (s Spec) String() string {
	const most = 16
	var texts []string
	for _, p := range s.Prefixes {
		if len(texts) == most {
			texts = append(texts, fmt.Sprintf("and %d more", len(s.Prefixes)-most))
			break
		}
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}
