package ingest

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// maxEnrolling bounds the enrolments that this node works on at once.
	maxEnrolling = 64
	// maxNode bounds what a joining node says of itself: a name and two addresses.
	maxNode = 4 << 10
)

// ServeEnroll is the handler of vedette-enroll/1: one request, one answer.
func (s *Server) ServeEnroll(ctx context.Context, conn *link.Conn) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.HelloTimeout+s.cfg.CommitTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()
	_ = stream.SetDeadline(time.Now().Add(s.cfg.HelloTimeout))
	var request sensorv1.EnrollRequest
	if err := frame.Read(stream, &request); err != nil {
		s.counts.malformed.Add(1)
		s.limiter.failed(conn.RemoteAddr())
		_ = conn.Abort(err)
		return
	}
	logger := s.cfg.Logger.With("address", conn.RemoteAddr().String(), "token", shortID(request.GetTokenId()))
	enrolled, refused := s.enroll(ctx, conn.RemoteAddr(), &request)
	reply := &sensorv1.EnrollReply{Outcome: &sensorv1.EnrollReply_Enrolled{Enrolled: enrolled}}
	if refused != nil {
		s.countRefusal(refused.code)
		s.counts.enrolRefused.Add(1)
		logger.Warn("enrolment refused", "code", refused.code, "reason", refused.message)
		reply.Outcome = &sensorv1.EnrollReply_Refusal{Refusal: refused.proto()}
	} else {
		s.counts.enrolled.Add(1)
		logger.Info("enrolled", "id", enrolled.GetId(), "kind", request.GetKind().String(), "name", request.GetFacts().GetName())
	}
	_ = stream.SetDeadline(time.Now().Add(s.cfg.HelloTimeout))
	switch err := frame.Write(stream, reply); {
	case err != nil && refused != nil:
		logger.Warn("enrolment refusal not delivered", "error", err)
	case err != nil:
		s.owed.add(&request)
		logger.Warn("enrolment answer not delivered; the same key gets it again with the same token until that expires, another key needs another token", "error", err)
	}
}

// shortID keeps what a stranger called a token id from filling the log.
func shortID(id string) string { return id[:min(len(id), 16)] }

func (s *Server) enroll(ctx context.Context, from net.Addr, request *sensorv1.EnrollRequest) (*sensorv1.Enrolled, *refusal) {
	if request.GetProtocol() != frame.ProtocolVersion {
		return nil, &refusal{code: "unknown-protocol", message: fmt.Sprintf(
			"the request is of protocol version %d, this coordinator speaks version %d: install the same release on both sides (this coordinator is %s)",
			request.GetProtocol(), frame.ProtocolVersion, s.cfg.Version)}
	}
	// Who asks again because no answer came is no guesser: others behind the same address may be.
	again := s.owed.has(request)
	if wait := s.limiter.wait(from); wait > 0 && !again {
		seconds := uint32(wait/time.Second) + 1
		return nil, &refusal{code: "rate-limited", retry: seconds,
			message: fmt.Sprintf("too many failed enrolments from this address: wait %d s and use a fresh token", seconds)}
	}
	select {
	case s.enrolling <- struct{}{}:
		defer func() { <-s.enrolling }()
	default:
		return nil, &refusal{code: "busy", message: "too many enrolments at once: try again", retry: 1}
	}
	if size := proto.Size(request.GetFacts()); size > maxFacts {
		return nil, &refusal{code: "bad-request", message: fmt.Sprintf("the host's facts have %d bytes, the limit is %d", size, maxFacts)}
	}
	if len(request.GetExpired()) > 0 {
		return s.comeBack(ctx, from, request)
	}
	// Before it costs a signature and an entry of the log, in which it would stand as it was sent.
	if !link.IsTokenShape(request.GetTokenId(), request.GetTokenSecret()) {
		s.limiter.failed(from)
		return nil, &refusal{code: state.RejectBadToken, message: "the request has no join token: give the whole line that 'vedette token create' printed"}
	}
	enrolled := &sensorv1.Enrolled{ClusterId: s.cfg.Authority.Cluster(), Roots: [][]byte{s.cfg.Authority.Certificate().Raw},
		OperatorRoots: [][]byte{s.cfg.Operators().Raw}}
	var err error
	if enrolled.Trust, err = s.cfg.Trust.Trust(ctx); err != nil {
		return nil, &refusal{code: "internal", message: "this node cannot read its state: try another one", retry: 5}
	}
	// Sign first: a token must not be spent on a request that cannot be answered.
	switch request.GetKind() {
	case sensorv1.EnrollKind_ENROLL_KIND_SENSOR:
		enrolled.Id = identity.NewHostID()
		enrolled.Chain, err = s.cfg.Authority.SignHost(request.GetCsr(), enrolled.Id)
	case sensorv1.EnrollKind_ENROLL_KIND_NODE:
		if refused := s.checkNode(ctx, request.GetNode()); refused != nil {
			return nil, refused
		}
		enrolled.Id = request.GetNode().GetId()
		enrolled.Chain, err = s.cfg.Authority.SignNodeRequest(request.GetCsr(), enrolled.Id, nil)
		if err == nil {
			enrolled.CaKey, err = s.cfg.Authority.KeyDER()
		}
	default:
		return nil, &refusal{code: "bad-request", message: "the request says neither sensor nor node"}
	}
	if err != nil {
		s.limiter.failed(from)
		return nil, &refusal{code: "bad-request", message: err.Error()}
	}
	leaf, err := x509.ParseCertificate(enrolled.GetChain()[0])
	if err != nil {
		return nil, &refusal{code: "internal", message: "this node cannot read what it signed: try another one", retry: 5}
	}
	refused := s.spend(ctx, from, request, enrolled.GetId(), keySum(leaf))
	if refused != nil && refused.code == state.RejectTokenUsed && request.GetKind() == sensorv1.EnrollKind_ENROLL_KIND_SENSOR {
		if id := s.enrolledBefore(ctx, request.GetTokenId(), keySum(leaf)); id != "" {
			enrolled.Id, refused = id, nil
			if enrolled.Chain, err = s.cfg.Authority.SignHost(request.GetCsr(), id); err != nil {
				return nil, &refusal{code: "bad-request", message: err.Error()}
			}
			s.cfg.Logger.Info("the same key has asked again with its token: it gets its identity again", "id", id)
		}
	}
	if refused != nil {
		if refused.code == state.RejectTokenUsed {
			s.limiter.failed(from)
		}
		if refused.code != noLeader {
			s.owed.settle(request)
		}
		return nil, refused
	}
	if enrolled.Nodes, err = s.cfg.Members.Nodes(ctx); err != nil {
		s.cfg.Logger.Warn("node list missing from an enrolment", "error", err)
	}
	return enrolled, nil
}

