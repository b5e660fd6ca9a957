package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	nonceBytes = 16
	maxLease   = 24 * 3600 // s
	maxReason  = 1024
)

const (
	pending  = sensorv1.IsolationState_ISOLATION_STATE_PENDING
	applied  = sensorv1.IsolationState_ISOLATION_STATE_APPLIED
	released = sensorv1.IsolationState_ISOLATION_STATE_RELEASED
	refused  = sensorv1.IsolationState_ISOLATION_STATE_REFUSED
	failed   = sensorv1.IsolationState_ISOLATION_STATE_FAILED
	expired  = sensorv1.IsolationState_ISOLATION_STATE_EXPIRED
)

var stateWords = map[sensorv1.IsolationState]string{
	pending: "pending", applied: "applied", released: "released", refused: "refused", failed: "failed", expired: "expired",
}

// requestResponse makes a pending row for each host of a grant. The signature
// is the proposer's and every sensor's to verify; here the payload is what
// counts, so that what is kept is what was signed.
func (a *applier) requestResponse(in *raftv1.RequestResponse) (*raftv1.Result, error) {
	g := &sensorv1.Grant{}
	if err := proto.Unmarshal(in.GetGrant().GetPayload(), g); err != nil || (in.GetDecoded() != nil && !same(g, in.GetDecoded())) {
		return reject(RejectGrantMismatch, "the grant's payload is not the grant that was decoded: sign it again"), nil
	}
	rejected, err := a.checkGrant(in, g)
	if err != nil || rejected != nil {
		return rejected, err
	}
	set, err := grant.NewHostSet(in.GetHosts())
	if err != nil || !set.Matches(g) {
		return reject(RejectGrantMismatch, "the grant was not signed for the hosts that come with it: sign it again"), nil
	}
	hosts := make([]int64, 0, len(set.Hosts()))
	for _, id := range set.Hosts() {
		n, ok, err := a.tx.HostNumber(id)
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if !ok {
			return reject(RejectUnknownHost, "host %q is not enrolled: nothing was done to any host; see `vedette host list`", id), nil
		}
		hosts = append(hosts, n)
	}
	operation, err := a.tx.AddOperation(g, in.GetGrant(), a.cmd.GetTime())
	if err != nil {
		return nil, fmt.Errorf("storing operation: %w", err)
	}
	if operation == 0 {
		return reject(RejectOperationExists, "operation %s exists: use another id", g.GetOperation()), nil
	}
	lease := int64(0)
	if g.GetAction() == sensorv1.Action_ACTION_ISOLATE {
		lease = a.cmd.GetTime() + int64(g.GetLeaseSeconds())*1e9
	}
	for _, host := range hosts {
		// What the host has not answered yet is not wanted any more. What it has
		// applied stays true until it reports otherwise.
		rows, err := a.tx.HostRows(host)
		if err != nil {
			return nil, fmt.Errorf("reading isolations: %w", err)
		}
		for _, r := range rows {
			if r.State == pending {
				if err := a.tx.SetRowState(r.N, released, "superseded by "+g.GetOperation()); err != nil {
					return nil, fmt.Errorf("superseding isolation: %w", err)
				}
			}
		}
		if err := a.tx.AddIsolation(operation, host, lease); err != nil {
			return nil, fmt.Errorf("storing isolation: %w", err)
		}
		if err := a.summarise(host); err != nil {
			return nil, err
		}
	}
	action := "isolate"
	if g.GetAction() == sensorv1.Action_ACTION_RELEASE {
		action = "release"
	}
	for _, id := range set.Hosts() {
		if err := a.audit(action+"-request", id, "operation %s, operator %s, lease %d s, nonce %x, reason %q",
			g.GetOperation(), g.GetOperator(), g.GetLeaseSeconds(), g.GetNonce(), g.GetReason()); err != nil {
			return nil, err
		}
	}
	return accept(g.GetOperation()), nil
}

