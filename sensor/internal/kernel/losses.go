package kernel

import (
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// CauseSampled is the cause of file events that SetFileSampling left out.
const CauseSampled = "sampled by budget"

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
	{Where: "file", Cause: CauseSampled},
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
	return s.readLosses(0)
}

// RecentLosses are the same, but for runs that the kernel skipped, which are read of each
// program: those are at most a second old.
func (s *Source) RecentLosses() []event.Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collection == nil {
		return append([]event.Loss(nil), s.final...)
	}
	return s.readLosses(time.Second)
}

// skipped is how often the kernel did not run each program, as last read.
type skipped struct {
	at     time.Time
	losses []event.Loss
}

// readSkipped needs mu and the programs alive.
func (s *Source) readSkipped() {
	s.skips = skipped{at: time.Now(), losses: s.skips.losses[:0]}
	for name, program := range s.collection.Programs {
		stats, err := program.Stats()
		if err != nil {
			continue // before 5.12 the kernel does not count these
		}
		if stats.RecursionMisses > 0 {
			s.skips.losses = append(s.skips.losses, event.Loss{
				Where: "program:" + name, Cause: "kernel skipped it: already running on the CPU", Count: stats.RecursionMisses,
			})
		}
	}
}

// tableFull is how many processes had no room in the table of processes.
func (s *Source) tableFull() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collection == nil {
		return 0
	}
	all, err := perCPU(s.collection.Maps[bpf.VedetteMapLosses], len(lossCauses))
	if err != nil {
		s.cfg.Logger.Error("reading the loss counters", slog.Any("error", err))
		return 0
	}
	return all[lossTableFull]
}

// readLosses needs mu and the programs alive; skips may be as old as age.
func (s *Source) readLosses(age time.Duration) []event.Loss {
	var losses []event.Loss
	add := func(where, cause string, n uint64) {
		if n > 0 {
			losses = append(losses, event.Loss{Where: where, Cause: cause, Count: n})
		}
	}
	all, err := perCPU(s.collection.Maps[bpf.VedetteMapLosses], len(lossCauses))
	if err != nil {
		s.cfg.Logger.Error("reading the loss counters", slog.Any("error", err))
	}
	for i, n := range all {
		if i != lossTableFull {
			add(lossCauses[i].Where, lossCauses[i].Cause, n)
		}
	}
	if age == 0 || time.Since(s.skips.at) > age {
		s.readSkipped()
	}
	losses = append(losses, s.skips.losses...)
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
	all, err := perCPU(s.collection.Maps[bpf.VedetteMapCounters], counterCount)
	if err != nil {
		s.cfg.Logger.Error("reading the counters", slog.Any("error", err))
	}
	copy(out[:], all)
	return out
}
