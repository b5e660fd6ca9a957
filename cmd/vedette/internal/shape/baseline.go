package shape

import (
	"encoding/hex"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// BaselineRow is one behaviour of a host's baseline.
type BaselineRow struct {
	Key string `json:"key"`
	Behaviour
}

// FromBaseline shapes a behaviour of a host.
func FromBaseline(row *operatorv1.BehaviourRow) BaselineRow {
	b := row.GetBehaviour()
	return BaselineRow{hex.EncodeToString(b.GetKey()), Behaviour{
		Kind(b.GetKind()), output.Lossless(b.GetSubject()), output.Lossless(b.GetObject()),
		row.GetCount(), Time(b.GetFirstSeen()), Time(row.GetLastSeen()), row.GetHosts(), row.GetKnown(),
	}}
}

// BaselineDifference is one behaviour that one side has and the other has not.
type BaselineDifference struct {
	Key      string `json:"key"`
	Side     string `json:"side"` // here or there
	Kind     string `json:"kind"`
	Subject  string `json:"subject"`
	Object   string `json:"object"`
	Others   uint32 `json:"others"`
	Count    uint64 `json:"count"`
	LastSeen Time   `json:"last_seen"`
	Hosts    uint64 `json:"hosts"`
}

// FromDifference shapes a difference.
func FromDifference(r *operatorv1.DifferenceRow) BaselineDifference {
	b, side := r.GetBehaviour(), "there"
	if r.GetHere() {
		side = "here"
	}
	return BaselineDifference{hex.EncodeToString(b.GetKey()), side, Kind(b.GetKind()), output.Lossless(b.GetSubject()), output.Lossless(b.GetObject()),
		r.GetOthers(), r.GetCount(), Time(r.GetLastSeen()), r.GetHosts()}
}

// Role is a role group.
type Role struct {
	Name         string `json:"name"`
	Basis        string `json:"basis"`
	Hosts        uint64 `json:"hosts"`
	MadeAt       Time   `json:"made_at"`
	PackOperator string `json:"pack_operator"`
	PackMadeAt   Time   `json:"pack_made_at"`
	PackNotAfter Time   `json:"pack_not_after"`
}

// FromRole shapes a role group.
func FromRole(r *operatorv1.RoleRow) Role {
	return Role{r.GetName(), r.GetBasis(), r.GetHosts(), Time(r.GetMadeAt()), r.GetPackOperator(), Time(r.GetPackMadeAt()), Time(r.GetPackNotAfter())}
}

// Pack is a baseline pack without its behaviours.
type Pack struct {
	Role       string `json:"role"`
	Of         uint32 `json:"of"`
	Permille   uint32 `json:"permille"`
	Behaviours int    `json:"behaviours"`
	LeftOut    uint32 `json:"left_out"`
	Operator   string `json:"operator"`
	MadeAt     Time   `json:"made_at"`
	NotAfter   Time   `json:"not_after"`
	SHA256     string `json:"sha256"`
}

// FromPack shapes a pack; sum names it.
func FromPack(p *sensorv1.Pack, leftOut uint32, sum []byte) Pack {
	return Pack{p.GetRole(), p.GetOf(), p.GetPermille(), len(p.GetBehaviours()), leftOut, p.GetOperator(), Time(p.GetMadeAt()), Time(p.GetNotAfter()), hex.EncodeToString(sum)}
}

// Unlearn is an order to forget, and what became of it.
type Unlearn struct {
	ID         string `json:"id"`
	Host       string `json:"host"`
	Operator   string `json:"operator"`
	Time       Time   `json:"time"`
	What       string `json:"what"`
	Reason     string `json:"reason"`
	State      string `json:"state"`
	Behaviours uint32 `json:"behaviours"`
	Failure    string `json:"failure"`
	AnsweredAt Time   `json:"answered_at"`
}

// FromUnlearn shapes one.
func FromUnlearn(r *operatorv1.UnlearnRow) Unlearn {
	return Unlearn{r.GetId(), r.GetHost(), r.GetOperator(), Time(r.GetTime()), r.GetWhat(), r.GetReason(), r.GetState(), r.GetBehaviours(), r.GetFailure(), Time(r.GetAnsweredAt())}
}

// RollOut is a behaviour that came to many hosts by an installer.
type RollOut struct {
	Key       string `json:"key"`
	Kind      string `json:"kind"`
	Subject   string `json:"subject"`
	Object    string `json:"object"`
	By        string `json:"by"`
	Hosts     uint32 `json:"hosts"`
	Installed uint32 `json:"installed"`
	FirstSeen Time   `json:"first_seen"`
	LastSeen  Time   `json:"last_seen"`
}

// FromRollOut shapes one.
func FromRollOut(r *operatorv1.RollOutRow) RollOut {
	b, o := r.GetBehaviour(), r.GetRollOut()
	return RollOut{hex.EncodeToString(o.GetKey()), Kind(b.GetKind()), output.Lossless(b.GetSubject()), output.Lossless(b.GetObject()),
		o.GetBy(), o.GetHosts(), o.GetInstalled(), Time(o.GetFirstSeen()), Time(o.GetLastSeen())}
}
