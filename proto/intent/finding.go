package intent

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// noLogin is Process.login_uid outside a login session.
const noLogin = 1<<32 - 1

// maxBlocked bounds the addresses and names of one candidate.
const maxBlocked = 8

// FromFinding is what a finding says to a policy, but for the action. Confidence is the
// score divided by 100. Techniques hold the technique of each sub-technique as well, so that a
// policy on T1059 covers T1059.004. Tainted is a follow-up: what else a storyline did is not in
// a finding, and leader and sensor must read the same from it.
func FromFinding(f *sensorv1.Finding, host Host) Request {
	p := f.GetProcess()
	r := Request{
		Host: host, Confidence: f.GetScore() / 100, Severity: f.GetSeverity(), Kind: f.GetKind(), Rule: f.GetRuleId(),
		Tainted: f.GetKind() == "follow-up", Learning: f.GetLearning(), Losses: len(f.GetLosses()) > 0,
		Image: string(p.GetImage()), Traits: p.GetImageTraits(), User: p.GetUser(), Unit: p.GetUnit(), Account: accountOf(p),
	}
	for _, technique := range f.GetTechniques() {
		r.Techniques = append(r.Techniques, technique)
		if parent, _, is := strings.Cut(technique, "."); is {
			r.Techniques = append(r.Techniques, parent)
		}
	}
	r.Techniques = sorted(r.Techniques)
	return r
}

// accountOf is the account whose login session the process belongs to; empty when there
// is none, when it has become somebody else, and for root, whose lock can lock people out.
func accountOf(p *sensorv1.Process) string {
	if p == nil || p.GetLoginUid() == noLogin || p.GetUid() == 0 || p.GetLoginUid() != p.GetUid() {
		return ""
	}
	return p.GetUser()
}

// Candidate is an action that would answer a finding.
type Candidate struct {
	Action sensorv1.Action
	Target *sensorv1.Target // nil: the host
	Why    string
}

// Candidates are the actions that fit a finding, what disturbs least first:
//
//   - block-image, when the hash is known and nobody installed that file (memfd, deleted,
//     in a directory that all may write to): blocking a shell would end the host's own work;
//   - quarantine-file, of such a file that is on disk;
//   - block-address, then block-name, of the outside peers of a finding about a connection;
//   - freeze, which keeps memory for whoever looks and can be undone; then kill, which cannot;
//   - lock-account, of the person in whose session it was;
//   - isolate, which cuts everything.
//
// A host that is silent cannot do any of it: its neighbours can block it. One that came
// back is nothing to act on. What to do is for the policy to say, at best for the highest
// level among these and the first of those with it.
func Candidates(f *sensorv1.Finding) []Candidate {
	switch f.GetKind() {
	case "returned":
		return nil
	case "silent":
		return []Candidate{{Action: sensorv1.Action_ACTION_BLOCK_NEIGHBOUR, Why: "its own sensor cannot act"}}
	}
	var all []Candidate
	p := f.GetProcess()
	if stray(p) {
		if len(p.GetSha256()) == sha256.Size {
			all = append(all, Candidate{sensorv1.Action_ACTION_BLOCK_IMAGE, &sensorv1.Target{ImageSha256: p.GetSha256()}, "nobody installed this image, so that nothing else needs it"})
		}
		if onDisk(p) {
			all = append(all, Candidate{sensorv1.Action_ACTION_QUARANTINE_FILE, &sensorv1.Target{Path: p.GetImage()}, "the image lies where everybody may write"})
		}
	}
	if f.GetKind() == "new-flow" || f.GetKind() == "follow-up" {
		all = append(all, peers(f)...)
	}
	if target := processTarget(f); target != nil {
		all = append(all,
			Candidate{sensorv1.Action_ACTION_FREEZE, target, "it stops the processes, keeps their memory and can be undone"},
			Candidate{sensorv1.Action_ACTION_KILL, target, "it ends the processes for good"})
	}
	if account := accountOf(p); account != "" {
		all = append(all, Candidate{sensorv1.Action_ACTION_LOCK_ACCOUNT, &sensorv1.Target{Account: account}, "it was done in this account's session"})
	}
	return append(all, Candidate{Action: sensorv1.Action_ACTION_ISOLATE, Why: "it cuts whatever else is there"})
}

// stray is a program that no package put there.
func stray(p *sensorv1.Process) bool {
	return slices.ContainsFunc(p.GetImageTraits(), func(trait string) bool {
		return trait == "memfd" || trait == "deleted" || trait == "world-writable-dir"
	})
}

func onDisk(p *sensorv1.Process) bool {
	return strings.HasPrefix(string(p.GetImage()), "/") &&
		!slices.Contains(p.GetImageTraits(), "memfd") && !slices.Contains(p.GetImageTraits(), "deleted")
}

// peers blocks whom the process talked to outside: a private address may be a server that
// all hosts need.
func peers(f *sensorv1.Finding) []Candidate {
	var addresses, names []string
	for _, flow := range f.GetFlows() {
		remote, ok := netip.AddrFromSlice(flow.GetRemote())
		remote = remote.Unmap()
		if !ok || !remote.IsGlobalUnicast() || remote.IsPrivate() || len(addresses) >= maxBlocked {
			continue
		}
		addresses = append(addresses, remote.String())
		if flow.GetName() != "" {
			names = append(names, flow.GetName())
		}
	}
	addresses, names = sorted(addresses), sorted(names)
	var all []Candidate
	if len(addresses) > 0 {
		all = append(all, Candidate{sensorv1.Action_ACTION_BLOCK_ADDRESS, &sensorv1.Target{Prefixes: addresses}, "the process talked to it"})
	}
	if len(names) == 1 { // a target has one name
		all = append(all, Candidate{sensorv1.Action_ACTION_BLOCK_NAME, &sensorv1.Target{Name: names[0]}, "the peer's address was resolved from it"})
	}
	return all
}

func processTarget(f *sensorv1.Finding) *sensorv1.Target {
	p := f.GetProcess()
	switch {
	case f.GetStoryline() != "":
		return &sensorv1.Target{Storyline: f.GetStoryline()}
	case p.GetPid() > 1:
		return &sensorv1.Target{Process: &sensorv1.ProcessTarget{Pid: p.GetPid(), Start: p.GetStart()}}
	}
	return nil
}

// Proposal is a candidate with what the intent says of it.
type Proposal struct {
	Candidate
	Verdict Verdict
}

// Propose judges all candidates of a finding, in their order.
func (p *Policy) Propose(f *sensorv1.Finding, host Host) []Proposal {
	r := FromFinding(f, host)
	var all []Proposal
	for _, c := range Candidates(f) {
		r.Action = c.Action
		all = append(all, Proposal{c, p.Decide(r)})
	}
	return all
}
