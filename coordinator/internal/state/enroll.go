package state

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"sort"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// maxTokens bounds the stored tokens; ended ones are kept keepTokens ns as a record,
	// or until their room is needed: a fleet that enrols in a day has more than so many.
	// makeRoom of them go at once, as looking for them reads all.
	maxTokens  = 10_000
	makeRoom   = int64(1000)
	keepTokens = int64(24 * 3600 * 1e9)
	// maxTokenLife is one hour, in ns (with a minute for clocks that differ).
	maxTokenLife = int64(61 * 60 * 1e9)
)

func (a *applier) initCluster(in *raftv1.InitCluster) (*raftv1.Result, error) {
	have, err := a.tx.Cluster()
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading cluster: %w", err)
	case !validID(in.GetClusterId()):
		return reject(RejectInvalid, "the cluster id %q is not 1 to %d printable characters", in.GetClusterId(), maxID), nil
	case have == in.GetClusterId():
		return accept(have), nil
	case have != "":
		return reject(RejectClusterExists, "this cluster is %s already: use an empty data directory for another", have), nil
	}
	if err := a.tx.SetCluster(in.GetClusterId()); err != nil {
		return nil, fmt.Errorf("writing cluster: %w", err)
	}
	return accept(in.GetClusterId()), a.audit("cluster-init", in.GetClusterId(), "")
}

func (a *applier) createToken(in *raftv1.CreateToken) (*raftv1.Result, error) {
	now := a.cmd.GetTime()
	switch {
	case !validID(in.GetTokenId()) || len(in.GetSecretSha256()) != sha256.Size:
		return reject(RejectInvalid, "a token needs an id and the SHA-256 of its secret"), nil
	case in.GetKind() != sensorv1.EnrollKind_ENROLL_KIND_SENSOR && in.GetKind() != sensorv1.EnrollKind_ENROLL_KIND_NODE:
		return reject(RejectInvalid, "a token is of kind sensor or node"), nil
	case in.GetExpires() <= now || in.GetExpires()-now > maxTokenLife:
		return reject(RejectInvalid, "a token lives more than nothing and at most one hour: change its ttl"), nil
	}
	have, err := a.tx.CountTokens()
	if err != nil {
		return nil, fmt.Errorf("counting tokens: %w", err)
	}
	if have >= maxTokens {
		spent, err := a.tx.ForgetSpentTokens(makeRoom)
		if err != nil {
			return nil, fmt.Errorf("forgetting tokens: %w", err)
		}
		have -= spent
	}
	if have >= maxTokens {
		return reject(RejectTooManyTokens, "%d tokens exist that nobody has used: use them, or wait until some have expired for a day", have), nil
	}
	added, err := a.tx.AddToken(in, now, keepTokens)
	if err != nil {
		return nil, fmt.Errorf("storing token: %w", err)
	}
	if !added {
		return reject(RejectTokenExists, "token %s exists: create another", in.GetTokenId()), nil
	}
	return accept(in.GetTokenId()), a.audit("token-create", in.GetTokenId(), "kind %s, good for %d s%s",
		kindWord(in.GetKind()), (in.GetExpires()-now)/1e9, labelText(in.GetLabels()))
}

