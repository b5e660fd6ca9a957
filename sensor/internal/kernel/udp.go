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
	// sweepBatch is how many flows one system call copies out (88 KiB): more than
	// any bucket of the table holds.
	sweepBatch = 512
)

// struct udp_key and udp_flow of bpf/include/event.h, read by decode.
type (
	udpKey   [32]byte
	udpValue [184]byte
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

	keys   []udpKey // one batch, kept from sweep to sweep
	values []udpValue
}

func newSweeper(table *ebpf.Map, room int) *sweeper {
	return &sweeper{table: table, room: room, idle: idleEnd, full: idleEndFull, every: sweepEvery,
		keys: make([]udpKey, sweepBatch), values: make([]udpValue, sweepBatch)}
}

// run looks through the table when it is time, and tells each flow that ended;
// now is CLOCK_BOOTTIME.
func (s *sweeper) run(now uint64, sink func(event.Event)) error {
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
		closed, _, err := decode.UDPFlow(value[:], now)
		if err != nil {
			return fmt.Errorf("reading UDP flow: %w", err)
		}
		if closed.Known {
			continue
		}
		sink(closed)
	}
	return nil
}

// silent lists the keys of flows without a datagram for idle.
func (s *sweeper) silent(now uint64, idle time.Duration) (silent []udpKey, used int, err error) {
	var cursor ebpf.MapBatchCursor
	for {
		n, err := s.table.BatchLookup(&cursor, s.keys, s.values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return nil, 0, fmt.Errorf("listing UDP flows: %w", err)
		}
		used += n
		for i := range n {
			_, last, err := decode.UDPFlow(s.values[i][:], now)
			if err != nil {
				return nil, 0, fmt.Errorf("listing UDP flows: %w", err)
			}
			if last+uint64(idle) < now {
				silent = append(silent, s.keys[i])
			}
		}
		if end {
			return silent, used, nil
		}
	}
}

// take removes a flow with its final totals: in one step from 5.14 on, so that no
// datagram between is uncounted.
func (s *sweeper) take(key udpKey) (value udpValue, err error) {
	err = s.table.LookupAndDelete(key, &value)
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
		if err = s.table.Lookup(key, &value); err == nil {
			err = s.table.Delete(key)
		}
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, fmt.Errorf("ending UDP flow: %w", err)
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
