package kernel

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// maxTaints is TAINTS_MAX of bpf/include/maps.h: how many one call of Taint marks at most.
const maxTaints = 1024

// processKey is struct process_key of bpf/include/maps.h.
type processKey struct {
	start uint64
	pid   uint32
	_     uint32
}

// Taint marks processes and everything that came of them, also what user space was
// never told of: from now on all that they do is told, and what they fork and execute
// inherits the mark.
func (s *Source) Taint(keys ...event.ProcessKey) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	table := s.collection.Maps[bpf.VedetteMapTaints]
	for len(keys) > 0 {
		some := keys[:min(len(keys), maxTaints)]
		keys = keys[len(some):]
		if err := taint(table, s.collection.Programs[bpf.VedetteProgSpreadTaint], some); err != nil {
			return err
		}
	}
	return nil
}

func taint(table *ebpf.Map, spread *ebpf.Program, keys []event.ProcessKey) (err error) {
	one := uint32(1)
	for _, key := range keys {
		k := processKey{start: key.Start, pid: key.PID}
		if err := table.Put(unsafe.Slice((*byte)(unsafe.Pointer(&k)), unsafe.Sizeof(k)), one); err != nil {
			return fmt.Errorf("marking a process: %w", err)
		}
		defer func() {
			if gone := table.Delete(unsafe.Slice((*byte)(unsafe.Pointer(&k)), unsafe.Sizeof(k))); gone != nil && !errors.Is(gone, ebpf.ErrKeyNotExist) {
				err = errors.Join(err, fmt.Errorf("ending the marking of a process: %w", gone))
			}
		}()
	}
	for range 2 { // a child with a lower pid than its parent is reached the second time
		if _, err := iterate(spread); err != nil {
			return fmt.Errorf("spreading a mark: %w", err)
		}
	}
	return nil
}

// SetSelf names the sensor's own process: what its children execute is always told,
// because they are its canaries, and what befalls the sensor is told as its own.
func (s *Source) SetSelf(self event.ProcessKey) {
	s.self.Store(&self)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		atomic.StoreUint32(s.poll.self, self.PID)
	}
}

func (s *Source) selfKey() event.ProcessKey {
	if self := s.self.Load(); self != nil {
		return *self
	}
	return event.ProcessKey{}
}
