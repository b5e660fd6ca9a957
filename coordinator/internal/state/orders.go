package state

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	maxLease  = 24 * 3600 // s
	maxReason = 1024
	// maxWindow bounds a veto window, in ns.
	maxWindow = int64(3600 * 1e9)
)

// order is a grant on its way into the state.
type order struct {
	grant *sensorv1.Grant
	hosts []store.FleetHost // the grant's, ascending by id, without name and labels
	fleet store.Fleet
}

// requestResponse takes an operator's order. The signature is the proposer's and
// every sensor's to verify; here the payload is what counts, so that what is kept
// is what was signed.
func (a *applier) requestResponse(in *raftv1.RequestResponse) (*raftv1.Result, error) {
	g, err := grant.Decode(in.GetGrant().GetPayload())
	if err != nil || (in.GetDecoded() != nil && !same(g, in.GetDecoded())) {
		return reject(RejectGrantMismatch, "the grant's payload is not the grant that was decoded: sign it again"), nil
	}
	if in.GetOperation() != "" && in.GetOperation() != g.GetOperation() {
		return reject(RejectInvalid, "the operation %q is not the grant's", in.GetOperation()), nil
	}
	o, rejected, err := a.order(g, in.GetHosts())
	if err != nil || rejected != nil {
		return rejected, err
	}
	needed, why, err := a.approvals(o)
	switch {
	case err != nil:
		return nil, err
	case g.GetOperator() == "" || len(in.GetGrant().GetSignatures()) != 1:
		return reject(RejectInvalid, "an order comes with one signature, its operator's; others are added with vedette approve"), nil
	case max(1, g.GetApprovals()) < needed:
		return reject(RejectApprovals, "%s: %d operators must sign, and the grant asks for %d", why, needed, g.GetApprovals()), nil
	}
	kept := &store.Order{State: store.OrderOrdered, Signed: &sensorv1.SignedGrant{Payload: in.GetGrant().GetPayload(), Signatures: in.GetGrant().GetSignatures()},
		Body: a.describe(o)}
	kept.Body.ApprovedBy = []string{g.GetOperator()}
	if g.GetApprovals() > 1 {
		kept.State = store.OrderWaiting
	}
	if rejected, err := a.keep(o, kept); err != nil || rejected != nil {
		return rejected, err
	}
	return accept(g.GetOperation()), nil
}

// order checks a grant against the state and reads its hosts.
func (a *applier) order(g *sensorv1.Grant, hosts []string) (*order, *raftv1.Result, error) {
	set, err := grant.NewHostSet(hosts)
	if err != nil || !set.Matches(g) {
		return nil, reject(RejectGrantMismatch, "the grant was not signed for the hosts that come with it: sign it again"), nil
	}
	rejected, err := a.checkGrant(g)
	if err != nil || rejected != nil {
		return nil, rejected, err
	}
	o := &order{grant: g}
	if o.fleet, err = a.tx.Fleet(); err != nil {
		return nil, nil, fmt.Errorf("reading the fleet: %w", err)
	}
	if int(g.GetFleet()) > o.fleet.Hosts {
		return nil, reject(RejectGrantMismatch, "the grant was signed for a fleet of %d hosts and there are %d: look at the hosts again and repeat it", g.GetFleet(), o.fleet.Hosts), nil
	}
	known, err := a.tx.OrderedHosts(set.Hosts())
	if err != nil {
		return nil, nil, fmt.Errorf("reading hosts: %w", err)
	}
	for _, id := range set.Hosts() {
		host, enrolled := known[id]
		switch {
		case !enrolled:
			return nil, reject(RejectUnknownHost, "host %q is not enrolled: nothing was done to any host; see `vedette host list`", id), nil
		case host.Epoch >= g.GetEpoch():
			return nil, reject(RejectStaleOrder, "another order for host %q was given since this one was prepared: look at the hosts again and repeat it", id), nil
		}
		o.hosts = append(o.hosts, host)
	}
	return o, nil, nil
}

