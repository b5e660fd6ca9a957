package shape

import (
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Operation is a row of `operation list`.
type Operation struct {
	ID               string   `json:"id"`
	State            string   `json:"state"`
	Action           string   `json:"action"`
	Hosts            []string `json:"hosts"`
	RequestedBy      string   `json:"requested_by"`
	RequestedAt      Time     `json:"requested_at"`
	Reason           string   `json:"reason"`
	ApprovedBy       []string `json:"approved_by"`
	ApprovalsMissing uint32   `json:"approvals_missing"`
	WindowEnds       Time     `json:"window_ends"`
	Expires          Time     `json:"expires"`
	Level            uint32   `json:"level"`
	Finding          string   `json:"finding"`
	Policies         []string `json:"policies"`
	VetoedBy         string   `json:"vetoed_by"`
	VetoReason       string   `json:"veto_reason"`
}

// FromOperation shapes an order.
func FromOperation(o *operatorv1.Operation) Operation {
	return Operation{
		o.GetId(), o.GetState(), o.GetAction(), list(o.GetHosts()), o.GetRequestedBy(), Time(o.GetRequestedAt()), o.GetReason(),
		list(o.GetApprovedBy()), o.GetApprovalsMissing(), Time(o.GetWindowEnds()), Time(o.GetExpires()), o.GetLevel(),
		o.GetFinding(), list(o.GetPolicies()), o.GetVetoedBy(), o.GetVetoReason(),
	}
}

// OperationDetail is what `operation show` answers.
type OperationDetail struct {
	Operation
	Signed *Signed `json:"signed"`
}

// Signed is what an order's grant says: not what a node says of it, but what is signed.
type Signed struct {
	Action       string  `json:"action"`
	Level        string  `json:"level"`
	Target       *Target `json:"target"`
	LeaseSeconds uint64  `json:"lease_seconds"`
	Undoes       string  `json:"undoes"`
	Preview      bool    `json:"preview"`
	Hosts        uint32  `json:"hosts"`
	Reason       string  `json:"reason"`
}

// FromOperationDetail shapes an order with what it is signed for.
func FromOperationDetail(o *operatorv1.Operation) OperationDetail {
	out := OperationDetail{Operation: FromOperation(o)}
	signed, err := grant.Decode(o.GetGrant().GetPayload())
	if err != nil {
		return out
	}
	level := ""
	if signed.GetAction() == sensorv1.Action_ACTION_ISOLATE {
		level = grant.LevelWord(signed.GetLevel())
	}
	out.Signed = &Signed{
		grant.Word(signed.GetAction()), level, FromTarget(signed.GetTarget()), signed.GetLeaseSeconds(), signed.GetUndoes(), signed.GetPreview(),
		signed.GetHostCount(), signed.GetReason(),
	}
	return out
}
