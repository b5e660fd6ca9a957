// Package kernel loads the sensor's eBPF programs, attaches them and reads what
// they say.
//
// Invariant: nothing is lost in silence. Every event that a program could not
// hand over, and every byte that the reader could not understand, is in Losses
// under the place and the cause; what the programs cannot see at all on this
// machine is in CoverageGaps.
//
// Several Sources run beside each other on one kernel: nothing is pinned,
// nothing is shared, and the limit to a scope is held by the programs themselves.
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Errors that callers and people act on.
var (
	// ErrNoBTF: the kernel does not describe its own types, so that the programs
	// cannot be fitted to it.
	ErrNoBTF = errors.New("this kernel has no BTF (/sys/kernel/btf/vmlinux): run a kernel built with CONFIG_DEBUG_INFO_BTF=y, 5.12 or newer")
	// ErrLockdown: the kernel is locked down for confidentiality, which forbids
	// programs to read kernel memory.
	ErrLockdown = errors.New("kernel lockdown is in confidentiality mode, which forbids eBPF to read kernel memory: boot with lockdown=integrity or none")
	// ErrTooOld: the kernel lacks what the base programs need.
	ErrTooOld = errors.New("this kernel is too old: 5.12 or newer is needed")
	// ErrClosed is returned by calls on a closed Source.
	ErrClosed = errors.New("kernel source is closed")
)

// MissingCapabilityError names a capability that the process lacks.
type MissingCapabilityError struct {
	Capability string // CAP_BPF, …
	For        string // what it is needed for
}

// Error implements error.
func (e *MissingCapabilityError) Error() string {
	return fmt.Sprintf("missing %s, needed for %s: run as root, or give the service AmbientCapabilities=%s", e.Capability, e.For, e.Capability)
}

// Kinds of scope.
const (
	ScopeHost   = "host"
	ScopeCgroup = "cgroup"
	ScopeNetNS  = "netns"
)

// Scope is the part of the machine that a Source sees.
type Scope struct {
	// Kind is "host" (the default), "cgroup" or "netns".
	Kind string
	// Path is, for a cgroup, its path below the cgroup v2 mount ("/system.slice/x");
	// for a network namespace a file that stands for it ("/run/netns/web",
	// "/proc/12/ns/net") or "self".
	Path string
}

// Config is what a Source can be told.
type Config struct {
	// Scope limits the Source in the kernel; the zero value is the whole host.
	Scope Scope
	// CriticalRingBytes is the size of the ring of fork, exec and exit: a power of
	// two and whole pages. It must hold what comes while the reader is not
	// scheduled: an exec is 300 B to 9 KiB.
	CriticalRingBytes int
	// BulkRingBytes is the size of the ring of flows and DNS, read every 50 ms, or 250 when
	// nothing comes.
	BulkRingBytes int
	// MaxFlows bounds the table of UDP flows. A datagram of a flow for which there
	// is no room is counted as a loss.
	MaxFlows int
	// Watch are the files of which every change is told; with none of them the Source
	// sees no files at all, and no libraries. DefaultWatch has the usual ones.
	Watch []WatchPath
	// KeepKnown keeps back in the kernel what Know was told, and the forks and ends of
	// processes that did nothing else: they are introduced when they do. False: every
	// fork, exec and exit is told.
	KeepKnown bool
	// Prompt: an exec that is told wakes the reader at once, also soon after another, up to
	// a hundred a second and bursts of five hundred, which else is read by the clock: for
	// a host that acts by itself, where 25 ms later is too late. A wake-up costs some 30 µs.
	Prompt bool
	// Logger gets what an operator should know; nil: silence.
	Logger *slog.Logger
}

// DefaultConfig is a whole host of ordinary size.
func DefaultConfig() Config {
	return Config{
		Scope:             Scope{Kind: ScopeHost},
		CriticalRingBytes: 4 << 20,
		BulkRingBytes:     4 << 20,
		MaxFlows:          16384,
	}
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	if c.Scope.Kind == "" {
		c.Scope.Kind = ScopeHost
	}
	if c.CriticalRingBytes == 0 {
		c.CriticalRingBytes = d.CriticalRingBytes
	}
	if c.BulkRingBytes == 0 {
		c.BulkRingBytes = d.BulkRingBytes
	}
	if c.MaxFlows == 0 {
		c.MaxFlows = d.MaxFlows
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	var problems []error
	ring := func(name string, n int) {
		if n < os.Getpagesize() || n > 1<<30 || bits.OnesCount(uint(n)) != 1 {
			problems = append(problems, fmt.Errorf("%s is %d: it must be a power of two from one page to 1 GiB", name, n))
		}
	}
	ring("critical ring", c.CriticalRingBytes)
	ring("bulk ring", c.BulkRingBytes)
	if c.MaxFlows < 16 || c.MaxFlows > 1<<22 {
		problems = append(problems, fmt.Errorf("max flows is %d: it must be 16 to %d", c.MaxFlows, 1<<22))
	}
	for _, w := range c.Watch {
		if err := w.Validate(); err != nil {
			problems = append(problems, err)
		}
	}
	switch c.Scope.Kind {
	case ScopeHost:
	case ScopeCgroup, ScopeNetNS:
		if c.Scope.Path == "" {
			problems = append(problems, fmt.Errorf("scope %q needs a path", c.Scope.Kind))
		}
	default:
		problems = append(problems, fmt.Errorf("scope %q is unknown: use host, cgroup or netns", c.Scope.Kind))
	}
	return errors.Join(problems...)
}

// Task is one process that runs now.
type Task struct {
	Key      event.ProcessKey
	Parent   event.ProcessKey
	UID      uint32
	CgroupID uint64
	NetNS    uint32
	Comm     string
	InScope  bool // false: only an ancestor of something in the scope
}