func (a *applier) checkGrant(g *sensorv1.Grant) (*raftv1.Result, error) {
	cluster, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	leased := g.GetAction() != sensorv1.Action_ACTION_RELEASE && g.GetAction() != sensorv1.Action_ACTION_KILL && !g.GetPreview()
	switch {
	case g.GetClusterId() != cluster:
		return reject(RejectWrongCluster, "the grant is for cluster %q, this is %q: use the right context", g.GetClusterId(), cluster), nil
	case !validID(g.GetOperation()):
		return reject(RejectInvalid, "the operation %q is not 1 to %d printable characters", g.GetOperation(), maxID), nil
	case grant.Word(g.GetAction()) == "":
		return reject(RejectInvalid, "action %d is unknown: upgrade the coordinators", g.GetAction()), nil
	case len(g.GetReason()) > maxReason:
		return reject(RejectInvalid, "the reason is longer than %d bytes", maxReason), nil
	case g.GetNotAfter() <= a.cmd.GetTime():
		return reject(RejectGrantExpired, "the grant has expired: sign it again (and compare the clocks)"), nil
	case leased && (g.GetLeaseSeconds() == 0 || g.GetLeaseSeconds() > maxLease):
		return reject(RejectBadLease, "a lease is 1 second to 24 hours, not %d s: change --ttl", g.GetLeaseSeconds()), nil
	}
	used, err := a.tx.NonceUsed(g.GetNonce())
	if err != nil {
		return nil, fmt.Errorf("reading nonce: %w", err)
	}
	if used {
		return reject(RejectNonceUsed, "this grant was submitted before: sign a new one"), nil
	}
	return nil, nil
}

// describe is the order as people are shown it.
func (a *applier) describe(o *order) *operatorv1.Operation {
	g := o.grant
	body := &operatorv1.Operation{
		Id: g.GetOperation(), Action: grant.Word(g.GetAction()), RequestedBy: g.GetOperator(), RequestedAt: a.cmd.GetTime(),
		Reason: g.GetReason(), Expires: g.GetNotAfter(),
	}
	for _, host := range o.hosts {
		body.Hosts = append(body.Hosts, host.ID)
	}
	return body
}

// keep stores an order, and sends it out unless it waits.
func (a *applier) keep(o *order, kept *store.Order) (*raftv1.Result, error) {
	stored, err := a.tx.AddOrder(o.grant, kept, a.cmd.GetTime())
	if err != nil {
		return nil, fmt.Errorf("storing operation: %w", err)
	}
	if !stored {
		return reject(RejectOperationExists, "operation %s exists: use another id", o.grant.GetOperation()), nil
	}
	if kept.State == store.OrderOrdered {
		return nil, a.goOut(o, kept)
	}
	return nil, a.audit(kept.Body.GetAction()+"-"+kept.State, o.grant.GetOperation(), "%d hosts, %d of %d operators signed, until %d, reason %q",
		len(o.hosts), len(kept.Signed.GetSignatures()), o.grant.GetApprovals(), o.grant.GetNotAfter(), o.grant.GetReason())
}

// goOut makes a pending row for each host of an order: from here on it is sent.
func (a *applier) goOut(o *order, kept *store.Order) error {
	g := o.grant
	lease, counted := int64(0), a.cmd.GetTime()
	if g.GetAction() != sensorv1.Action_ACTION_RELEASE && g.GetLeaseSeconds() > 0 {
		lease = a.cmd.GetTime() + int64(g.GetLeaseSeconds())*1e9 //nolint:gosec // checked to be a day at most
	}
	if !destructive(g) {
		counted = 0
	}
	detail := fmt.Sprintf("operation %s, operators %q, lease %d s, nonce %x, reason %q",
		g.GetOperation(), kept.Body.GetApprovedBy(), g.GetLeaseSeconds(), g.GetNonce(), g.GetReason())
	for _, host := range o.hosts {
		rows, err := a.supersede(host.N, g)
		if err != nil {
			return err
		}
		row := store.Row{Operation: g.GetOperation(), Host: host.N, Action: g.GetAction(), Undoes: g.GetUndoes(), State: pending}
		if err := a.tx.AddIsolation(kept.N, row, lease, counted); err != nil {
			return fmt.Errorf("storing isolation: %w", err)
		}
		rows = append(rows, row)
		if err := a.tx.SetHostOrdered(host.N, g.GetEpoch(), summary(rows)); err != nil {
			return fmt.Errorf("storing epoch: %w", err)
		}
		if err := a.audit(kept.Body.GetAction()+"-request", host.ID, "%s", detail); err != nil {
			return err
		}
	}
	return nil
}

