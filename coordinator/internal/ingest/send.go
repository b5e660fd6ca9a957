package ingest

import (
	"crypto/sha256"
	"net"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// grant sends a grant once in a session: a sensor honours its nonce once, and a
// second copy would only be answered with a refusal.
func (n *session) grant(signed *sensorv1.SignedGrant, set *grant.HostSet, wrote chan<- struct{}) {
	sum := sha256.Sum256(signed.GetPayload())
	n.mu.Lock()
	if slices.Contains(n.granted, sum) {
		n.mu.Unlock()
		tell(wrote)
		return
	}
	n.granted = append(n.granted, sum)
	n.mu.Unlock()
	n.queue(outgoing{&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Grant{Grant: &sensorv1.SignedGrant{
		Payload: signed.GetPayload(), Signatures: signed.GetSignatures(), Proof: set.Prove(n.host)}}}, wrote})
}

// send queues a message and never blocks: a sensor that does not read loses its
// session, and what matters of the queue comes again with the next one.
func (n *session) send(m *sensorv1.CoordinatorMessage) { n.queue(outgoing{message: m}) }

func (n *session) queue(m outgoing) {
	n.mu.Lock()
	switch {
	case n.over:
		n.mu.Unlock()
		tell(m.wrote)
	case len(n.out) < sendQueue:
		n.out = append(n.out, m)
		n.startWriter()
		n.mu.Unlock()
	default:
		n.mu.Unlock()
		tell(m.wrote)
		n.server.counts.slow.Add(1)
		n.server.cfg.Logger.Warn("session closed: the sensor does not read", "host", n.host)
		n.end(link.CodeProtocol, "too many unread messages")
	}
}

// welcomed lets go what was queued before.
func (n *session) welcomed(stream net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stream = stream
	n.startWriter()
}

// startWriter starts one when something waits and none runs. Messages to a sensor are rare:
// a goroutine that waits for them would cost every session its stack. The caller holds mu.
func (n *session) startWriter() {
	if n.stream == nil || n.writing || n.over || len(n.out) == 0 {
		return
	}
	n.writing = true
	n.writer.Go(n.writeAll)
}

func tell(c chan<- struct{}) {
	if c != nil {
		c <- struct{}{}
	}
}

func (n *session) writeAll() {
	for {
		n.mu.Lock()
		some := n.out
		n.out = nil
		n.writing = !n.over && len(some) > 0
		if !n.writing {
			n.mu.Unlock()
			return
		}
		n.mu.Unlock()
		for i, m := range some {
			err := write(n.stream, m.message)
			tell(m.wrote)
			if err != nil {
				n.end(link.CodeInternal, "writing to the sensor failed")
				for _, m := range some[i+1:] {
					tell(m.wrote)
				}
				break
			}
		}
	}
}

func write(stream net.Conn, m *sensorv1.CoordinatorMessage) error {
	_ = stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	return frame.Write(stream, m)
}

// silence lets nothing more be queued or begun to be written.
func (n *session) silence() (first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first = !n.over
	n.over = true
	for _, m := range n.out {
		tell(m.wrote)
	}
	n.out = nil
	return first
}

// end closes the connection, once; an empty reason leaves that to the listener,
// so that the peer can take the last answer.
func (n *session) end(code uint64, reason string) {
	if n.silence() && reason != "" {
		_ = n.conn.CloseWithReason(code, reason)
	}
}
