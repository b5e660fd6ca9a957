package link

import (
	"context"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// surplusEvery is how often those are looked at who show no certificate, and every
	// surplusRound times the sensors: to look at ten thousand takes some milliseconds.
	surplusEvery = 100 * time.Millisecond
	surplusRound = 10
)

// nothing waits: what is accepted under it is there already.
var nothing = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// take is the peer's next stream, for a handler.
func (c *Conn) take(ctx context.Context) (*quic.Stream, error) {
	c.taking.Lock()
	c.took = true
	if len(c.waiting) > 0 {
		s := c.waiting[0]
		if c.waiting = c.waiting[1:]; len(c.waiting) == 0 {
			c.waiting = nil
		}
		c.taking.Unlock()
		return s, nil
	}
	c.takers++
	c.taking.Unlock()
	defer func() {
		c.taking.Lock()
		defer c.taking.Unlock()
		c.takers--
	}()
	return c.quic.AcceptStream(ctx)
}

// surplus says whether the peer has opened more streams than its protocol has, or some that no
// handler has taken since the last time. What comes on those stays in memory, and neither
// window bounds it: a stream that its sender resets gives the connection's back, and is kept
// until it is accepted. A goroutine that accepts them would cost each session what it has to wait on.
func (c *Conn) surplus() bool {
	c.taking.Lock()
	defer c.taking.Unlock()
	if !c.took || c.takers > 0 {
		return false // a handler takes what comes
	}
	if len(c.waiting) > 0 {
		return true
	}
	for int(c.streams.Load())+len(c.waiting) <= streamLimit(c.alpn) {
		s, err := c.quic.AcceptStream(nothing)
		if err != nil {
			return false
		}
		c.waiting = append(c.waiting, s)
	}
	return true
}

// tooManyStreams ends the connection.
func (c *Conn) tooManyStreams() error {
	c.count("too-many-streams")
	return c.CloseWithReason(CodeTooManyStreams, fmt.Sprintf("more streams at once than %s has: at most %d, and each must be one that the node waits for", c.alpn, streamLimit(c.alpn)))
}

// endSurplus ends connections with streams that nobody reads, until ctx ends. Nodes believe one another.
func (l *Listener) endSurplus(ctx context.Context) {
	ticker := time.NewTicker(surplusEvery)
	defer ticker.Stop()
	var conns []*Conn
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		conns = l.watched(conns[:0], n%surplusRound == 0)
		for _, c := range conns {
			if c.surplus() {
				_ = c.tooManyStreams()
			}
		}
		clear(conns) // or those that end meanwhile would stay
	}
}

// watched appends those without a certificate or, when all, the sensors too.
func (l *Listener) watched(conns []*Conn, all bool) []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !all {
		for c := range l.unknown {
			conns = append(conns, c)
		}
		return conns
	}
	for c := range l.conns {
		if c.alpn != ALPNRaft {
			conns = append(conns, c)
		}
	}
	return conns
}
