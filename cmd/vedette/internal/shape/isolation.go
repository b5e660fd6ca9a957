package shape

import (
	"encoding/hex"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Isolation is a row of `isolation list`: one host's part of an order, which may also be a
// release or a containment.
type Isolation struct {
	ID           string  `json:"id"`
	Host         string  `json:"host"`
	State        string  `json:"state"`
	RequestedBy  string  `json:"requested_by"`
	Reason       string  `json:"reason"`
	LeaseExpires Time    `json:"lease_expires"`
	Grant        string  `json:"grant"`
	AppliedAt    Time    `json:"applied_at"`
	SelfTest     string  `json:"self_test"`
	Action       string  `json:"action"`
	Level        string  `json:"level"`
	Target       *Target `json:"target"`
	Detail       string  `json:"detail"`
	Operation    string  `json:"operation"`
}

// Target is what an action is done to; of its keys the action's are not empty.
type Target struct {
	Storyline string   `json:"storyline"`
	Process   string   `json:"process"`
	SHA256    string   `json:"sha256"`
	Prefixes  []string `json:"prefixes"`
	Name      string   `json:"name"`
	Account   string   `json:"account"`
	Path      string   `json:"path"`
	Suspect   string   `json:"suspect"`
}

// FromIsolation shapes an isolation.
func FromIsolation(i *operatorv1.Isolation) Isolation {
	return Isolation{
		i.GetId(), i.GetHost(), i.GetState(), i.GetRequestedBy(), i.GetReason(),
		Time(i.GetLeaseExpires()), i.GetGrant(), Time(i.GetAppliedAt()), i.GetSelfTest(),
		i.GetAction(), i.GetLevel(), FromTarget(i.GetTarget()), i.GetDetail(), i.GetOperation(),
	}
}

// FromTarget shapes a target, nil where there is none.
func FromTarget(t *sensorv1.Target) *Target {
	if t == nil {
		return nil
	}
	p := t.GetProcess()
	return &Target{
		t.GetStoryline(), ProcessID(&sensorv1.Process{Pid: p.GetPid(), Start: p.GetStart()}), hex.EncodeToString(t.GetImageSha256()),
		list(t.GetPrefixes()), t.GetName(), t.GetAccount(), output.Lossless(t.GetPath()), t.GetSuspect(),
	}
}
