package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// MaxDispositions is how many hosts one command tells of: it is far below what an entry may hold.
const MaxDispositions = 32

// putDispositions takes what the operator who closed an incident tells its hosts. Signatures are the
// proposer's and every sensor's to verify. One that came before, and one for a host that is gone, is
// passed over, so that a request that is sent again finds nothing to object to.
func (a *applier) putDispositions(in *raftv1.PutDispositions) (*raftv1.Result, error) {
	if n := len(in.GetDispositions()); n == 0 || n > MaxDispositions {
		return reject(RejectInvalid, "%d dispositions, 1 to %d go into one command", n, MaxDispositions), nil
	}
	hosts := make([]int64, len(in.GetDispositions()))
	all := make([]*sensorv1.Disposition, len(in.GetDispositions()))
	for i, signed := range in.GetDispositions() {
		d, err := pack.DecodeDisposition(signed.GetPayload())
		if err != nil {
			return reject(RejectInvalid, "%v", err), nil
		}
		if refused, err := a.ours(d.GetClusterId()); refused != nil || err != nil {
			return refused, err
		}
		// One from later on, or for ever, would wait for as long.
		if now := a.cmd.GetTime(); d.GetIssuedAt() > now+clockSkew || d.GetNotAfter() <= now || d.GetNotAfter()-d.GetIssuedAt() > int64(pack.UnlearnFor) {
			return reject(RejectInvalid, "the disposition is out of its time: set the clock of the machine that it was signed on"), nil
		}
		host, refused, err := a.disposes(d)
		if refused != nil || err != nil {
			return refused, err
		}
		hosts[i], all[i] = host, d
	}
	if err := a.tx.PruneDispositions(); err != nil {
		return nil, fmt.Errorf("removing old dispositions: %w", err)
	}
	for i, d := range all {
		if hosts[i] == 0 {
			continue
		}
		added, err := a.tx.AddDisposition(hosts[i], in.GetDispositions()[i], d)
		if err != nil {
			return nil, fmt.Errorf("storing disposition: %w", err)
		}
		if !added {
			continue
		}
		if err := a.audit("disposition", d.GetHost(), "%s: by operator %s, incident %s: %s, %d findings",
			d.GetId(), d.GetOperator(), d.GetIncident(), DispositionInWords(d.GetMalicious()), len(d.GetFindings())); err != nil {
			return nil, err
		}
	}
	return accept(""), nil
}

// disposes says for which host a disposition is, 0 for one that is gone, and holds it against the incident: hosts
// are told nothing that the record does not say.
func (a *applier) disposes(d *sensorv1.Disposition) (host int64, refused *raftv1.Result, err error) {
	incident, err := a.tx.Incident(d.GetIncident())
	switch as := DispositionInWords(d.GetMalicious()); {
	case err != nil:
		return 0, nil, fmt.Errorf("reading incident: %w", err)
	case incident == nil:
		return 0, reject(RejectUnknownIncident, "no incident is called %q: see `vedette incident list`", d.GetIncident()), nil
	case incident.GetStatus() != "closed" || incident.GetDisposition() != as:
		return 0, reject(RejectInvalid, "incident %s is not closed as %s", d.GetIncident(), as), nil
	}
	host, ok, err := a.tx.HostNumber(d.GetHost())
	if err != nil {
		return 0, nil, fmt.Errorf("reading host: %w", err)
	}
	if !ok {
		return 0, nil, nil
	}
	for _, id := range d.GetFindings() {
		is, err := a.tx.IsFinding(id, host, d.GetIncident())
		if err != nil {
			return 0, nil, fmt.Errorf("reading finding: %w", err)
		}
		if !is {
			return 0, reject(RejectInvalid, "%q is no finding of host %s in incident %s", id, d.GetHost(), d.GetIncident()), nil
		}
	}
	return host, nil, nil
}

// disposed takes a host's answer to a disposition; to one that does not wait it changes nothing.
func (a *applier) disposed(host int64, in *raftv1.UnlearntBy) (*raftv1.Result, error) {
	waited, err := a.tx.AnswerDisposition(host, in.GetUnlearnt())
	if err != nil {
		return nil, fmt.Errorf("storing answer: %w", err)
	}
	if !waited {
		return accept(""), nil
	}
	return accept(in.GetUnlearnt().GetId()), a.auditAs("host:"+in.GetHost(), "disposed", in.GetHost(), "%s: %d findings %s",
		in.GetUnlearnt().GetId(), in.GetUnlearnt().GetBehaviours(), in.GetUnlearnt().GetFailure())
}

// DispositionInWords is an incident's disposition.
func DispositionInWords(malicious bool) string {
	if malicious {
		return "malicious"
	}
	return "benign"
}