// destructive is what the governor counts: what takes something from a host.
func destructive(g *sensorv1.Grant) bool {
	return g.GetAction() != sensorv1.Action_ACTION_RELEASE && !g.GetPreview()
}

// ofIsolation says whether an order is about the host's isolation as a whole.
func ofIsolation(action sensorv1.Action, undoes string) bool {
	return action == sensorv1.Action_ACTION_ISOLATE || action == sensorv1.Action_ACTION_RELEASE && undoes == ""
}

// supersede ends what the host has not answered yet: a newer isolation or release
// takes its place. What it has applied stays true until it reports otherwise, and
// other containments stand side by side. It returns the rows that are still pending
// or applied.
func (a *applier) supersede(host int64, g *sensorv1.Grant) ([]store.Row, error) {
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return nil, fmt.Errorf("reading isolations: %w", err)
	}
	ends := ofIsolation(g.GetAction(), g.GetUndoes()) && !g.GetPreview()
	open := rows[:0]
	for _, r := range rows {
		switch {
		case r.State == pending && ends && ofIsolation(r.Action, r.Undoes):
			if err := a.tx.SetRowState(r, released, "superseded by "+g.GetOperation()); err != nil {
				return nil, fmt.Errorf("superseding isolation: %w", err)
			}
		case r.State == pending || r.State == applied:
			open = append(open, r)
		}
	}
	return open, nil
}

// waitingOrder reads an operation that somebody may still approve or stop.
func (a *applier) waitingOrder(id string) (*store.Order, *sensorv1.Grant, *raftv1.Result, error) {
	kept, err := a.tx.Order(id)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("reading operation: %w", err)
	}
	if kept == nil {
		return nil, nil, reject(RejectUnknownOperation, "there is no operation %q: see `vedette operation list`", id), nil
	}
	if kept.State != store.OrderWaiting && kept.State != store.OrderWindow {
		return nil, nil, reject(RejectNotWaiting, "operation %s waits for nobody: it is %s", id, kept.State), nil
	}
	g, err := grant.Decode(kept.Signed.GetPayload())
	if err != nil {
		return nil, nil, nil, fmt.Errorf("decoding operation %s: %w", id, err)
	}
	if g.GetNotAfter() <= a.cmd.GetTime() {
		return nil, nil, reject(RejectGrantExpired, "operation %s has expired: give the order again", id), nil
	}
	return kept, g, nil, nil
}

// approveOperation adds an operator's signature; with the last that it needs the
// order goes out. Under automation's proposal the first one makes it that
// operator's own order: the payload then names them.
func (a *applier) approveOperation(in *raftv1.ApproveOperation) (*raftv1.Result, error) {
	kept, g, rejected, err := a.waitingOrder(in.GetOperation())
	if err != nil || rejected != nil {
		return rejected, err
	}
	if in.GetOperator() == "" || slices.Contains(kept.Body.GetApprovedBy(), in.GetOperator()) {
		return reject(RejectApprovedAlready, "operator %q has signed operation %s: another one must", in.GetOperator(), in.GetOperation()), nil
	}
	if len(in.GetPayload()) > 0 {
		signed, err := grant.Decode(in.GetPayload())
		if err != nil || !sameOrder(g, signed, in.GetOperator()) {
			return reject(RejectGrantMismatch, "what was signed is not what operation %s proposes: look at it again", in.GetOperation()), nil
		}
		kept.Signed.Payload, kept.Signed.Signatures, g = in.GetPayload(), nil, signed
		kept.Body.RequestedBy = in.GetOperator()
	}
	if g.GetOperator() == "" {
		return reject(RejectInvalid, "operation %s is a proposal of automation: sign it as your own order", in.GetOperation()), nil
	}
	o, rejected, err := a.again(g, kept)
	if err != nil || rejected != nil {
		return rejected, err
	}
	needed, why, err := a.approvals(o)
	if err != nil {
		return nil, err
	}
	if max(1, g.GetApprovals()) < needed {
		return reject(RejectApprovals, "%s: %d operators must sign, and the grant asks for %d: give the order again", why, needed, g.GetApprovals()), nil
	}
	kept.Signed.Signatures = append(kept.Signed.GetSignatures(), in.GetSignature())
	kept.Body.ApprovedBy = append(kept.Body.GetApprovedBy(), in.GetOperator())
	if missing := missingApprovals(g, kept); missing > 0 {
		kept.State = store.OrderWaiting
	} else {
		kept.State = store.OrderOrdered
	}
	if err := a.tx.SetOrder(g, kept); err != nil {
		return nil, fmt.Errorf("storing operation: %w", err)
	}
	if err := a.audit("approve", in.GetOperation(), "operator %s, %d of %d", in.GetOperator(), len(kept.Body.GetApprovedBy()), max(1, g.GetApprovals())); err != nil {
		return nil, err
	}
	if kept.State == store.OrderOrdered {
		if err := a.goOut(o, kept); err != nil {
			return nil, err
		}
	}
	return accept(in.GetOperation()), nil
}

