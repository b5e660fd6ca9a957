package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// enum bpf_object of bpf/include/event.h.
const (
	ownMap     = 1
	ownProgram = 2
	ownLink    = 3
)

// SetSelf says which process the sensor is, its PID as the machine's own namespace
// has it: what that does itself is not told, and who lays hands on it is. Until it
// is said neither holds.
func (s *Source) SetSelf(self event.ProcessKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.poll.is(self.PID)
	}
}

// own tells the programs which objects are the sensor's, so that who touches one of
// them is told apart from who uses bpf(2) for himself.
func own(c *ebpf.Collection, links []link.Link) error {
	ids := c.Maps[bpf.VedetteMapOwnObjects]
	put := func(kind uint64, id uint32) error {
		if err := ids.Put(kind<<32|uint64(id), uint32(1)); err != nil {
			return fmt.Errorf("naming the sensor's own objects: %w", err)
		}
		return nil
	}
	for name, m := range c.Maps {
		info, err := m.Info()
		if err != nil {
			return fmt.Errorf("looking at map %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			if err := put(ownMap, uint32(id)); err != nil {
				return err
			}
		}
	}
	for name, p := range c.Programs {
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("looking at program %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			if err := put(ownProgram, uint32(id)); err != nil {
				return err
			}
		}
	}
	for _, l := range links {
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("looking at a link: %w", err)
		}
		if err := put(ownLink, uint32(info.ID)); err != nil {
			return err
		}
	}
	return nil
}
