package respond

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
	"github.com/vedette-edr/vedette/sensor/internal/respond/address"
)

const (
	// maxTargetPrefixes of one order.
	maxTargetPrefixes = 64
	// maxNameAddresses of one name: one that resolves to more changes them as fast
	// as they are blocked, and its look-ups are dropped anyway.
	maxNameAddresses = 256
	// lookUpLimit bounds the look-up that a block begins with.
	lookUpLimit = 3 * time.Second
	// askAgain is how often the sensor's own knowledge of a name is asked for.
	askAgain = 10 * time.Second
)

// network is what all blocks of addresses and names share: one table, made from
// all of them.
type network struct {
	c     *containments
	table *address.Table

	// blocks by the containment's ID; acting guards them.
	blocks map[string]address.Spec
	asked  map[string]time.Duration
	tick   uint64

	// nodes are asked for beside the path: that may look names up.
	nodes atomic.Pointer[[]netip.AddrPort]
	// names are looked at for every answer that the host gets.
	names   atomic.Pointer[[]string]
	mu      sync.Mutex
	answers map[string][]netip.Addr
}

// named is the state of a block of a name.
type named struct {
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

func (c *containments) addNetwork() error {
	table, err := address.Open(c.r.cfg.NetNS)
	if err != nil {
		return err
	}
	c.closers = append(c.closers, table.Close)
	n := &network{c: c, table: table, blocks: map[string]address.Spec{}, asked: map[string]time.Duration{}, answers: map[string][]netip.Addr{}}
	c.network = n
	addresses := &remedy{
		check: n.checkAddresses,
		apply: func(_ context.Context, one *containment, _ func()) (string, error) {
			prefixes, err := address.Parse(one.target().GetPrefixes())
			if err != nil {
				return "", err
			}
			return n.put(one.ID, address.Spec{Prefixes: prefixes})
		},
		undo: n.take, keep: n.keepAddresses,
	}
	c.remedies[sensorv1.Action_ACTION_BLOCK_ADDRESS], c.remedies[sensorv1.Action_ACTION_BLOCK_NEIGHBOUR] = addresses, addresses
	c.remedies[sensorv1.Action_ACTION_BLOCK_NAME] = &remedy{check: n.checkName, apply: n.applyName, undo: n.take, keep: n.keepName}
	return nil
}

// spec is all that is blocked now.
func (n *network) spec() address.Spec {
	spec := address.Spec{Nodes: n.coordinators()}
	for _, b := range n.blocks {
		spec.Prefixes = append(spec.Prefixes, b.Prefixes...)
		spec.Names = append(spec.Names, b.Names...)
	}
	names := slices.Clone(spec.Names)
	n.names.Store(&names)
	return spec
}

func (n *network) coordinators() []netip.AddrPort {
	if known := n.nodes.Load(); known != nil {
		return *known
	}
	return n.askNodes()
}

func (n *network) askNodes() []netip.AddrPort {
	nodes := n.c.r.cfg.NodeAddresses()
	n.nodes.Store(&nodes)
	return nodes
}

// followNodes while something is contained.
func (n *network) followNodes(ctx context.Context) {
	for range pulse.Ticks(ctx, askAgain) {
		n.askNodes()
	}
}

// put blocks and proves it.
func (n *network) put(id string, spec address.Spec) (string, error) {
	n.blocks[id] = spec
	if err := n.table.Apply(n.spec()); err != nil {
		return "", err
	}
	return n.table.Probe(spec.Prefixes, spec.Names)
}

func (n *network) take(_ context.Context, one *containment) (string, error) {
	spec, had := n.blocks[one.ID]
	delete(n.blocks, one.ID)
	if err := n.table.Apply(n.spec()); err != nil {
		if had {
			n.blocks[one.ID] = spec
		}
		return "", err
	}
	delete(n.asked, one.ID)
	return "", nil
}

// room is an error when there is none for that much more.
func (n *network) room(prefixes, names int) error {
	for _, b := range n.blocks {
		prefixes += len(b.Prefixes)
		names += len(b.Names)
	}
	if prefixes > address.MaxPrefixes || names > address.MaxNames {
		return fmt.Errorf("at most %d addresses and %d names are blocked at once; release some first", address.MaxPrefixes, address.MaxNames)
	}
	return n.table.Supported()
}

func (n *network) checkAddresses(_ context.Context, t *sensorv1.Target) (string, error) {
	if len(t.GetPrefixes()) == 0 || len(t.GetPrefixes()) > maxTargetPrefixes {
		return "", fmt.Errorf("%w: name 1 to %d addresses or prefixes", ErrNoTarget, maxTargetPrefixes)
	}
	prefixes, err := address.Parse(t.GetPrefixes())
	if err != nil {
		return "", err
	}
	nodes := n.askNodes()
	for _, p := range prefixes {
		if err := n.table.Refusal(p, nodes); err != nil {
			return "", err
		}
	}
	if err := n.room(len(prefixes), 0); err != nil {
		return "", err
	}
	text := "drop all packets to and from " + (address.Spec{Prefixes: prefixes}).String()
	if t.GetSuspect() != "" {
		text += ", the host " + t.GetSuspect()
	}
	return text + ", on every device but loopback, established flows included", nil
}

func (n *network) checkName(_ context.Context, t *sensorv1.Target) (string, error) {
	if t.GetName() == "" {
		return "", fmt.Errorf("%w: name a name", ErrNoTarget)
	}
	name, err := address.Name(t.GetName())
	if err != nil {
		return "", err
	}
	if err := n.room(1, 1); err != nil {
		return "", err
	}
	usable, left := n.usable(n.resolved(name), nil)
	text := fmt.Sprintf("drop look-ups of %s and of all names below it (DNS over UDP and TCP port 53), and all packets to and from what it is known to resolve to: %s",
		name, address.Spec{Prefixes: single(usable)})
	if len(usable) == 0 {
		text += "nothing yet"
	}
	text += "; it is looked up once more for that, and later answers are added; whoever else is at these addresses is cut as well"
	if len(left) > 0 {
		text += "; left out: " + strings.Join(left, ", ")
	}
	return text, nil
}

func (n *network) resolved(name string) []netip.Addr {
	if n.c.cfg.Resolved == nil {
		return nil
	}
	return n.c.cfg.Resolved(name)
}

// usable leaves out what a name must not cut: who controls a name writes any
// address into it, such as a coordinator's or the file server's.
func (n *network) usable(addresses, known []netip.Addr) (usable []netip.Addr, left []string) {
	nodes := n.coordinators()
	for _, a := range addresses {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || slices.Contains(usable, a) || slices.Contains(known, a) {
			continue
		}
		switch {
		case a.IsPrivate() || shared.Contains(a):
			left = append(left, a.String()+" (private: block the address itself if it is meant)")
		case n.table.Refusal(netip.PrefixFrom(a, a.BitLen()), nodes) != nil:
			left = append(left, a.String()+" (this host or the cluster needs it)")
		case len(known)+len(usable) >= maxNameAddresses:
			return usable, append(left, fmt.Sprintf("more than %d addresses", maxNameAddresses))
		default:
			usable = append(usable, a)
		}
	}
	return usable, left
}

// shared is of carriers' translators, RFC 6598.
var shared = netip.MustParsePrefix("100.64.0.0/10")

func single(addresses []netip.Addr) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, a := range addresses {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

func (n *network) applyName(ctx context.Context, one *containment, save func()) (string, error) {
	name, err := address.Name(one.target().GetName())
	if err != nil {
		return "", err
	}
	var state named
	if err := one.recall(&state); err != nil {
		return "", err
	}
	lookUp := n.c.cfg.LookUp
	if lookUp == nil {
		lookUp = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
		}
	}
	limited, cancel := context.WithTimeout(ctx, lookUpLimit)
	now, lookErr := lookUp(limited, name)
	cancel()
	more, left := n.usable(append(now, n.resolved(name)...), state.Addresses)
	state.Addresses = append(state.Addresses, more...)
	one.remember(state)
	save()
	text, err := n.put(one.ID, address.Spec{Prefixes: single(state.Addresses), Names: []string{name}})
	text = fmt.Sprintf("%s; %d addresses", text, len(state.Addresses))
	if len(left) > 0 {
		text += "; left out: " + strings.Join(left, ", ")
	}
	if lookErr != nil {
		text += "; it could not be looked up now: " + lookErr.Error()
	}
	return text, err
}

// Answered tells of an answer to a look-up. What is said of a blocked name, or of
// one below it, is blocked within a moment. It only takes a note.
func (r *Responder) Answered(name string, addresses []netip.Addr) {
	n := r.contain.network
	if n == nil {
		return
	}
	names := n.names.Load()
	if names == nil {
		return
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	for _, blocked := range *names {
		if name != blocked && !strings.HasSuffix(name, "."+blocked) {
			continue
		}
		n.mu.Lock()
		if len(n.answers[blocked]) < maxNameAddresses {
			n.answers[blocked] = append(n.answers[blocked], addresses...)
		}
		n.mu.Unlock()
		r.contain.wake()
	}
}

func (n *network) keepAddresses(_ context.Context, _ *containment, _ func()) (string, error) {
	return n.reconcile()
}

// reconcile is once for all blocks in a tick.
func (n *network) reconcile() (string, error) {
	if n.tick == n.c.ticks {
		return "", nil
	}
	n.tick = n.c.ticks
	drift, err := n.table.Reconcile(n.spec())
	if err != nil {
		n.tick = 0
		return "", err
	}
	if drift == address.Tampered {
		return "another program changed or removed the table of blocked addresses in the kernel", nil
	}
	return "", nil
}

func (n *network) keepName(_ context.Context, one *containment, save func()) (string, error) {
	name, err := address.Name(one.target().GetName())
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	answers := n.answers[name]
	delete(n.answers, name)
	n.mu.Unlock()
	if now := n.c.r.cfg.Clock.Boot(); now-n.asked[one.ID] >= askAgain {
		n.asked[one.ID] = now
		answers = append(answers, n.resolved(name)...)
	}
	var state named
	if err := one.recall(&state); err != nil {
		return "", err
	}
	more, left := n.usable(answers, state.Addresses)
	if len(more) > 0 {
		if err := n.room(len(more), 0); err != nil {
			return "", err
		}
		state.Addresses = append(state.Addresses, more...)
		one.remember(state)
		save()
		n.blocks[one.ID] = address.Spec{Prefixes: single(state.Addresses), Names: []string{name}}
		n.tick = 0
		n.c.r.cfg.Logger.Info("a blocked name has new addresses", "operation", one.Operation, "name", name, "added", len(more), "left_out", len(left))
	}
	return n.reconcile()
}

// restore blocks again, all at once, what was blocked before a restart.
func (n *network) restore() {
	for _, one := range n.c.list() {
		spec, err := n.specOf(one)
		if err != nil {
			n.c.r.cfg.Logger.Error("a block cannot be read back", "operation", one.Operation, "error", err)
			continue
		}
		if one.Phase == phaseApplied && one.remaining(n.c.r.cfg.Clock) > 0 && (len(spec.Prefixes) > 0 || len(spec.Names) > 0) {
			n.blocks[one.ID] = spec
		}
	}
	present, err := n.table.Present()
	if len(n.blocks) == 0 && (err != nil || !present) {
		return
	}
	if err := n.table.Apply(n.spec()); err != nil {
		n.c.r.cfg.Logger.Error("blocks could not be put back and are tried again", "error", err)
		return
	}
	if len(n.blocks) == 0 {
		n.c.report(&sensorv1.IsolationStatus{
			Operation: recoveredOperation, Action: sensorv1.Action_ACTION_BLOCK_ADDRESS,
			State:  sensorv1.IsolationState_ISOLATION_STATE_RELEASED,
			Detail: "a table of blocked addresses was found that no containment belongs to: removed",
		})
	}
}

func (n *network) specOf(one *containment) (address.Spec, error) {
	switch one.Action {
	case sensorv1.Action_ACTION_BLOCK_ADDRESS, sensorv1.Action_ACTION_BLOCK_NEIGHBOUR:
		prefixes, err := address.Parse(one.target().GetPrefixes())
		return address.Spec{Prefixes: prefixes}, err
	case sensorv1.Action_ACTION_BLOCK_NAME:
		var state named
		name, err := address.Name(one.target().GetName())
		err = errors.Join(err, one.recall(&state))
		return address.Spec{Prefixes: single(state.Addresses), Names: []string{name}}, err
	}
	return address.Spec{}, nil
}
