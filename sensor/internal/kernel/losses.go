package kernel

import (
	"log/slog"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// lossCauses are where and why, in the order of enum loss of bpf/include/event.h,
// which says of each what exactly did not arrive.
var lossCauses = []event.Loss{
	{Where: "ring:critical", Cause: "exec: ring full"},
	{Where: "ring:critical", Cause: "fork: ring full"},
	{Where: "ring:critical", Cause: "exit: ring full"},
	{Where: "ring:bulk", Cause: "flow: ring full"},
	{Where: "ring:bulk", Cause: "dns: ring full"},
	{Where: "exec", Cause: "argv unreadable"},
	{Where: "socket", Cause: "owner: no memory"},
	{Where: "map:udp_flows", Cause: "table full"},
	{Where: "udp", Cause: "headers unreadable"},
	{Where: "dns", Cause: "payload unreadable"},
	{Where: "exec", Cause: "path unreadable"},
	{Where: "ring:critical", Cause: "introduction: ring full"},
	lossTableFull: {}, // no loss of an event: a gap
	{Where: "ring:bulk", Cause: "dns over tcp: ring full"},
	{Where: "dns over tcp", Cause: "segment unreadable"},
	{Where: "ring:bulk", Cause: "socket: ring full"},
	{Where: "map:accepts", Cause: "table full"},
	{Where: "ring:bulk", Cause: "file: ring full"},
	{Where: "file", Cause: "sampled by budget"},
	{Where: "map:changes", Cause: "table full"},
	{Where: "ring:critical", Cause: "privilege: ring full"},
	{Where: "ring:bulk", Cause: "privilege beyond its process's share: ring full"},
	{Where: "privilege", Cause: "text unreadable"},
}

// lossTableFull is LOSS_PROCESS_TABLE_FULL.
const lossTableFull = 12

// enum counter of bpf/include/event.h.
const (
	counterTotal = iota
	counterSuppressed
	counterUnattributed
	counterCount
)

// Losses are cumulative and exact, by where and cause; only causes that happened.
func (s *Source) Losses() []event.Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collection == nil {
		return append([]event.Loss(nil), s.final...)
	}
	return s.readLosses()
}

// tableFull is how many processes had no room in the table of processes.
func (s *Source) tableFull() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collection == nil {
		return 0
	}
	n, err := perCPU(s.collection.Maps[bpf.VedetteMapLosses], lossTableFull)
	if err != nil {
		s.cfg.Logger.Error("reading a counter", slog.Any("error", err))
	}
	return n
}

// readLosses needs mu and the programs alive.
func (s *Source) readLosses() []event.Loss {
	var losses []event.Loss
	add := func(where, cause string, n uint64) {
		if n > 0 {
			losses = append(losses, event.Loss{Where: where, Cause: cause, Count: n})
		}
	}
	m := s.collection.Maps[bpf.VedetteMapLosses]
	for i, cause := range lossCauses {
		if i == lossTableFull {
			continue
		}
		n, err := perCPU(m, uint32(i))
		if err != nil {
			s.cfg.Logger.Error("reading a loss counter", slog.Any("error", err))
			continue
		}
		add(cause.Where, cause.Cause, n)
	}
	for name, program := range s.collection.Programs {
		stats, err := program.Stats()
		if err != nil {
			continue // before 5.12 the kernel does not count these
		}
		add("program:"+name, "kernel skipped it: already running on the CPU", stats.RecursionMisses)
	}
	add("decode", "malformed record", s.malformed.Load())
	if streams := s.streamLosses.Load(); streams != nil {
		add("dns over tcp", "bytes missing", streams.Missing)
		add("dns over tcp", "too many streams", streams.Evicted)
		add("dns over tcp", "too much out of order", streams.Full)
		add("dns over tcp", "ended within a message", streams.Cut)
	}
	return losses
}

// Counters says how many events the programs made in the scope, lost ones
// included, and how many they kept back because they were known.
func (s *Source) Counters() (total, suppressed uint64) {
	return s.counter(counterTotal), s.counter(counterSuppressed)
}

func (s *Source) counter(which int) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collection == nil {
		return s.totals[which]
	}
	return s.readCounters()[which]
}

// readCounters needs mu and the programs alive.
func (s *Source) readCounters() (out [counterCount]uint64) {
	m := s.collection.Maps[bpf.VedetteMapCounters]
	for i := range out {
		n, err := perCPU(m, uint32(i))
		if err != nil {
			s.cfg.Logger.Error("reading a counter", slog.Any("error", err))
		}
		out[i] = n
	}
	return out
}