func missingApprovals(g *sensorv1.Grant, kept *store.Order) int {
	return max(1, int(g.GetApprovals())) - len(kept.Body.GetApprovedBy())
}

// again checks an order that has waited once more against the state of now, but
// for its nonce, which is its own.
func (a *applier) again(g *sensorv1.Grant, kept *store.Order) (*order, *raftv1.Result, error) {
	o := &order{grant: g}
	var err error
	if o.fleet, err = a.tx.Fleet(); err != nil {
		return nil, nil, fmt.Errorf("reading the fleet: %w", err)
	}
	known, err := a.tx.OrderedHosts(kept.Body.GetHosts())
	if err != nil {
		return nil, nil, fmt.Errorf("reading hosts: %w", err)
	}
	for _, id := range kept.Body.GetHosts() {
		host, enrolled := known[id]
		switch {
		case !enrolled:
			return nil, reject(RejectUnknownHost, "host %q of operation %s is not enrolled any more: give the order again", id, g.GetOperation()), nil
		case host.Epoch >= g.GetEpoch():
			return nil, reject(RejectStaleOrder, "another order for host %q was given while this one waited: give it again", id), nil
		}
		o.hosts = append(o.hosts, host)
	}
	return o, nil, nil
}

// sameOrder says whether an operator signed what automation proposed: everything
// that matters to a host is the same, and it is in that operator's name.
func sameOrder(proposed, signed *sensorv1.Grant, operator string) bool {
	if signed.GetOperator() != operator {
		return false
	}
	want := proto.CloneOf(proposed)
	want.Operator, want.Nonce, want.IssuedAt, want.NotAfter = operator, signed.GetNonce(), signed.GetIssuedAt(), signed.GetNotAfter()
	want.Epoch, want.Approvals, want.Fleet, want.Reason = signed.GetEpoch(), signed.GetApprovals(), signed.GetFleet(), signed.GetReason()
	return proto.Equal(want, signed)
}

// vetoOperation stops what has not gone out.
func (a *applier) vetoOperation(in *raftv1.VetoOperation) (*raftv1.Result, error) {
	if in.GetReason() == "" || len(in.GetReason()) > maxReason {
		return reject(RejectInvalid, "a veto needs a reason of 1 to %d bytes", maxReason), nil
	}
	kept, g, rejected, err := a.waitingOrder(in.GetOperation())
	if err != nil || rejected != nil {
		return rejected, err
	}
	kept.State, kept.Body.VetoedBy, kept.Body.VetoReason = store.OrderVetoed, a.cmd.GetActor(), in.GetReason()
	if err := a.tx.SetOrder(g, kept); err != nil {
		return nil, fmt.Errorf("storing operation: %w", err)
	}
	return accept(in.GetOperation()), a.audit("veto", in.GetOperation(), "%d hosts, reason %q", len(kept.Body.GetHosts()), in.GetReason())
}
