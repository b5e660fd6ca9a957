// Package link is how the parts of Vedette talk: QUIC with mutual TLS 1.3, one
// UDP port for sensors, peers and enrolment, told apart by ALPN. It is the only
// user of quic-go; everybody else sees streams as net.Conn and errors that say
// what to do.
//
// Invariant: a handler is called only for a peer whose certificate was verified
// for that ALPN (kind, cluster, validity, revocation). Who a peer is comes from
// its certificate and from nothing that it says.
package link

import (
	"errors"
	"fmt"
	"time"
)

// ALPNs. Each demands another kind of certificate from the one who dials.
const (
	ALPNSensor = "vedette-sensor/1" // a host's
	ALPNRaft   = "vedette-raft/1"   // a node's
	ALPNEnroll = "vedette-enroll/1" // none: the join token is the credential
)

// ServerName is the DNS name that every node certificate carries and every dial
// verifies: addresses of nodes change, their role does not.
const ServerName = "node.vedette"

// Codes that a connection is closed with. Append only: peers of other versions read them.
const (
	CodeOK              uint64 = 0
	CodeShutdown        uint64 = 1  // the node is stopping: go to another one
	CodeBadFrame        uint64 = 2  // too large, truncated or malformed
	CodeProtocol        uint64 = 3  // a message that has no place here
	CodeWrongKind       uint64 = 4  // the certificate is of another kind than the ALPN asks
	CodeRevoked         uint64 = 5  // the certificate was revoked
	CodeForeignCluster  uint64 = 6  // the certificate names another cluster
	CodeTooManyStreams  uint64 = 7  // more concurrent streams than the ALPN allows
	CodeInternal        uint64 = 8  // the node's own fault
	CodeSuperseded      uint64 = 9  // a newer session of the same peer replaces this one
	CodeExpired         uint64 = 10 // the certificate expired during the connection
	CodeNotServed       uint64 = 11 // this node does not serve the ALPN (now)
	CodeSilent          uint64 = 12 // the peer's side of the path has fallen silent
	CodeUnknownProtocol uint64 = 13 // another protocol version
	CodeStopped         uint64 = 14 // the sensor was told to stop
	CodeBusy            uint64 = 15 // no more of these for now: try another node, or again
)

// Certificate kinds.
const (
	KindHost     = "host"
	KindNode     = "node"
	KindOperator = "operator"
)

var (
	// ErrAddrInUse: another process has the UDP port.
	ErrAddrInUse = errors.New("UDP port is in use")
	// ErrUnreachable: nothing answered.
	ErrUnreachable = errors.New("no answer")
	// ErrPeerLost: an established connection fell silent or its peer restarted.
	ErrPeerLost = errors.New("connection lost")
	// ErrBusy: the node refuses new connections for now; try another one.
	ErrBusy = errors.New("node refuses new connections")
	// ErrUnknownALPN: the peer does not speak what was asked for.
	ErrUnknownALPN = errors.New("peer does not speak this protocol")
	// ErrExpired: one's own certificate is out of its validity.
	ErrExpired = errors.New("certificate is expired or not yet valid")
	// ErrPeerExpired: the peer's certificate is out of its validity by our clock.
	ErrPeerExpired = errors.New("peer's certificate is expired or not yet valid")
	// ErrForeignCA: one of the two certificates was issued by another CA than the other side trusts.
	ErrForeignCA = errors.New("certificate of another CA")
	// ErrCertificateRefused: the peer did not accept our certificate (or the lack of one).
	ErrCertificateRefused = errors.New("certificate refused")
	// ErrWrongPeer: the peer has a valid certificate, but is not what was dialled.
	ErrWrongPeer = errors.New("wrong peer")
	// ErrBadIdentity: a certificate carries no (or no proper) Vedette identity.
	ErrBadIdentity = errors.New("certificate carries no vedette identity")
	// ErrBadName: a name that no node and no operator may have.
	ErrBadName = errors.New("bad name")
	// ErrBadToken: a join token is not in the form that `vedette token create` prints.
	ErrBadToken = errors.New("malformed join token")
)

// ClosedError says that the connection was closed on purpose, by whom and why.
type ClosedError struct {
	Code   uint64
	Reason string
	Remote bool
}

func (e *ClosedError) Error() string {
	who := "closed"
	if e.Remote {
		who = "closed by peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("connection %s (code %d)", who, e.Code)
	}
	return fmt.Sprintf("connection %s: %s (code %d)", who, e.Reason, e.Code)
}

// Is makes a node's refusal for lack of room ErrBusy, whoever of its layers refuses.
func (e *ClosedError) Is(target error) bool {
	return target == ErrBusy && e.Remote && e.Code == CodeBusy
}

// Timeouts by use. A sensor's are long because there are ten thousand of them, and
// short enough that its silence is told within 15 s (a ping each 5 s: some 0.6 MiB a
// day); a node's are short because raft waits for them.
const (
	DefaultKeepAlive     = 5 * time.Second
	DefaultMaxIdle       = 30 * time.Second
	DefaultRaftKeepAlive = time.Second
	DefaultRaftMaxIdle   = 3 * time.Second
	handshakeIdle        = 5 * time.Second
)

// streamLimit bounds how many streams a peer may have open, by what it is.
func streamLimit(alpn string) int {
	switch alpn {
	case ALPNRaft:
		return mostStreams
	case ALPNEnroll:
		return 1
	default:
		return 4
	}
}
