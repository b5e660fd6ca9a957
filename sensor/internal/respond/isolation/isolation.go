// Package isolation cuts one network namespace off from everything but its
// coordinator nodes, and puts it back exactly as it was.
//
// The cut is one nftables table of family netdev with an ingress and an egress
// base chain on every device but loopback; new devices follow as the kernel tells of
// them, or by the kernel's own doing where it can and no old nft would choke on that
// (see readers). These two hooks are the only layer that every packet of a
// device passes: IPv4, IPv6 and unknown ethertypes, locally made and forwarded,
// AF_PACKET senders with or without a queueing discipline, and traffic of other
// namespaces that borrow the device. The policy is drop, so what is not named is
// cut, established flows included.
//
// Invariant: the table in the kernel is either absent or whole. Each change is
// one nftables transaction that replaces the whole table; a transaction that
// fails leaves what was there before. Nothing is ever left outside the table,
// so that removing it is an exact undo.
//
// Since Linux 6.9 the table has an owner, this process: the kernel refuses everybody else
// a change of it, nft flush ruleset and a firewall's restart pass it over, and it stays
// when the owner is killed. Before, and while no owner runs, what is changed is put back.
package isolation

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TableName is the one table of family netdev that this package owns.
const TableName = "vedette_isolation"

// netlinkBufferBytes holds a whole transaction, about 400 bytes for each device, and
// an answer to each of its messages should all of them be wrong.
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

// Barrier is the cut of one network namespace. Its methods may be called from
// any goroutine.
type Barrier struct {
	ns      *os.File // nil: the caller's namespace
	hooking hooking
	unowned bool // as on a kernel whose tables cannot be owned

	mu      sync.Mutex
	current *applied
	kernel  *abilities // nil: not asked yet, or it has not the least of them
	readers readers
	// owner is the socket that holds the table.
	owner *netlink.Conn
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
	// lookAgain: the generation moved and the table looked as it was. The kernel counts
	// a generation up just before it shows it, so one look may see the new number with
	// the old table; the next one cannot.
	lookAgain bool
	nonce     [probeNonceBytes]byte
	// shut are the chains that were added for devices that came.
	shut map[string]bool
}

// Open takes the namespace at path, such as /run/netns/web; empty is the
// process's own. It changes nothing.
func Open(path string) (*Barrier, error) {
	if path == "" {
		return &Barrier{readers: readers{}}, nil
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace: %w", err)
	}
	return &Barrier{ns: ns, readers: readers{}}, nil
}

// Close lets go of the namespace. It leaves the table in the kernel, where from now on
// anybody may change it.
func (b *Barrier) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disown()
	if b.ns == nil {
		return nil
	}
	ns := b.ns
	b.ns = nil
	return ns.Close()
}

// abilities are what this kernel can do beyond the least.
type abilities struct {
	owners    bool // keep others from changing a table, as long as its owner's socket is open
	expects   bool // hook in a device whose name is known before it comes
	anyDevice bool // hook in all devices by itself, or those whose names begin as said
}

// owning says whether the table is to have an owner.
func (b *Barrier) owning() bool { return b.kernel != nil && b.kernel.owners && !b.unowned }

// expects says whether there is a chain for devices that are not there yet.
func (b *Barrier) expects() bool { return b.kernel != nil && b.kernel.expects }

// anyDevice says whether one chain is on all devices. That is asked each time, since an
// nft may have been installed.
func (b *Barrier) anyDevice() bool {
	return b.kernel != nil && b.kernel.anyDevice &&
		(b.hooking == hookAnyDevice || b.hooking == hookAsSupported && !b.readers.mayHang())
}

// Supported asks the kernel for both hooks without leaving anything: transactions
// that make a table with empty accepting chains and delete it. What it found is
// remembered, since each takes the kernel some milliseconds.
func (b *Barrier) Supported() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.supported()
}

// supported finds out as well whether a table can be owned, and whether a chain can be on
// devices that are not there yet, all of them or some; to a kernel that does not know how,
// flag, attribute and name are invalid.
func (b *Barrier) supported() error {
	if b.kernel != nil {
		return nil
	}
	if err := b.transact(trial(0, devicesNamed(loopback)...)); err != nil {
		return b.explain(err)
	}
	b.kernel = &abilities{
		owners:    b.transact(trial(ownedTable, devicesNamed(loopback)...)) == nil,
		expects:   b.transact(trial(0, devicesNamed("vedette0", "vedette1")...)) == nil,
		anyDevice: b.transact(trial(0, everyDevice)) == nil,
	}
	return nil
}

// trial is an empty accepting table on some devices.
func trial(flags uint32, devices ...named) *batch {
	const name = TableName + "_trial"
	transaction := &batch{}
	transaction.addTable(name, flags)
	for _, d := range []direction{ingress, egress} {
		transaction.addBaseChain(name, d.String(), hook{direction: d, devices: devices, accept: true})
	}
	transaction.deleteTable(name)
	return transaction
}

