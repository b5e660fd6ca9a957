package kernel

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/decode"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// sweepEvery is how often the table of UDP flows is looked through.
	sweepEvery = 2 * time.Second
	// idleEnd is after how long a silent UDP flow has ended: RFC 4787 lets a NAT
	// forget it after that much.
	idleEnd = 30 * time.Second
	// idleEndFull is the same when the table is fuller than three quarters.
	idleEndFull = 3 * time.Second
)

// sweeper ends UDP flows that have gone silent: the kernel has no event for that.
type sweeper struct {
	table *ebpf.Map
	room  int
	next  uint64 // CLOCK_BOOTTIME
	used  int    // flows at the last sweep
	idle  time.Duration
	full  time.Duration
	every time.Duration
}

func newSweeper(table *ebpf.Map, room int) *sweeper {
	return &sweeper{table: table, room: room, idle: idleEnd, full: idleEndFull, every: sweepEvery}
}

// run looks through the table when it is time, and tells each flow that ended.
func (s *sweeper) run(sink func(event.Event)) error {
	now, err := bootTime()
	if err != nil {
		return err
	}
	if now < s.next {
		return nil
	}
	s.next = now + uint64(s.every)
	idle := s.idle
	if s.used > s.room*3/4 {
		idle = s.full
	}
	keys, used, err := s.silent(now, idle)
	if err != nil {
		return err
	}
	s.used = used - len(keys)
	for _, key := range keys {
		value, err := s.take(key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		closed, _, err := decode.UDPFlow(value, now)
		if err != nil {
			return fmt.Errorf("reading UDP flow: %w", err)
		}
		sink(closed)
	}
	return nil
}

// silent lists the keys of flows without a datagram for idle.
func (s *sweeper) silent(now uint64, idle time.Duration) (keys [][]byte, used int, err error) {
	keySize, valueSize := int(s.table.KeySize()), int(s.table.ValueSize())
	var key, value []byte
	flows := s.table.Iterate()
	for flows.Next(&key, &value) {
		if len(key) != keySize || len(value) != valueSize {
			return nil, 0, fmt.Errorf("listing UDP flows: entry of %d and %d bytes", len(key), len(value))
		}
		used++
		_, last, err := decode.UDPFlow(value, now)
		if err != nil {
			return nil, 0, fmt.Errorf("listing UDP flows: %w", err)
		}
		if last+uint64(idle) < now {
			keys = append(keys, append([]byte(nil), key...))
		}
	}
	// A table that changes below the walk may break it off: the rest is for the
	// next time.
	if err := flows.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, 0, fmt.Errorf("listing UDP flows: %w", err)
	}
	return keys, used, nil
}

// take removes a flow with its final totals: in one step from 5.14 on, so that no
// datagram between is uncounted.
func (s *sweeper) take(key []byte) (value []byte, err error) {
	err = s.table.LookupAndDelete(key, &value)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
		if err = s.table.Lookup(key, &value); err == nil {
			err = s.table.Delete(key)
		}
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("ending UDP flow: %w", err)
	}
	return value, err
}

func bootTime() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("reading boot time: %w", err)
	}
	return uint64(ts.Nano()), nil
}
