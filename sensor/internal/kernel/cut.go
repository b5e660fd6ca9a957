package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

// CutLevel is what a Cut drops: enum cut_level of bpf/src/cut.bpf.c.
type CutLevel uint32

// Levels of a Cut.
const (
	CutNone   CutLevel = iota // nothing: armed and idle
	CutAll                    // what comes in and what goes out
	CutEgress                 // what goes out
)

const (
	// maxCutNodes is NODES_MAX of bpf/src/cut.bpf.c.
	maxCutNodes = 32
	// Places in struct cut_state of bpf/src/cut.bpf.c; the level is at its begin.
	sensorOffset     = 4
	xdpSocketsOffset = 8
)

// ErrCutClosed is returned by calls on a closed Cut.
var ErrCutClosed = errors.New("the cut is closed")

// CutConfig is what a Cut can be told.
type CutConfig struct {
	// NetNS is the network namespace to cut: a file that stands for it, such as
	// /run/netns/web; "" is the process's own.
	NetNS string
	// Nodes are the coordinator nodes' UDP endpoints, at most 32; SetNodes changes them.
	// Loopback ones need no opening.
	Nodes []netip.AddrPort
	// Logger gets what an operator should know; nil: silence.
	Logger *slog.Logger
}

// Cut is a network namespace that can be cut off by one store to memory: programs hang on
// every device but loopback, in and out, before everybody else's, and drop all but what an
// isolation leaves open while a word is set. Its methods may be called from any goroutine.
//
// It is the first of two layers, and the quick one. It goes with its process until Keep
// makes it outlive it, which is when the isolation's table stands and a lease is on disk:
// a crash before that must not leave a cut without an end. Where filters are used instead
// (before 6.6) they stay with the word as it was, until the next Cut of the namespace or
// RemoveKept takes them out. NotCut says what passes by it.
type Cut struct {
	cfg        CutConfig
	ns         *os.File // nil: the process's own
	collection *ebpf.Collection
	page       []byte
	level      *uint32
	cgroup     string // where cgroup v2 is mounted, "" when nowhere
	sockets    link.Link
	self       uint32        // this process, as the kernel numbers it
	kick       chan struct{} // wakes Follow
	xdpCut     atomic.Bool

	mu         sync.Mutex
	closed     bool
	tcx        bool // links; else filters
	devices    map[int]*cutDevice
	nodes      map[cutNode]bool
	onLink     map[netip.Prefix]bool
	displaced  map[int]bool // devices on which somebody else's program comes first
	uncovered  map[string]error
	foreign    []string          // devices with somebody else's XDP program
	sniffs     bool              // Keep asked for what comes before packet sockets
	stuck      string            // what hung where when one that is not known kept others from theirs
	unsniffed  map[string]string // devices where that is not as it should be, and why
	options    link.Link         // of cut_setsockopt, while XDP is cut
	frozen     map[FrozenProcess]*pidfd
	xdp        XDPReport                // of the last look
	kept       map[string]*ebpf.Program // copies that outlive the process; nil: none
	recognises bool                     // programs by their number, as who takes over must
	netns      uint64                   // the kernel's number of the namespace
	names      pins                     // for what outlives this sensor
	named      bool                     // what is kept has names there
	copies     map[string]*ebpf.Program // loaded beforehand, for kept
	tookOver   bool                     // what an earlier sensor left is taken out
}

// cutNode is struct node of bpf/src/cut.bpf.c.
type cutNode struct {
	address [16]byte
	port    [2]byte // network order
	family  uint16
	_       uint32
}

func (n *cutNode) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(n)), unsafe.Sizeof(*n)) }

// OpenCut arms a namespace: from here on Set cuts it. Sockets that this process makes from
// here on count as the sensor's; Allow adds older ones.
func OpenCut(cfg CutConfig) (*Cut, error) { return openCutWith(cfg) }

// openCutWith is OpenCut with last changes before anything is loaded.
func openCutWith(cfg CutConfig, change ...func(*Cut)) (*Cut, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := probeRights(); err != nil {
		return nil, err
	}
	c := &Cut{
		cfg: cfg, devices: map[int]*cutDevice{}, nodes: map[cutNode]bool{}, onLink: map[netip.Prefix]bool{},
		displaced: map[int]bool{}, uncovered: map[string]error{}, frozen: map[FrozenProcess]*pidfd{}, tcx: versionAtLeast(6, 6), kick: make(chan struct{}, 1),
		names: pinFolder,
	}
	for _, f := range change {
		f(c)
	}
	if err := c.open(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cut) open() (err error) {
	if c.cfg.NetNS != "" {
		if c.ns, err = os.Open(c.cfg.NetNS); err != nil {
			return fmt.Errorf("opening network namespace: %w", err)
		}
	}
	if c.cgroup, err = cgroupMount(); err != nil {
		return err
	}
	if err := c.load(); err != nil {
		return err
	}
	if _, err := c.collection.Programs[bpf.CutProgCutSelf].Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("naming the sensor to the cut: %w", err)
	}
	if err := c.probeRecognition(); err != nil {
		return err
	}
	c.self = atomic.LoadUint32((*uint32)(unsafe.Pointer(&c.page[sensorOffset])))
	if c.cgroup != "" {
		c.sockets, err = link.AttachCgroup(link.CgroupOptions{
			Path: c.cgroup, Attach: ebpf.AttachCGroupInetSockCreate, Program: c.collection.Programs[bpf.CutProgCutCreate],
		})
		if err != nil {
			return fmt.Errorf("attaching %s: %w", bpf.CutProgCutCreate, err)
		}
	}
	if c.tcx {
		// Beforehand: the verifier takes a tenth of a second for them, and an isolation is
		// whole that much later.
		if err := c.copyPrograms(); err != nil {
			return err
		}
	}
	if err := c.SetNodes(c.cfg.Nodes); err != nil {
		return err
	}
	return c.Reconcile()
}

