package kernel

import (
	"context"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Features is what this kernel can do.
type Features struct {
	Release     string // uname -r
	CgroupMount string // where cgroup v2 is mounted, "" when nowhere
	Gaps        []string
}

// Source is the loaded and attached programs.
type Source struct{}

// Probe says what this kernel and this process's rights allow.
func Probe() (Features, error) { return Features{}, ErrTooOld }

// Open loads and attaches.
func Open(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return nil, ErrTooOld
}

// Run reads until ctx ends and calls sink from one goroutine.
func (s *Source) Run(ctx context.Context, sink func(event.Event)) error { return ErrClosed }

// Losses are cumulative and exact, by where and cause.
func (s *Source) Losses() []event.Loss { return nil }

// Counters says how many events the programs made, and how many they kept back.
func (s *Source) Counters() (total, suppressed uint64) { return 0, 0 }

// CoverageGaps lists what is not seen on this machine.
func (s *Source) CoverageGaps() []string { return nil }

// Tasks lists the processes of the scope and their ancestors.
func (s *Source) Tasks(ctx context.Context) ([]Task, error) { return nil, ErrClosed }

// Close detaches everything. It is idempotent.
func (s *Source) Close() error { return nil }