func (a *applier) consumeToken(in *raftv1.ConsumeToken) (*raftv1.Result, error) {
	t, err := a.tx.Token(in.GetTokenId())
	if err != nil {
		return nil, fmt.Errorf("reading token: %w", err)
	}
	// One answer for a wrong id and a wrong secret: it tells a guesser nothing.
	if t == nil || subtle.ConstantTimeCompare(t.SecretSHA256, in.GetSecretSha256()) != 1 {
		return reject(RejectBadToken, "the token is not one of this cluster: create one with `vedette token create`"), nil
	}
	switch {
	case t.UsedAt != 0:
		return reject(RejectTokenUsed, "token %s was used by %s: create another, each enrols once", t.ID, t.UsedBy), nil
	case t.Expires <= a.cmd.GetTime():
		return reject(RejectTokenExpired, "token %s has expired: create another", t.ID), nil
	case t.Kind != in.GetKind():
		return reject(RejectTokenKind, "token %s is for a %s, not a %s: create one of the right kind", t.ID, kindWord(t.Kind), kindWord(in.GetKind())), nil
	case !validID(in.GetId()):
		return reject(RejectInvalid, "the id %q is not 1 to %d printable characters", in.GetId(), maxID), nil
	}
	if in.GetKind() == sensorv1.EnrollKind_ENROLL_KIND_NODE {
		if rejected := checkNode(in.GetNode()); rejected != nil {
			return rejected, nil
		}
		if in.GetNode().GetId() != in.GetId() {
			return reject(RejectInvalid, "the node is called %q and asks for the id %q: use one", in.GetNode().GetId(), in.GetId()), nil
		}
		if _, err := a.tx.PutNode(in.GetNode()); err != nil {
			return nil, fmt.Errorf("storing node: %w", err)
		}
	} else {
		exists, err := a.tx.HostExists(in.GetId())
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if refused, err := a.keyRefused(in.GetKeySha256()); err != nil || refused != nil {
			return refused, err
		}
		if exists {
			return reject(RejectHostExists, "host %s exists: enrol again, with a new id", in.GetId()), nil
		}
		if err := a.tx.AddHost(in.GetId(), in.GetFacts(), t.Labels, a.cmd.GetTime()); err != nil {
			return nil, fmt.Errorf("storing host: %w", err)
		}
		host, _, err := a.tx.HostNumber(in.GetId())
		if err == nil {
			err = a.tx.SetHostKey(host, in.GetKeySha256())
		}
		if err != nil {
			return nil, fmt.Errorf("storing a host's key: %w", err)
		}
	}
	if err := a.tx.SpendToken(t.ID, in.GetId(), a.cmd.GetTime()); err != nil {
		return nil, fmt.Errorf("spending token: %w", err)
	}
	return accept(in.GetId()), a.audit("enroll-"+kindWord(t.Kind), in.GetId(), "token %s, name %q", t.ID, in.GetFacts().GetName())
}

// enrollHost makes a host without a token: what an operator or a test does by
// authority of its own. A host that exists only gets its facts renewed.
func (a *applier) enrollHost(in *raftv1.EnrollHost) (*raftv1.Result, error) {
	if !validID(in.GetHost()) {
		return reject(RejectInvalid, "the id %q is not 1 to %d printable characters", in.GetHost(), maxID), nil
	}
	n, exists, err := a.tx.HostNumber(in.GetHost())
	if err != nil {
		return nil, fmt.Errorf("reading host: %w", err)
	}
	if exists {
		err = a.tx.SetFacts(n, in.GetFacts())
	} else if removed, found := a.tx.HostExists(in.GetHost()); removed || found != nil {
		if found != nil {
			return nil, fmt.Errorf("reading host: %w", found)
		}
		return reject(RejectHostExists, "host %s was removed: enrol it with a new id", in.GetHost()), nil
	} else {
		err = a.tx.AddHost(in.GetHost(), in.GetFacts(), nil, a.cmd.GetTime())
	}
	if err != nil {
		return nil, fmt.Errorf("storing host: %w", err)
	}
	return accept(in.GetHost()), a.audit("enroll-sensor", in.GetHost(), "name %q", in.GetFacts().GetName())
}

func (a *applier) hostSession(in *raftv1.HostSession) (*raftv1.Result, error) {
	host, ok, err := a.tx.HostNumber(in.GetHost())
	if err != nil {
		return nil, fmt.Errorf("reading host: %w", err)
	}
	if !ok {
		return reject(RejectUnknownHost, "host %s is not enrolled: enrol it again", in.GetHost()), nil
	}
	before, err := a.tx.Presence(host)
	if err != nil {
		return nil, fmt.Errorf("reading a host's presence: %w", err)
	}
	set, err := a.tx.SetSession(host, in, a.cmd.GetTime())
	if err != nil {
		return nil, fmt.Errorf("storing session: %w", err)
	}
	if !set {
		return reject(RejectStaleSession, "a newer session of %s is known", in.GetHost()), nil
	}
	if !in.GetConnected() {
		return accept(in.GetHost()), nil
	}
	if err := a.tx.SetHostKey(host, in.GetKeySha256()); err != nil {
		return nil, fmt.Errorf("storing a host's key: %w", err)
	}
	if in.GetFacts() != nil {
		if err := a.tx.SetFacts(host, in.GetFacts()); err != nil {
			return nil, fmt.Errorf("storing host facts: %w", err)
		}
	}
	if err := a.returned(host, before, in); err != nil {
		return nil, err
	}
	if err := a.placed(host, in); err != nil {
		return nil, err
	}
	return accept(in.GetHost()), nil
}