// explain turns what a kernel answers into what a person can act on.
func (b *Barrier) explain(err error) error {
	if errors.Is(err, unix.EPERM) && b.held() {
		return ErrHeld
	}
	return explain(err)
}

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
	if err := b.supported(); err != nil {
		return err
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
		if err := b.commit(next, b.flags()); err != nil {
			// A device that vanished between the listing and the transaction.
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
				last = err
				continue
			}
			return b.explain(err)
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
func (b *Barrier) commit(next *applied, flags uint32) error {
	transaction := &batch{}
	transaction.newTable(TableName, flags)
	for _, name := range []string{counterIngress, counterEgress, counterProbe} {
		transaction.addCounter(TableName, name)
	}
	// The hooks come first: each drops all as soon as the kernel reads it, which is
	// some milliseconds before the transaction ends.
	bases := b.bases(next)
	for _, base := range bases {
		transaction.addBaseChain(TableName, base.name, base.hook)
	}
	filter := newFilter(next)
	for _, d := range next.spec.Level.directions() {
		for _, chain := range filter.chains(d) {
			transaction.addChain(TableName, chain.name)
			for _, rule := range chain.rules {
				transaction.addRule(TableName, chain.name, rule)
			}
		}
	}
	for _, base := range bases {
		transaction.addRule(TableName, base.name, jump(base.hook.direction.String()))
	}
	if flags != heldTable { // which cannot wait
		b.addStrangers(transaction, next)
	}
	return b.transact(transaction)
}

// addStrangers drops everything on devices of other names than those that are there, from
// before they can be brought up, until the table is made anew with them. The chains have no
// rule: one with a rule, on a device that it cannot read the name of, makes an older nft
// list a ruleset without end, and one without it does not show. Adapters that the kernel
// names have a chain beside, whose rules let a new one reach the coordinators at once.
func (b *Barrier) addStrangers(transaction *batch, next *applied) {
	if b.kernel == nil || !b.kernel.anyDevice || b.anyDevice() {
		return
	}
	all := strangers(next.surround.devices)
	for _, d := range next.spec.Level.directions() {
		i := 0
		for some := range slices.Chunk(all, maxHookDevices) {
			base := newBase(d, fmt.Sprintf("stranger_%d", i), some...)
			transaction.addBaseChain(TableName, base.name, base.hook)
			i++
		}
	}
}

// base is a chain that the kernel calls.
type base struct {
	name string
	hook hook
}

func newBase(d direction, suffix string, devices ...named) base {
	return base{
		fmt.Sprintf("%s_%s", d, suffix),
		// First of all: nobody's chain may forward or mark a packet before it is cut.
		hook{direction: d, devices: devices, priority: math.MinInt32},
	}
}

func (b *Barrier) bases(next *applied) (bases []base) {
	for _, d := range next.spec.Level.directions() {
		add := func(suffix string, devices ...named) { bases = append(bases, newBase(d, suffix, devices...)) }
		if b.anyDevice() {
			add("any", everyDevice)
			continue
		}
		for _, device := range next.surround.devices {
			add(strconv.Itoa(device.index), named{name: device.name})
		}
		if b.expects() {
			add("expected", devicesNamed(expected(next.surround.devices)...)...)
		}
	}
	return bases
}

// Remove takes the table away, in one transaction. No table is no error.
func (b *Barrier) Remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	transaction := &batch{}
	transaction.deleteTable(TableName)
	if err := b.transact(transaction); err != nil && !errors.Is(err, unix.ENOENT) {
		return b.explain(err)
	}
	b.disown()
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
	// Surroundings: what the table depends on is another: the spec, addresses, and
	// devices where each has its own chain. No one touched the table.
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
	if b.current.unproved || len(b.current.shut) > 0 || !b.suits(surround) || !spec.equal(b.current.spec) {
		drift = Surroundings
	}
	generation, err := b.generation()
	if err != nil {
		return drift, err
	}
	moved := generation != b.current.fingerprint.generation
	if (moved || b.current.lookAgain) && len(b.current.fingerprint.objects) > 0 {
		print, err := b.fingerprint()
		if err != nil {
			return drift, err
		}
		print = print.without(b.current.shut)
		if !print.equal(b.current.fingerprint) && !b.lostOnlyDevices(surround, print) {
			drift = Tampered
		}
		b.current.fingerprint.generation, b.current.lookAgain = print.generation, moved
	}
	if drift == Unchanged {
		return drift, nil
	}
	return drift, b.rebuild(spec)
}

// suits says whether the table in force is the one that these surroundings need.
func (b *Barrier) suits(now surroundings) bool {
	if b.anyDevice() {
		return slices.Equal(now.onLink, b.current.surround.onLink)
	}
	return now.equal(b.current.surround)
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
