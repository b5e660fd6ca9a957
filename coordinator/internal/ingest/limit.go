package ingest

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
)

// A stranger may fail to enrol so often at once, and then once in so long. A
// right token is never limited: a fleet behind one address enrols at full speed.
const (
	failureBurst  = 10
	failurePeriod = 5 * time.Second
	// maxAddresses bounds the memory that strangers can make us use. When it is
	// full everybody unknown is limited as one.
	maxAddresses = 4096
)

// limiter counts failures by address; IPv6 by /64, which one stranger has whole.
type limiter struct {
	now func() time.Time
	mu  sync.Mutex
	// full is when each address will have no failure held against it.
	full map[netip.Prefix]time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, full: make(map[netip.Prefix]time.Time)}
}

// wait is how long the address must wait; zero lets it in.
func (l *limiter) wait(addr net.Addr) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, failed := l.full[l.key(addr)]
	if !failed {
		return 0
	}
	return max(0, at.Sub(l.now())-(failureBurst-1)*failurePeriod)
}

func (l *limiter) failed(addr net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, key := l.now(), l.key(addr)
	at := l.full[key]
	if at.Before(now) {
		at = now
	}
	l.full[key] = at.Add(failurePeriod)
}

func (l *limiter) key(addr net.Addr) netip.Prefix {
	key := link.Network(addr)
	if _, known := l.full[key]; known || len(l.full) < maxAddresses {
		return key
	}
	now := l.now()
	for k, at := range l.full {
		if at.Before(now) {
			delete(l.full, k)
		}
	}
	if len(l.full) < maxAddresses {
		return key
	}
	return netip.Prefix{}
}