// beginSessions answers each session as hostSession would: one that is refused leaves the
// others as they are.
func (a *applier) beginSessions(in *raftv1.BeginSessions) (*raftv1.Result, error) {
	all := &raftv1.Result{Sessions: make([]*raftv1.SessionBegun, len(in.GetSessions()))}
	for i, session := range in.GetSessions() {
		one, err := a.hostSession(session)
		if err != nil {
			return nil, err
		}
		all.Sessions[i] = &raftv1.SessionBegun{Rejected: one.GetRejected(), Message: one.GetMessage()}
	}
	return all, nil
}

func (a *applier) putNode(in *raftv1.PutNode) (*raftv1.Result, error) {
	if rejected := checkNode(in.GetNode()); rejected != nil {
		return rejected, nil
	}
	changed, err := a.tx.PutNode(in.GetNode())
	if err != nil {
		return nil, fmt.Errorf("storing node: %w", err)
	}
	if !changed {
		return accept(in.GetNode().GetId()), nil
	}
	return accept(in.GetNode().GetId()), a.audit("member-put", in.GetNode().GetId(), "address %s, operators %s",
		in.GetNode().GetAddress(), in.GetNode().GetOperatorAddress())
}

func (a *applier) removeNode(in *raftv1.RemoveNode) (*raftv1.Result, error) {
	removed, err := a.tx.RemoveNode(in.GetId())
	if err != nil {
		return nil, fmt.Errorf("removing node: %w", err)
	}
	if !removed {
		return reject(RejectUnknownNode, "no node is called %q: see `vedette cluster members`", in.GetId()), nil
	}
	return accept(in.GetId()), a.audit("member-remove", in.GetId(), "")
}

func (a *applier) putOperator(in *raftv1.PutOperator) (*raftv1.Result, error) {
	if !validRole(in.GetRole()) {
		return reject(RejectInvalid, "%q is no role: use viewer, hunter, responder or admin", in.GetRole()), nil
	}
	if !validID(in.GetName()) {
		return reject(RejectInvalid, "the operator's name %q is not 1 to %d printable characters", in.GetName(), maxID), nil
	}
	if n, err := a.tx.CountOperators(); err != nil || n >= maxOperators {
		return reject(RejectTooManyOperators, "%d operators are known: no more are noted", n), err
	}
	changed, err := a.tx.PutOperator(in, a.cmd.GetTime())
	if err != nil {
		return nil, fmt.Errorf("storing operator: %w", err)
	}
	if !changed {
		return accept(in.GetName()), nil
	}
	return accept(in.GetName()), a.audit("operator-put", in.GetName(), "role %s%s", in.GetRole(), madeBy(in))
}

func madeBy(in *raftv1.PutOperator) string {
	if in.GetMadeBy() == "" {
		return ""
	}
	return ", made by " + in.GetMadeBy()
}

func checkNode(n *sensorv1.Node) *raftv1.Result {
	if !validID(n.GetId()) || n.GetAddress() == "" || len(n.GetAddress()) > 256 || len(n.GetOperatorAddress()) > 256 {
		return reject(RejectInvalid, "a node needs an id of 1 to %d printable characters and its address", maxID)
	}
	return nil
}

// validID accepts what can stand in a path, a certificate and a terminal.
func validID(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c >= 0x7f || c == '/' {
			return false
		}
	}
	return true
}

func kindWord(k sensorv1.EnrollKind) string {
	if k == sensorv1.EnrollKind_ENROLL_KIND_NODE {
		return "node"
	}
	return "sensor"
}

func labelText(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for k, v := range labels {
		pairs = append(pairs, k+"="+v)
	}
	if len(pairs) == 0 {
		return ""
	}
	sort.Strings(pairs)
	return ", labels " + strings.Join(pairs, " ")
}
