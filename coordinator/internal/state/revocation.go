package state

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// RejectOperatorRevoked: who asks or has signed is no operator any more.
	RejectOperatorRevoked = "operator-revoked"
	// RejectRevokedKey: the key was that of a host that was removed.
	RejectRevokedKey = "revoked-key"
	// RejectStaleRevocations: a list that is not newer than the one before, or lacks who is on it.
	RejectStaleRevocations = "stale-revocations"
	// RejectTooManyOperators: more were seen than anybody has.
	RejectTooManyOperators = "too-many-operators"

	operatorActor = "operator:"
	maxOperators  = 10_000
	// clockSkew is how far in the future something may have been signed, in ns.
	clockSkew = int64(5 * 60 * 1e9)
)

// byRevoked refuses what an operator asks or has signed who is none any more: here, so
// that no node that is behind, or stolen, brings it into the log.
func (a *applier) byRevoked() (*raftv1.Result, error) {
	name, asked := strings.CutPrefix(a.cmd.GetActor(), operatorActor)
	if !asked {
		return nil, nil
	}
	names, err := a.tx.Revoked()
	if err != nil {
		return nil, fmt.Errorf("reading revoked operators: %w", err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	if _, revoked := names[name]; revoked {
		return reject(RejectOperatorRevoked, "operator %q is revoked: a person who is to go on needs a context with another name", name), nil
	}
	signatures, err := a.signatures()
	if err != nil {
		return nil, err
	}
	for _, s := range signatures {
		if err := names.Check(s.GetChain()); err != nil {
			return reject(RejectOperatorRevoked, "%v: sign it again with another operator's context", err), nil
		}
	}
	return nil, nil
}

// signatures are those that a command brings, and those beneath the order that it approves.
func (a *applier) signatures() ([]*sensorv1.Signature, error) {
	switch body := a.cmd.GetBody().(type) {
	case *raftv1.Command_RequestResponse:
		return body.RequestResponse.GetGrant().GetSignatures(), nil
	case *raftv1.Command_PutIntent:
		return []*sensorv1.Signature{body.PutIntent.GetSigned().GetSignature()}, nil
	case *raftv1.Command_PutSignedNodes:
		return []*sensorv1.Signature{body.PutSignedNodes.GetSigned().GetSignature()}, nil
	case *raftv1.Command_PutTrust:
		return []*sensorv1.Signature{body.PutTrust.GetSigned().GetSignature()}, nil
	case *raftv1.Command_PutRevocations:
		return []*sensorv1.Signature{body.PutRevocations.GetSigned().GetSignature()}, nil
	case *raftv1.Command_PutRules:
		return []*sensorv1.Signature{body.PutRules.GetSigned().GetSignature()}, nil
	case *raftv1.Command_LearningOrder:
		return []*sensorv1.Signature{body.LearningOrder.GetPack().GetSignature(), body.LearningOrder.GetUnlearn().GetSignature()}, nil
	case *raftv1.Command_PutDispositions:
		var signatures []*sensorv1.Signature
		for _, d := range body.PutDispositions.GetDispositions() {
			signatures = append(signatures, d.GetSignature())
		}
		return signatures, nil
	case *raftv1.Command_ApproveOperation:
		kept, err := a.tx.Order(body.ApproveOperation.GetOperation())
		if err != nil {
			return nil, fmt.Errorf("reading operation: %w", err)
		}
		signatures := []*sensorv1.Signature{body.ApproveOperation.GetSignature()}
		if kept != nil {
			signatures = append(signatures, kept.Signed.GetSignatures()...)
		}
		return signatures, nil
	}
	return nil, nil
}

// putRevocations takes a newer list of revoked operators. Its signature is the
// proposer's and every sensor's to verify. Two admins who revoke at once must not undo
// each other, so it has all names of the one before that may still have a certificate.
func (a *applier) putRevocations(in *raftv1.PutRevocations) (*raftv1.Result, error) {
	next, err := revocation.Decode(in.GetSigned().GetPayload())
	if err != nil {
		return reject(RejectInvalid, "%v", err), nil
	}
	cluster, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	current, err := a.tx.Revocations()
	if err != nil {
		return nil, fmt.Errorf("reading list of revoked operators: %w", err)
	}
	switch {
	case next.GetClusterId() != cluster:
		return reject(RejectWrongCluster, "the list of revoked operators is for cluster %q, this is %q: use the right context", next.GetClusterId(), cluster), nil
	case len(in.GetReason()) > maxReason:
		return reject(RejectInvalid, "the reason is longer than %d bytes", maxReason), nil
	case int64(next.GetSerial()) > a.cmd.GetTime()+clockSkew: //nolint:gosec // checked by Decode
		return reject(RejectInvalid, "the list of revoked operators was signed in the future: compare the clocks"), nil
	}
	before := revocation.Revoked{}
	if current != nil {
		held, err := revocation.Decode(current.GetPayload())
		if err != nil {
			return nil, fmt.Errorf("decoding the list of revoked operators in force: %w", err)
		}
		if next.GetSerial() <= held.GetSerial() {
			return reject(RejectStaleRevocations, "a list with serial %d is in force, and this one has %d: another admin was quicker; ask again", held.GetSerial(), next.GetSerial()), nil
		}
		before = revocation.Names(held)
		names := revocation.Names(next)
		for _, o := range held.GetOperators() {
			if _, on := names[o.GetName()]; !on && o.GetAt()+int64(revocation.Keep) > a.cmd.GetTime() {
				return reject(RejectStaleRevocations, "the list does not name %q, who was revoked: another admin was quicker; ask again", o.GetName()), nil
			}
		}
	}
	if err := a.tx.PutRevocations(in.GetSigned(), next, in.GetReason()); err != nil {
		return nil, fmt.Errorf("storing list of revoked operators: %w", err)
	}
	for _, o := range next.GetOperators() {
		if _, was := before[o.GetName()]; was {
			continue
		}
		if err := a.audit("operator-revoke", o.GetName(), "by operator %s, serial %d, reason %q", next.GetOperator(), next.GetSerial(), in.GetReason()); err != nil {
			return nil, err
		}
	}
	return accept(fmt.Sprint(next.GetSerial())), nil
}

// removeHost ends a host's identity. What it has told stays. Nobody will answer the orders
// that wait for it: they end here, where an older release's command left them as they were.
func (a *applier) removeHost(id, reason string, endOrders bool) (*raftv1.Result, error) {
	if len(reason) > maxReason {
		return reject(RejectInvalid, "the reason is longer than %d bytes", maxReason), nil
	}
	host, ok, err := a.tx.HostNumber(id)
	if err != nil {
		return nil, fmt.Errorf("reading host: %w", err)
	}
	if !ok {
		return reject(RejectUnknownHost, "host %q is not, or no longer, in this cluster: see `vedette host list`", id), nil
	}
	var ended []string
	if endOrders {
		if ended, err = a.endOrders(host); err != nil {
			return nil, err
		}
	}
	if err := a.tx.RemoveHost(id, host, a.cmd.GetTime()); err != nil {
		return nil, fmt.Errorf("removing host: %w", err)
	}
	if err := a.audit("host-remove", id, "reason %q", reason); err != nil {
		return nil, err
	}
	for _, operation := range ended {
		if err := a.audit("isolation-failed", id, "operation %s, %s", operation, hostRemoved); err != nil {
			return nil, err
		}
	}
	return accept(id), nil
}

// hostRemoved is why an order ended that nobody will answer.
const hostRemoved = "host removed"

// endOrders ends what waits for a host, and says which operations that were, oldest first.
func (a *applier) endOrders(host int64) (ended []string, err error) {
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return nil, fmt.Errorf("reading isolations: %w", err)
	}
	for i, row := range rows {
		if row.State != pending {
			continue
		}
		if err := a.tx.SetRowState(row, failed, hostRemoved); err != nil {
			return nil, fmt.Errorf("ending an order: %w", err)
		}
		if err := a.tx.Uncount(row.N); err != nil {
			return nil, fmt.Errorf("uncounting isolation: %w", err)
		}
		rows[i].State = failed
		ended = append(ended, row.Operation)
	}
	if len(ended) == 0 {
		return nil, nil
	}
	if err := a.tx.SetHostIsolation(host, summary(rows)); err != nil {
		return nil, fmt.Errorf("storing host isolation: %w", err)
	}
	return ended, nil
}

// keyRefused says why a key enrols no host, nil when it may.
func (a *applier) keyRefused(sum []byte) (*raftv1.Result, error) {
	if len(sum) == 0 { // from a node of before
		return nil, nil
	}
	if len(sum) != sha256.Size {
		return reject(RejectInvalid, "the hash of a key has %d bytes", len(sum)), nil
	}
	host, err := a.tx.RevokedKey(sum)
	if err != nil {
		return nil, fmt.Errorf("reading revoked keys: %w", err)
	}
	if host != "" {
		return reject(RejectRevokedKey, "this key was that of host %s, which was removed: enrol with a new key", host), nil
	}
	return nil, nil
}

func validRole(role string) bool {
	return slices.Contains([]string{"viewer", "hunter", "responder", "admin"}, role)
}
