package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// RejectStalePack: a pack that is not newer than the one before, or of one role too many.
const RejectStalePack = "stale-pack"

// learningOrder takes a pack, an order to forget, or a host's answer to one. Signatures are the
// proposer's and every sensor's to verify.
func (a *applier) learningOrder(in *raftv1.LearningOrder) (*raftv1.Result, error) {
	switch body := in.GetBody().(type) {
	case *raftv1.LearningOrder_Pack:
		return a.putPack(body.Pack)
	case *raftv1.LearningOrder_Unlearn:
		return a.unlearn(body.Unlearn)
	case *raftv1.LearningOrder_Unlearnt:
		return a.unlearnt(body.Unlearnt)
	}
	return reject(RejectInvalid, "the order says nothing"), nil
}

func (a *applier) ours(cluster string) (*raftv1.Result, error) {
	own, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	if cluster != own {
		return reject(RejectWrongCluster, "it is for cluster %q, this is %q: use the right context", cluster, own), nil
	}
	return nil, nil
}

func (a *applier) putPack(signed *sensorv1.SignedPack) (*raftv1.Result, error) {
	p, err := pack.Decode(signed.GetPayload())
	if err != nil {
		return reject(RejectInvalid, "%v", err), nil
	}
	if p.GetOperator() == "" || signed.GetSignature() == nil {
		return reject(RejectInvalid, "nobody signed the pack"), nil
	}
	// A pack from later on would keep out every honest one for as long.
	switch now := a.cmd.GetTime(); {
	case p.GetMadeAt() <= 0 || p.GetMadeAt() > now+clockSkew:
		return reject(RejectInvalid, "the pack says that it was made later than now: set the clock of the machine that it was signed on"), nil
	case p.GetNotAfter() <= now:
		return reject(RejectInvalid, "the pack has ended: export it again"), nil
	case p.GetNotAfter()-p.GetMadeAt() > int64(pack.Lifetime):
		return reject(RejectInvalid, "the pack is for longer than %s", pack.Lifetime), nil
	}
	if refused, err := a.ours(p.GetClusterId()); refused != nil || err != nil {
		return refused, err
	}
	put, err := a.tx.PutPack(signed, p)
	if err != nil {
		return nil, fmt.Errorf("storing pack: %w", err)
	}
	if !put {
		return reject(RejectStalePack, "role %s has a pack that was made later, or there are packs of too many roles: export it again", p.GetRole()), nil
	}
	return accept(p.GetRole()), a.audit("pack-import", p.GetRole(), "by operator %s, %d behaviours of %d hosts, until %d",
		p.GetOperator(), len(p.GetBehaviours()), p.GetOf(), p.GetNotAfter())
}

func (a *applier) unlearn(signed *sensorv1.SignedUnlearn) (*raftv1.Result, error) {
	u, err := pack.DecodeUnlearn(signed.GetPayload())
	if err != nil {
		return reject(RejectInvalid, "%v", err), nil
	}
	if refused, err := a.ours(u.GetClusterId()); refused != nil || err != nil {
		return refused, err
	}
	host, ok, err := a.tx.HostNumber(u.GetHost())
	if err != nil {
		return nil, fmt.Errorf("reading host: %w", err)
	}
	if !ok {
		return reject(RejectUnknownHost, "no host is called %s", u.GetHost()), nil
	}
	added, err := a.tx.AddUnlearn(host, signed, u)
	if err != nil {
		return nil, fmt.Errorf("storing order to unlearn: %w", err)
	}
	if !added {
		return reject(RejectOperationExists, "an order to unlearn has the id %s: draw another", u.GetId()), nil
	}
	return accept(u.GetId()), a.audit("unlearn", u.GetHost(), "%s: by operator %s, %s: %s", u.GetId(), u.GetOperator(), UnlearnInWords(u), u.GetReason())
}

// UnlearnInWords is what an order says that is to be forgotten.
func UnlearnInWords(u *sensorv1.Unlearn) string {
	switch {
	case len(u.GetKeys()) > 0:
		return fmt.Sprintf("%d behaviours by key", len(u.GetKeys()))
	case len(u.GetSubject()) > 0:
		return fmt.Sprintf("what %.256q does and who starts it", u.GetSubject())
	}
	return fmt.Sprintf("what was first seen at or after %d", u.GetSince())
}

func (a *applier) unlearnt(in *raftv1.UnlearntBy) (*raftv1.Result, error) {
	if len(in.GetUnlearnt().GetFailure()) > maxReason {
		return reject(RejectInvalid, "the failure is longer than %d bytes", maxReason), nil
	}
	host, ok, err := a.tx.HostNumber(in.GetHost())
	if err != nil {
		return nil, fmt.Errorf("reading host: %w", err)
	}
	if !ok {
		return reject(RejectUnknownHost, "no host is called %s", in.GetHost()), nil
	}
	waited, err := a.tx.AnswerUnlearn(host, in.GetUnlearnt())
	if err != nil {
		return nil, fmt.Errorf("storing answer: %w", err)
	}
	if !waited {
		return a.disposed(host, in) // or told twice
	}
	return accept(in.GetUnlearnt().GetId()), a.auditAs("host:"+in.GetHost(), "unlearnt", in.GetHost(), "%s: %d behaviours %s",
		in.GetUnlearnt().GetId(), in.GetUnlearnt().GetBehaviours(), in.GetUnlearnt().GetFailure())
}
