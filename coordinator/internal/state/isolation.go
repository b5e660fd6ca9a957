package state

import (
	"crypto/sha256"
	"fmt"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	pending  = sensorv1.IsolationState_ISOLATION_STATE_PENDING
	applied  = sensorv1.IsolationState_ISOLATION_STATE_APPLIED
	released = sensorv1.IsolationState_ISOLATION_STATE_RELEASED
	refused  = sensorv1.IsolationState_ISOLATION_STATE_REFUSED
	failed   = sensorv1.IsolationState_ISOLATION_STATE_FAILED
	expired  = sensorv1.IsolationState_ISOLATION_STATE_EXPIRED
	preview  = sensorv1.IsolationState_ISOLATION_STATE_PREVIEWED
)

// maxOwn bounds what a host may say that it has in force without an order: a
// forging sensor must not fill the state.
const maxOwn = 256

const nonceBytes = 16

var stateWords = map[sensorv1.IsolationState]string{
	pending: "pending", applied: "applied", released: "released", refused: "refused", failed: "failed", expired: "expired", preview: "previewed",
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
	case row == nil && orderLost(s) && !s.GetLocal():
		return nil // the end of a cut that nobody here knows of: there is nothing to end
	case row == nil && s.GetState() == released && validID(s.GetOperation()):
		// A release token: signed by an operator, carried to the host by hand.
		return a.auditAs("host:"+id, "isolation-"+word, id, "operation %s, which came past the cluster: %s", s.GetOperation(), s.GetDetail())
	case row == nil:
		return a.lost(host, "unknown-isolation-status")
	}
	changed := row.State != s.GetState() || row.Detail != s.GetDetail()
	if err := a.tx.ReportRow(*row, s); err != nil {
		return fmt.Errorf("storing isolation status: %w", err)
	}
	if s.GetState() == refused || s.GetState() == failed || s.GetState() == preview {
		if err := a.tx.Uncount(row.N); err != nil {
			return fmt.Errorf("uncounting isolation: %w", err)
		}
	}
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return fmt.Errorf("reading isolations: %w", err)
	}
	if err := a.follow(rows, row, s.GetState()); err != nil {
		return err
	}
	if err := a.tx.SetHostIsolation(host, summary(rows)); err != nil {
		return fmt.Errorf("storing host isolation: %w", err)
	}
	if !changed {
		return nil
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
	if row != nil {
		return row, nil
	}
	if s.GetLocal() {
		return a.begunByHost(host, id, s)
	}
	if !orderLost(s) {
		return nil, nil
	}
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return nil, fmt.Errorf("reading isolations: %w", err)
	}
	for i := len(rows) - 1; i >= 0; i-- {
		if r := rows[i]; ofIsolation(r.Action, r.Undoes) && r.Action == sensorv1.Action_ACTION_ISOLATE && (r.State == applied || r.State == pending && s.GetState() == applied) {
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
	return a.hostsOwn(host, id, own, sensorv1.Action_ACTION_ISOLATE, s, "found in force by the sensor, which has lost the order")
}

// begunByHost makes the row of what a host did on its own evidence, by the intent
// that it holds. It is believed, counted by the governor, and said in the audit.
func (a *applier) begunByHost(host int64, id string, s *sensorv1.IsolationStatus) (*store.Row, error) {
	action := s.GetAction()
	if action == sensorv1.Action_ACTION_UNSPECIFIED {
		action = sensorv1.Action_ACTION_ISOLATE
	}
	if grant.Word(action) == "" || !validID(s.GetOperation()) {
		return nil, nil
	}
	rows, err := a.tx.HostRows(host)
	if err != nil {
		return nil, fmt.Errorf("reading isolations: %w", err)
	}
	if len(rows) >= maxOwn {
		return nil, nil
	}
	return a.hostsOwn(host, id, s.GetOperation(), action, s, fmt.Sprintf("on the host's own evidence %q by intent version %d", s.GetEvidence(), s.GetIntentVersion()))
}

// hostsOwn is an operation that no order made.
func (a *applier) hostsOwn(host int64, id, operation string, action sensorv1.Action, s *sensorv1.IsolationStatus, reason string) (*store.Row, error) {
	nonce := sha256.Sum256([]byte(id + "/" + operation))
	g := &sensorv1.Grant{Operation: operation, Nonce: nonce[:nonceBytes], Action: action, Operator: "host:" + id, Reason: reason}
	kept := &store.Order{State: store.OrderOrdered, Body: &operatorv1.Operation{
		Id: operation, Action: grant.Word(action), Hosts: []string{id}, RequestedBy: "host:" + id, RequestedAt: a.cmd.GetTime(), Reason: reason,
		Policies: s.GetPolicies()}}
	if s.GetLocal() {
		kept.Body.Level = levelAct
	}
	stored, err := a.tx.AddOrder(g, kept, a.cmd.GetTime())
	if err != nil || !stored {
		return nil, err
	}
	if err := a.tx.AddIsolation(kept.N, store.Row{Operation: operation, Host: host, Action: action}, s.GetLeaseExpires(), a.cmd.GetTime()); err != nil {
		return nil, fmt.Errorf("storing isolation: %w", err)
	}
	return a.tx.OperationRow(operation, host)
}

// follow ends those of a host's rows that a report has made untrue: a newer isolation
// that applies takes the place of the older, a release ends them all.
func (a *applier) follow(rows []store.Row, row *store.Row, state sensorv1.IsolationState) error {
	if (state != applied && state != released) || !ofIsolation(row.Action, row.Undoes) {
		return nil
	}
	n, operation := row.N, row.Operation
	for i, r := range rows {
		if r.N == n || (r.State != applied && r.State != pending) || !ofIsolation(r.Action, r.Undoes) {
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
		if err := a.tx.SetRowState(r, released, detail); err != nil {
			return fmt.Errorf("ending isolation: %w", err)
		}
		rows[i].State, rows[i].Detail = released, detail
	}
	return nil
}

// summary is the host list's word for a host's rows.
func summary(rows []store.Row) string {
	word := "none"
	for _, r := range rows {
		switch {
		case !ofIsolation(r.Action, r.Undoes):
		case r.State == applied && r.Action == sensorv1.Action_ACTION_ISOLATE:
			word = "applied"
		case r.State == pending && word != "applied":
			word = "pending"
		case (r.State == failed || r.State == refused) && r.Action == sensorv1.Action_ACTION_ISOLATE && word == "none":
			word = "failed"
		}
	}
	return word
}