// noLeader is the refusal that says nothing of the token.
const noLeader = "no-leader"

// spend uses the token up and makes what it was for, in one log entry. Whoever asked may have
// hung up: what became of the entry is waited for all the same, as a stranger's must be held
// against it, and would else be as good as one that was never answered.
func (s *Server) spend(ctx context.Context, from net.Addr, request *sensorv1.EnrollRequest, id string, key []byte) *refusal {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.CommitTimeout)
	defer cancel()
	hash := identity.HashSecret(request.GetTokenSecret())
	facts := request.GetFacts()
	if facts == nil {
		facts = &sensorv1.HostFacts{}
	}
	var node *sensorv1.Node
	if request.GetKind() == sensorv1.EnrollKind_ENROLL_KIND_NODE { // a sensor's would be bytes for nothing
		node = request.GetNode()
	}
	res, err := propose(ctx, s.cfg.Log, &raftv1.Command{
		Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID,
		// Drawn for this request: proposing again after a lost answer spends the token once.
		IdempotencyKey: "enroll/" + request.GetTokenId() + "/" + identity.NewOperationID(),
		Body: &raftv1.Command_ConsumeToken{ConsumeToken: &raftv1.ConsumeToken{TokenId: request.GetTokenId(), SecretSha256: hash[:],
			Kind: request.GetKind(), Id: id, Facts: facts, Node: node, KeySha256: key}},
	})
	if err != nil {
		s.owed.add(request) // the log may have taken it all the same
		return &refusal{code: noLeader, message: "the cluster has no leader that this node can reach: try another node, or again in a few seconds", retry: 2}
	}
	if res.GetRejected() != "" {
		if res.GetRejected() != state.RejectTokenUsed { // which may be the same request again: see enroll
			s.limiter.failed(from)
		}
		message := res.GetMessage()
		if message == "" {
			message = "the join token was refused: make a new one with 'vedette token create'"
		}
		return &refusal{code: res.GetRejected(), message: message}
	}
	return nil
}

// checkNode judges what a joining node says of itself before its token is spent.
func (s *Server) checkNode(ctx context.Context, node *sensorv1.Node) *refusal {
	if size := proto.Size(node); size > maxNode {
		return &refusal{code: "bad-request", message: fmt.Sprintf("the node's name and addresses have %d bytes, the limit is %d", size, maxNode)}
	}
	if err := identity.CheckName("node id", node.GetId()); err != nil {
		return &refusal{code: "bad-request", message: err.Error()}
	}
	for _, addr := range []struct{ what, value string }{{"address", node.GetAddress()}, {"operator address", node.GetOperatorAddress()}} {
		host, port, err := net.SplitHostPort(addr.value)
		if err != nil || host == "" || port == "" || port == "0" {
			return &refusal{code: "bad-request", message: fmt.Sprintf("the node's %s %q must be HOST:PORT as the other nodes reach it", addr.what, addr.value)}
		}
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			return &refusal{code: "bad-request", message: fmt.Sprintf("the node's %s %q names no host: set --advertise to the address that the other nodes reach it at", addr.what, addr.value)}
		}
	}
	nodes, err := s.cfg.Members.Nodes(ctx)
	if err != nil {
		return &refusal{code: "internal", message: "this node cannot read its state: try another one", retry: 5}
	}
	for _, known := range nodes {
		if known.GetId() == node.GetId() {
			return &refusal{code: "node-exists", message: fmt.Sprintf("a node with id %q is already in the cluster: choose another --id, or remove it with 'vedette cluster remove %s'", node.GetId(), node.GetId())}
		}
		if known.GetAddress() == node.GetAddress() {
			return &refusal{code: "node-exists", message: fmt.Sprintf("node %q already has the address %s", known.GetId(), node.GetAddress())}
		}
	}
	return nil
}
