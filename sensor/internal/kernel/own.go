package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/vedette-edr/vedette/bpf"
)

// enum bpf_object of bpf/include/event.h.
const (
	ownMap     = 1
	ownProgram = 2
	ownLink    = 3
)

// own tells the programs which objects are the sensor's, so that who touches one of
// them is told apart from who uses bpf(2) for himself.
func own(c *ebpf.Collection, links []attached) error {
	if err := ownCollection(c.Maps[bpf.VedetteMapOwnObjects], c); err != nil {
		return err
	}
	for _, l := range links {
		if err := ownLinkOf(c, l); err != nil {
			return err
		}
	}
	return nil
}

// Own has the programs know the objects of a cut as the sensor's, so that who touches its
// word is told as tampering.
func (s *Source) Own(c *Cut) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	return ownCollection(s.collection.Maps[bpf.VedetteMapOwnObjects], c.collection)
}

// ownCollection names maps and programs in ids.
func ownCollection(ids *ebpf.Map, c *ebpf.Collection) error {
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
	return nil
}

// ownLinkOf names one link, also one that had to be made again.
func ownLinkOf(c *ebpf.Collection, a attached) error {
	info, err := a.link.Info()
	if err != nil {
		return fmt.Errorf("looking at the link of %s: %w", a.name, err)
	}
	if err := c.Maps[bpf.VedetteMapOwnObjects].Put(uint64(ownLink)<<32|uint64(info.ID), uint32(1)); err != nil {
		return fmt.Errorf("naming the sensor's own objects: %w", err)
	}
	return nil
}