// load puts the programs into the kernel and maps the word.
func (c *Cut) load() error {
	spec, err := bpf.LoadCut()
	if err != nil {
		return fmt.Errorf("reading the embedded programs: %w", err)
	}
	if c.netns, err = c.cookie(); err != nil {
		return err
	}
	if err := spec.Variables[bpf.CutVarNetnsCookie].Set(c.netns); err != nil {
		return fmt.Errorf("setting knob %s: %w", bpf.CutVarNetnsCookie, err)
	}
	if !hasXDPSockets() {
		dropPrograms(spec, []string{bpf.CutProgListXdp, bpf.CutProgXdpHolders, bpf.CutProgXdpMappers})
	}
	for _, name := range sniffPrograms {
		spec.Programs[name].Name = keptName
	}
	if c.collection, err = ebpf.NewCollection(spec); err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			c.cfg.Logger.Error("the kernel's verifier refused a program of the cut", slog.String("log", fmt.Sprintf("%+v", verifier)))
		}
		return fmt.Errorf("loading the programs of the cut: %w", err)
	}
	if err := c.bindTaken(); err != nil {
		return err
	}
	c.page, err = unix.Mmap(c.collection.Maps[".bss"].FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the word of the cut: %w", err)
	}
	c.level = (*uint32)(unsafe.Pointer(&c.page[0]))
	return nil
}

// cookie is the kernel's number of the namespace.
func (c *Cut) cookie() (cookie uint64, err error) {
	err = c.inside(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening a socket in the network namespace: %w", err)
		}
		defer unix.Close(fd)
		if cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
			return fmt.Errorf("reading the network namespace's cookie (5.14): %w", err)
		}
		return nil
	})
	return cookie, err
}

// Set stores the word and returns: a plain store, with no system call and no lock, so that
// it can be made where a verdict is reached. Packets that were past the hook, in a queueing
// discipline or in the driver's ring, still leave. After Close it does nothing.
func (c *Cut) Set(level CutLevel) {
	if c.level != nil {
		atomic.StoreUint32(c.level, uint32(level))
	}
}

// Level is what the word says now.
func (c *Cut) Level() CutLevel {
	if c.level == nil {
		return CutNone
	}
	return CutLevel(atomic.LoadUint32(c.level))
}

// SetNodes replaces the endpoints that stay open. While it runs both the old and the new
// ones may be.
func (c *Cut) SetNodes(nodes []netip.AddrPort) error {
	want := map[cutNode]bool{}
	for _, node := range nodes {
		address := node.Addr().Unmap().WithZone("")
		if !address.IsValid() || address.IsUnspecified() || address.IsMulticast() || node.Port() == 0 {
			return fmt.Errorf("coordinator address %s: want one unicast address and a port", node)
		}
		if address.IsLoopback() {
			continue
		}
		key := cutNode{family: unix.AF_INET6, port: [2]byte{byte(node.Port() >> 8), byte(node.Port())}}
		if address.Is4() {
			key.family = unix.AF_INET
		}
		copy(key.address[:], address.AsSlice())
		want[key] = true
	}
	if len(want) > maxCutNodes {
		return fmt.Errorf("%d coordinator addresses: at most %d can stay open", len(want), maxCutNodes)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	table := c.collection.Maps[bpf.CutMapNodes]
	// First those that go: there may be no room for both.
	for key := range c.nodes {
		if !want[key] {
			if err := table.Delete(key.bytes()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("closing a coordinator's address: %w", err)
			}
			delete(c.nodes, key)
		}
	}
	for key := range want {
		if err := table.Put(key.bytes(), uint32(1)); err != nil {
			return fmt.Errorf("opening a coordinator's address: %w", err)
		}
		c.nodes[key] = true
	}
	return nil
}

// Allow marks a socket of this process as the sensor's. A UDP socket that it made after
// OpenCut is marked already, where a cgroup v2 hierarchy is mounted.
func (c *Cut) Allow(fd uintptr) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	if err := c.collection.Maps[bpf.CutMapOurs].Put(uint32(fd), uint32(1)); err != nil { //nolint:gosec // a descriptor
		return fmt.Errorf("marking the sensor's socket: %w", err)
	}
	return nil
}

// Dropped counts the packets that were dropped since OpenCut.
func (c *Cut) Dropped() (in, out uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, 0, ErrCutClosed
	}
	both, err := perCPU(c.collection.Maps[bpf.CutMapDropped], 2)
	if err != nil {
		return 0, 0, err
	}
	return both[1], both[0], nil
}

// Close takes the programs out, whatever the word is, but those that Keep attached, and lets
// frozen processes be as they are: what ends an isolation calls Set(CutNone), Unkeep and
// ReleaseXDP before it. It is idempotent.
func (c *Cut) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	for _, p := range c.copies {
		_ = p.Close() // a descriptor; those that hang on devices stay there
	}
	var errs []error
	for _, d := range c.devices {
		errs = append(errs, c.detach(d))
	}
	for _, l := range []link.Link{c.options, c.sockets} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	for _, p := range c.frozen {
		errs = append(errs, p.close())
	}
	// The page stays mapped: a Set that is under way must find it.
	if c.collection != nil {
		c.collection.Close()
	}
	if c.ns != nil {
		errs = append(errs, c.ns.Close())
	}
	return errors.Join(errs...)
}
