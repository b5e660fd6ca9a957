package state

import (
	"fmt"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Where and why records are missing after a restore: a host's losses say it.
const (
	lossPlace    = "coordinator"
	lossRestored = "restored-from-backup"
)

// restoreCluster is the first entry after a backup. What the former cluster did later is
// not here, and hosts saw it: so no order is given that they would take for an old one, no
// join token is good that may have been spent, and each host says that something is missing.
func (a *applier) restoreCluster(in *raftv1.RestoreCluster) (*raftv1.Result, error) {
	if rejected := checkNode(in.GetNode()); rejected != nil {
		return rejected, nil
	}
	others, err := a.tx.OnlyNode(in.GetNode())
	if err != nil {
		return nil, fmt.Errorf("storing the only node: %w", err)
	}
	if err := a.tx.RaiseEpochs(a.cmd.GetTime()); err != nil {
		return nil, fmt.Errorf("raising the hosts' epochs: %w", err)
	}
	voided, err := a.tx.VoidTokens()
	if err != nil {
		return nil, fmt.Errorf("voiding join tokens: %w", err)
	}
	if err := a.tx.AddLossEverywhere(lossPlace, lossRestored); err != nil {
		return nil, fmt.Errorf("storing losses: %w", err)
	}
	authority := "with its authority"
	if in.GetAuthority() {
		authority = "with a new authority: hosts must enrol again"
	}
	return accept(in.GetNode().GetId()), a.audit("cluster-restore", in.GetNode().GetId(),
		"from a backup made at %d, entry %d, %s; what came after it is not here; nodes before: %s; join tokens voided: %d",
		in.GetMade(), in.GetMadeIndex(), authority, strings.Join(others, " "), voided)
}

// recoverCluster is the first entry after a lost quorum. The hosts know by themselves
// what this node did not have of theirs, since they know what was acknowledged.
func (a *applier) recoverCluster(in *raftv1.RecoverCluster) (*raftv1.Result, error) {
	if rejected := checkNode(in.GetNode()); rejected != nil {
		return rejected, nil
	}
	others, err := a.tx.OnlyNode(in.GetNode())
	if err != nil {
		return nil, fmt.Errorf("storing the only node: %w", err)
	}
	if err := a.tx.RaiseEpochs(a.cmd.GetTime()); err != nil {
		return nil, fmt.Errorf("raising the hosts' epochs: %w", err)
	}
	for _, id := range others {
		if err := a.audit("member-remove", id, "quorum was lost"); err != nil {
			return nil, err
		}
	}
	return accept(in.GetNode().GetId()), a.audit("cluster-recover", in.GetNode().GetId(),
		"quorum was lost; goes on from what this node had, entry %d of term %d; without: %s; what others alone had is not here",
		in.GetLastIndex(), in.GetLastTerm(), strings.Join(others, " "))
}

// noteBackup keeps who took a copy, before they get it.
func (a *applier) noteBackup(in *raftv1.NoteBackup) (*raftv1.Result, error) {
	subject := "state"
	if in.GetIdentity() {
		subject = "state and authority key"
	}
	return accept(""), a.audit("cluster-backup", subject, "")
}