func (a *applier) checkGrant(in *raftv1.RequestResponse, g *sensorv1.Grant) (*raftv1.Result, error) {
	cluster, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	switch {
	case g.GetClusterId() != cluster:
		return reject(RejectWrongCluster, "the grant is for cluster %q, this is %q: use the right context", g.GetClusterId(), cluster), nil
	case len(g.GetNonce()) != nonceBytes:
		return reject(RejectInvalid, "a grant's nonce has %d bytes, not %d", nonceBytes, len(g.GetNonce())), nil
	case !validID(g.GetOperation()) || (in.GetOperation() != "" && in.GetOperation() != g.GetOperation()):
		return reject(RejectInvalid, "the operation %q is not the grant's, or is not 1 to %d printable characters", in.GetOperation(), maxID), nil
	case g.GetAction() != sensorv1.Action_ACTION_ISOLATE && g.GetAction() != sensorv1.Action_ACTION_RELEASE:
		return reject(RejectInvalid, "a grant isolates or releases: action %d is unknown", g.GetAction()), nil
	case len(g.GetReason()) > maxReason:
		return reject(RejectInvalid, "the reason is longer than %d bytes", maxReason), nil
	case g.GetNotAfter() <= a.cmd.GetTime():
		return reject(RejectGrantExpired, "the grant has expired: sign it again (and compare the clocks)"), nil
	case g.GetAction() == sensorv1.Action_ACTION_ISOLATE && (g.GetLeaseSeconds() == 0 || g.GetLeaseSeconds() > maxLease):
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

// isolationStatus writes what a host says about itself. It is believed about
// its own rows only, in the order in which it says it.
func (a *applier) isolationStatus(host int64, id string, s *sensorv1.IsolationStatus) error {
	word, known := stateWords[s.GetState()]
	if !known || s.GetState() == pending || len(s.GetDetail()) > maxName || len(s.GetSelfTest()) > maxName {
		return a.lost(host, "unknown-isolation-status")
	}
	row, err := a.reported(host, id, s)
	switch {
	case err != nil:
		return err
	case row == nil && orderLost(s):
		return nil // the end of a cut that nobody here knows of: there is nothing to end
	case row == nil:
		return a.lost(host, "unknown-isolation-status")
	}
	changed := row.State != s.GetState() || row.Detail != s.GetDetail()
	if err := a.tx.ReportRow(row.N, s); err != nil {
		return fmt.Errorf("storing isolation status: %w", err)
	}
	if err := a.follow(host, row.N, row.Operation, s.GetState()); err != nil {
		return err
	}
	if err := a.summarise(host); err != nil || !changed {
		return err
	}
	return a.auditAs("host:"+id, "isolation-"+word, id, "operation %s, %s", s.GetOperation(), s.GetDetail())
}

// orderLost: the sensor found a cut in force, and what had ordered it was lost with its files.
func orderLost(s *sensorv1.IsolationStatus) bool {
	return s.GetOperation() == "" || s.GetOperation() == "recovered"
}

// reported is the row that a report is about, nil when there is none. A sensor
// that has lost the order speaks of the isolation that is in force for it; where
// the cluster knows of none either, it gets a row of the host's own, because a
// host that is cut off must be seen and can then be released.
func (a *applier) reported(host int64, id string, s *sensorv1.IsolationStatus) (*store.Row, error) {
	row, err := a.tx.OperationRow(s.GetOperation(), host)
	if err != nil {
		return nil, fmt.Errorf("reading isolation: %w", err)
	}
	if row != nil || !orderLost(s) {
		return row, nil
	}
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return nil, fmt.Errorf("reading isolations: %w", err)
	}
	for i := len(rows) - 1; i >= 0; i-- {
		if r := rows[i]; r.Action == sensorv1.Action_ACTION_ISOLATE && (r.State == applied || r.State == pending && s.GetState() == applied) {
			return &r, nil
		}
	}
	if s.GetState() != applied {
		return nil, nil
	}
	own := "recovered-" + id
	if row, err = a.tx.OperationRow(own, host); err != nil || row != nil {
		return row, err
	}
	operation, err := a.tx.AddOperation(&sensorv1.Grant{Operation: own, Nonce: []byte(own), Action: sensorv1.Action_ACTION_ISOLATE,
		Operator: "host:" + id, Reason: "found in force by the sensor, which has lost the order"}, nil, a.cmd.GetTime())
	if err != nil || operation == 0 {
		return nil, err
	}
	if err := a.tx.AddIsolation(operation, host, s.GetLeaseExpires()); err != nil {
		return nil, fmt.Errorf("storing isolation: %w", err)
	}
	return a.tx.OperationRow(own, host)
}

// follow ends the rows that a report has made untrue: a newer isolation that
// applies takes the place of the older, a release ends them all.
func (a *applier) follow(host, n int64, operation string, state sensorv1.IsolationState) error {
	if state != applied && state != released {
		return nil
	}
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return fmt.Errorf("reading isolations: %w", err)
	}
	for _, r := range rows {
		if r.N == n || (r.State != applied && r.State != pending) {
			continue
		}
		older := r.N < n
		var detail string
		switch {
		case state == applied && older && r.State == applied:
			detail = "superseded by " + operation
		case state == released && older:
			detail = "released by " + operation
		case state == released && r.State == pending && r.Action == sensorv1.Action_ACTION_RELEASE:
			// The host says so under the isolation's own operation.
			detail = "released"
		default:
			continue
		}
		if err := a.tx.SetRowState(r.N, released, detail); err != nil {
			return fmt.Errorf("ending isolation: %w", err)
		}
	}
	return nil
}

// summarise computes the host list's word from the host's rows.
func (a *applier) summarise(host int64) error {
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return fmt.Errorf("reading isolations: %w", err)
	}
	word := "none"
	for _, r := range rows {
		switch {
		case r.State == applied && r.Action == sensorv1.Action_ACTION_ISOLATE:
			word = "applied"
		case r.State == pending && word != "applied":
			word = "pending"
		case (r.State == failed || r.State == refused) && r.Action == sensorv1.Action_ACTION_ISOLATE && word == "none":
			word = "failed"
		}
	}
	if err := a.tx.SetHostIsolation(host, word); err != nil {
		return fmt.Errorf("storing host isolation: %w", err)
	}
	return nil
}
