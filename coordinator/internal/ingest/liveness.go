package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// A sensor lives as long as its packets come: it pings when it has nothing to say,
// and nothing answers in its place once it is killed, stopped or frozen. So liveness
// costs a look at a counter, and the log hears of ends only.
const (
	sweepEvery = time.Second
	// sweepLate: a node that was itself stopped for so long knows nothing about others.
	sweepLate = 3 * time.Second
	// missing is how long after its ping was due a sensor counts as gone. A sensor
	// that hears nothing leaves a node after 3 s, so that by then it is elsewhere.
	missing = 4 * time.Second
	// oldKeepAlive is that of sensors that do not state theirs; maxKeepAlive bounds
	// what one may state.
	oldKeepAlive = 10 * time.Second
	maxKeepAlive = 30 * time.Second
	// leaderless is how long a node may be without a leader before it sends its
	// sensors to others: it could tell nobody that one of them went silent.
	leaderless = 4 * time.Second
	// goodbyeTime bounds how long a sensor that stops is kept waiting for the log.
	goodbyeTime = 2 * time.Second
)

// How a session ends, as raftv1.SessionEnd.how says it.
const (
	endStopped = "stopped"
	endFailed  = "failed"
	endClosed  = "closed"
	endUnheard = "unheard"
	endNode    = "node"
)

// maxFailure bounds a sensor's last words, in bytes.
const maxFailure = 400

// errGoodbye: the sensor ends by itself.
var errGoodbye = errors.New("the sensor said goodbye")

func keepAliveOf(hello *sensorv1.Hello) time.Duration {
	if hello.GetKeepAliveMs() == 0 {
		return oldKeepAlive
	}
	return min(time.Duration(hello.GetKeepAliveMs())*time.Millisecond, maxKeepAlive)
}

// because notes how the session ends, the first time only: what follows is a consequence.
func (n *session) because(how, detail string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.how == "" {
		n.how, n.detail = how, detail
	}
}

// alive looks whether anything came since the last look and answers for how long nothing has.
func (n *session) alive(now time.Time) time.Duration {
	packets := n.conn.PacketsReceived()
	n.mu.Lock()
	defer n.mu.Unlock()
	if packets != n.packets {
		n.packets, n.heard = packets, now
	}
	return now.Sub(n.heard)
}

// excuse takes it that the sensor was heard now.
func (n *session) excuse(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heard = now
}

// ending is what the log is told of the session's end.
func (n *session) ending(now time.Time) *raftv1.SessionEnd {
	n.alive(now)
	if err := n.conn.Err(); err != nil {
		var closed *link.ClosedError
		switch {
		case errors.As(err, &closed) && closed.Remote && closed.Code == link.CodeStopped:
			n.because(endStopped, "")
		case errors.As(err, &closed) && closed.Remote:
			n.because(endClosed, fmt.Sprintf("code %d: %s", closed.Code, closed.Reason))
		case errors.Is(err, link.ErrPeerLost):
			n.because(endUnheard, err.Error())
		}
	}
	n.because(endClosed, "")
	n.mu.Lock()
	defer n.mu.Unlock()
	return &raftv1.SessionEnd{Host: n.host, Session: n.number, How: n.how, Detail: words(n.detail), Heard: n.heard.UnixNano()}
}

// sweep ends the sessions of sensors that are heard no more, and all of them when this
// node is alone, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	last, led := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		stalled := now.Sub(last) > sweepLate
		last = now
		_, _, leads := s.cfg.Log.Leader()
		if leads || stalled {
			led = now
		}
		gone := 0
		for _, n := range s.open() {
			quiet := n.alive(now)
			switch {
			case stalled:
				n.excuse(now)
			case now.Sub(led) > leaderless:
				n.because(endNode, "the node had no leader")
				n.end(link.CodeInternal, "this node cannot reach a quorum: try another one")
			case leads && quiet > n.keepAlive+missing:
				gone++
				n.because(endUnheard, "")
				n.end(link.CodeSilent, "nothing was heard of the sensor")
			}
		}
		if gone > 0 {
			s.cfg.Logger.Warn("sensors are heard no more", "sessions", gone)
		}
	}
}

// lostByOthers: the log says that this node was lost with its sessions. The sensors
// come again at once, and are told to the log again.
func (s *Server) lostByOthers() {
	for _, n := range s.open() {
		n.because(endNode, "the cluster took the node for lost")
		n.end(link.CodeInternal, "the cluster took this node for lost: connect again")
	}
}

// goodbye notes that the sensor ends by itself. The connection is closed when the log
// has it, which is what the sensor waits for.
func (s *Server) goodbye(n *session, bye *sensorv1.Goodbye) error {
	if bye.GetFailure() == "" {
		n.because(endStopped, "")
	} else {
		n.because(endFailed, bye.GetFailure())
	}
	return errGoodbye
}

// words bounds what came from outside and makes it valid text.
func words(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxFailure)], "") }

// open are the sessions of now.
func (s *Server) open() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*session, 0, len(s.sessions))
	for _, n := range s.sessions {
		all = append(all, n)
	}
	return all
}
