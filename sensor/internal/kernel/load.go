package kernel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"github.com/vedette-edr/vedette/bpf"
)

// Programs by what they need.
var (
	processPrograms     = []string{bpf.VedetteProgProcessFork, bpf.VedetteProgProcessExec, bpf.VedetteProgProcessExit}
	callPrograms        = []string{bpf.VedetteProgCallEnd}
	tcpPrograms         = []string{bpf.VedetteProgTcpState}
	uringSocketPrograms = []string{bpf.VedetteProgUringSocket}
	seedPrograms        = []string{bpf.VedetteProgSeedOwners}
	// What sees files; the calls' own programs are in callClasses, and of them open and
	// map are the privilege family's too.
	nameCallPrograms  = []string{bpf.VedetteProgCallName, bpf.VedetteProgCallAttribute}
	uringFilePrograms = []string{bpf.VedetteProgUringComplete}
	changePrograms    = []string{bpf.VedetteProgInodeChange, bpf.VedetteProgInodeChangeAgain, bpf.VedetteProgInodeChangePlain}
	// The same for kernels before 6.13.
	dirtyPrograms  = []string{bpf.VedetteProgInodeChangeDirty}
	ext4Programs   = []string{bpf.VedetteProgInodeChangeExt4}
	filePrograms   = slices.Concat(uringFilePrograms, changePrograms, dirtyPrograms, ext4Programs)
	modulePrograms = []string{bpf.VedetteProgModuleLoaded}
	tamperPrograms = []string{bpf.VedetteProgSignalSent, bpf.VedetteProgCgroupMoved, bpf.VedetteProgCgroupFrozen}
	// The owners' hooks come before the datagrams': a datagram of a socket made
	// between the two would else have no owner.
	cgroupPrograms = []string{
		bpf.VedetteProgUdpCreate,
		bpf.VedetteProgUdpConnect4, bpf.VedetteProgUdpConnect6,
		bpf.VedetteProgUdpSendmsg4, bpf.VedetteProgUdpSendmsg6,
		bpf.VedetteProgDatagramOut, bpf.VedetteProgDatagramIn,
	}
)

// sipKey is fresh for each load: who knows it could make a behaviour that passes for a
// known one.
func sipKey() (key [2]uint64, err error) {
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return key, fmt.Errorf("making a hash key: %w", err)
	}
	return [2]uint64{binary.NativeEndian.Uint64(raw[:8]), binary.NativeEndian.Uint64(raw[8:])}, nil
}

// load puts the programs into the kernel, fitted to it and to the scope.
func load(cfg Config, f Features, knobs scopeKnobs, key [2]uint64) (*ebpf.Collection, error) {
	spec, err := bpf.LoadVedette()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded programs: %w", err)
	}
	if !f.Flows {
		dropPrograms(spec, tcpPrograms, seedPrograms, cgroupPrograms)
	} else if f.CgroupMount == "" {
		dropPrograms(spec, cgroupPrograms)
	}
	if f.UringSubmit == "" {
		dropPrograms(spec, uringSocketPrograms)
	} else {
		for _, name := range uringSocketPrograms {
			spec.Programs[name].AttachTo = f.UringSubmit
		}
	}
	dropFilePrograms(spec, cfg, f)
	dropPrograms(spec, f.missing)
	if !f.Calls {
		dropPrograms(spec, callPrograms, classPrograms())
	}
	wakeInterval := uint64(busyTick)
	if cfg.Prompt {
		wakeInterval = 0
	}
	for name, value := range map[string]any{
		bpf.VedetteVarSipKey:      key,
		bpf.VedetteVarKeepKnown:   boolKnob(cfg.KeepKnown),
		bpf.VedetteVarScopeKind:   knobs.kind,
		bpf.VedetteVarScopeCgroup: knobs.cgroup,
		bpf.VedetteVarScopeLevel:  knobs.level,
		bpf.VedetteVarScopeNetns:  knobs.netns,
		// A quarter: the reader then still has three quarters' time to come.
		bpf.VedetteVarCriticalWakeBytes: uint64(cfg.CriticalRingBytes / 4),
		bpf.VedetteVarBulkWakeBytes:     uint64(cfg.BulkRingBytes / 4),
		bpf.VedetteVarWakeInterval:      wakeInterval,
		bpf.VedetteVarExitTellsGroup:    boolKnob(f.ExitTellsGroup),
		bpf.VedetteVarTellFiles:         boolKnob(len(cfg.Watch) > 0),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("setting knob %s: %w", name, err)
		}
	}
	if err := setCalls(spec); err != nil {
		return nil, err
	}
	spec.Maps[bpf.VedetteMapCritical].MaxEntries = uint32(cfg.CriticalRingBytes)
	spec.Maps[bpf.VedetteMapBulk].MaxEntries = uint32(cfg.BulkRingBytes)
	spec.Maps[bpf.VedetteMapUdpFlows].MaxEntries = uint32(cfg.MaxFlows)

	if !versionAtLeast(5, 11) {
		if err := rlimit.RemoveMemlock(); err != nil {
			return nil, fmt.Errorf("raising RLIMIT_MEMLOCK: %w", err)
		}
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			cfg.Logger.Error("the kernel's verifier refused a program", slog.String("kernel", f.Release), slog.String("log", fmt.Sprintf("%+v", verifier)))
		}
		return nil, fmt.Errorf("loading eBPF programs on kernel %s: %w", f.Release, err)
	}
	if err := linkCalls(collection); err != nil {
		collection.Close()
		return nil, err
	}
	return collection, nil
}

