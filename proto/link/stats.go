package link

import (
	"maps"
	"sync"
)

// Stats are a listener's counters since its start.
type Stats struct {
	// Accepted connections by ALPN: those that reached their handler.
	Accepted map[string]uint64
	// Refused by cause: handshakes that failed, peers that were turned away and
	// connections that were aborted for what the peer sent.
	Refused map[string]uint64
	// Retried handshakes were asked to prove their address first.
	Retried uint64
	// Handshaking and Open are now.
	Handshaking, Open int
}

type counters struct {
	mu    sync.Mutex
	stats Stats
}

func newCounters() *counters {
	return &counters{stats: Stats{Accepted: make(map[string]uint64), Refused: make(map[string]uint64)}}
}

func (c *counters) with(fn func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(&c.stats)
}

func (c *counters) refuse(cause string) { c.with(func(s *Stats) { s.Refused[cause]++ }) }

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Accepted, s.Refused = maps.Clone(s.Accepted), maps.Clone(s.Refused)
	return s
}