func boolKnob(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func dropPrograms(spec *ebpf.CollectionSpec, lists ...[]string) {
	for _, names := range lists {
		for _, name := range names {
			delete(spec.Programs, name)
		}
	}
}

// dropFilePrograms leaves what this kernel has the hooks for, and nothing when no file
// is watched.
func dropFilePrograms(spec *ebpf.CollectionSpec, cfg Config, f Features) {
	if len(cfg.Watch) == 0 {
		dropPrograms(spec, nameCallPrograms, filePrograms, []string{bpf.VedetteProgResolveFile})
		return
	}
	if !f.URing {
		dropPrograms(spec, uringFilePrograms)
	}
	switch f.Changes {
	case ChangesEverywhere:
		dropPrograms(spec, dirtyPrograms, ext4Programs)
	case ChangesSome:
		dropPrograms(spec, changePrograms)
		if !f.Ext4 {
			dropPrograms(spec, ext4Programs)
		}
	default:
		dropPrograms(spec, nameCallPrograms, changePrograms, dirtyPrograms, ext4Programs)
	}
}

// attach starts the programs that the collection holds.
func attach(c *ebpf.Collection, f Features) (links []attached, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeLinks(links))
			links = nil
		}
	}()
	start := func(name string, attach func(*ebpf.Program) (link.Link, error)) error {
		program := c.Programs[name]
		if program == nil {
			return nil
		}
		a := attached{name: name, make: func() (link.Link, error) {
			l, err := attach(program)
			if err != nil {
				return nil, fmt.Errorf("attaching %s: %w", name, err)
			}
			return l, nil
		}}
		if a.link, err = a.make(); err != nil {
			return err
		}
		links = append(links, a)
		return nil
	}
	for _, name := range slices.Concat(processPrograms, tcpPrograms, uringSocketPrograms, filePrograms, modulePrograms, tamperPrograms, callPrograms) {
		err := start(name, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: p, AttachType: ebpf.AttachTraceRawTp})
		})
		if err != nil {
			return links, err
		}
	}
	for _, name := range cgroupPrograms {
		// The root of the hierarchy, also for a narrower scope: what counts is where
		// the owner is, and a socket stays in the cgroup that it was made in.
		err := start(name, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: f.CgroupMount, Attach: cgroupAttachType(name), Program: p})
		})
		if err != nil {
			return links, err
		}
	}
	return links, nil
}

func cgroupAttachType(program string) ebpf.AttachType {
	return map[string]ebpf.AttachType{
		bpf.VedetteProgUdpCreate:   ebpf.AttachCGroupInetSockCreate,
		bpf.VedetteProgUdpConnect4: ebpf.AttachCGroupInet4Connect,
		bpf.VedetteProgUdpConnect6: ebpf.AttachCGroupInet6Connect,
		bpf.VedetteProgUdpSendmsg4: ebpf.AttachCGroupUDP4Sendmsg,
		bpf.VedetteProgUdpSendmsg6: ebpf.AttachCGroupUDP6Sendmsg,
		bpf.VedetteProgDatagramOut: ebpf.AttachCGroupInetEgress,
		bpf.VedetteProgDatagramIn:  ebpf.AttachCGroupInetIngress,
	}[program]
}

func closeLinks(links []attached) error {
	var errs []error
	for i := len(links) - 1; i >= 0; i-- {
		errs = append(errs, links[i].link.Close())
	}
	return errors.Join(errs...)
}

// seed gives the sockets that are older than the sensor their owners.
func seed(c *ebpf.Collection) error {
	program := c.Programs[bpf.VedetteProgSeedOwners]
	if program == nil {
		return nil
	}
	for range 2 { // the second time all listening ports are known
		if _, err := iterate(program); err != nil {
			return fmt.Errorf("attributing existing sockets: %w", err)
		}
	}
	return nil
}

// iterate runs an iterator program to its end and returns what it wrote.
func iterate(program *ebpf.Program) ([]byte, error) {
	it, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return nil, fmt.Errorf("attaching iterator: %w", err)
	}
	defer it.Close()
	reader, err := it.Open()
	if err != nil {
		return nil, fmt.Errorf("opening iterator: %w", err)
	}
	defer reader.Close()
	out, err := io.ReadAll(reader)
	if err != nil {
		return nil, fmt.Errorf("reading iterator: %w", err)
	}
	return out, nil
}

// perCPU sums the one entry of a per-CPU array of n counters.
func perCPU(m *ebpf.Map, n int) ([]uint64, error) {
	var raw [][]byte
	if err := m.Lookup(uint32(0), &raw); err != nil {
		return nil, fmt.Errorf("reading counters %s: %w", strings.TrimPrefix(m.String(), "Map"), err)
	}
	sums := make([]uint64, n)
	for _, cpu := range raw {
		for i := range sums {
			sums[i] += binary.NativeEndian.Uint64(cpu[8*i:])
		}
	}
	return sums, nil
}
