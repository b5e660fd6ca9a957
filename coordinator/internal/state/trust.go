package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

const (
	// RejectStaleTrust: not the list that follows the one in force.
	RejectStaleTrust = "stale-trust"
	// RejectTrustStep: more at once than a node that is one list behind would survive.
	RejectTrustStep = "trust-step"
	// RejectNodesNotReady: a node does not hold the list in force.
	RejectNodesNotReady = "nodes-not-ready"
	// RejectHostsNotReady: a host would be cut off by what is taken away.
	RejectHostsNotReady = "hosts-not-ready"

	// maxTrusts is how many lists there ever are: three for each rotation.
	maxTrusts = 1000
	maxNoted  = 2000
)

// putTrust takes the next list of trusted authorities. Its signature is the proposer's and
// every holder's to verify.
//
// Any two nodes may be one list apart, and one that was away comes back with the older one;
// so may a node and a sensor. So every node has the list in force before the next is taken,
// and what each of the two has nodes show is trusted by the other. An authority is followed
// by another in four lists: known, signing, shown, alone.
func (a *applier) putTrust(in *raftv1.PutTrust) (*raftv1.Result, error) {
	next, err := trust.Decode(in.GetSigned().GetPayload())
	if err != nil {
		return reject(RejectInvalid, "%v", err), nil
	}
	cluster, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	kept, err := a.tx.Trusts(maxTrusts)
	if err != nil {
		return nil, fmt.Errorf("reading lists of trusted authorities: %w", err)
	}
	lists := make([]*sensorv1.Trust, len(kept))
	for i, signed := range kept {
		if lists[i], err = trust.Decode(signed.GetPayload()); err != nil {
			return nil, fmt.Errorf("decoding a list of trusted authorities: %w", err)
		}
	}
	var before *sensorv1.Trust
	if len(lists) > 0 {
		before = lists[0]
	}
	switch {
	case next.GetClusterId() != cluster:
		return reject(RejectWrongCluster, "the list of trusted authorities is for cluster %q, this is %q: use the right context", next.GetClusterId(), cluster), nil
	case len(in.GetReason()) > maxReason:
		return reject(RejectInvalid, "the reason is longer than %d bytes", maxReason), nil
	case next.GetSignedAt() > a.cmd.GetTime()+clockSkew:
		return reject(RejectInvalid, "the list of trusted authorities was signed in the future: compare the clocks"), nil
	case next.GetEpoch() != before.GetEpoch()+1:
		return reject(RejectStaleTrust, "epoch %d is in force, and this list has %d: another admin was quicker; look again", before.GetEpoch(), next.GetEpoch()), nil
	case len(lists) >= maxTrusts:
		return reject(RejectInvalid, "there were %d lists of trusted authorities already", len(lists)), nil
	}
	if refused, err := a.trustStep(lists, next); refused != nil || err != nil {
		return refused, err
	}
	forced := ""
	// What hosts are shown they must know, and what signed them must stay.
	if before != nil && (!bytes.Equal(before.GetRoots()[0], next.GetRoots()[0]) || len(missing(before.GetRoots(), next.GetRoots())) > 0) {
		refused, err := a.hostsReady(lists, next, in.GetSeenSince())
		if err != nil || refused != nil && !in.GetForce() {
			return refused, err
		}
		if refused != nil {
			forced = ", forced: " + refused.GetMessage()
		}
	}
	if err := a.tx.PutTrust(next.GetEpoch(), in.GetSigned(), in.GetReason()); err != nil {
		return nil, fmt.Errorf("storing list of trusted authorities: %w", err)
	}
	return accept(fmt.Sprint(next.GetEpoch())), a.audit("trust-sign", fmt.Sprintf("epoch %d", next.GetEpoch()),
		"by operator %s, authorities %s, issuer %s, reason %q%s", next.GetOperator(), rootsInWords(next.GetRoots()), trust.Short(next.GetRoots()[next.GetIssuer()]), in.GetReason(), forced)
}

// trustStep says what of next a node with the list before would not survive. The first list
// has none before it: the proposer looks whether it begins with what there is.
func (a *applier) trustStep(lists []*sensorv1.Trust, next *sensorv1.Trust) (*raftv1.Result, error) {
	var before *sensorv1.Trust
	if len(lists) > 0 {
		before = lists[0]
	}
	if before == nil {
		if next.GetIssuer() != 0 {
			return reject(RejectTrustStep, "a new authority signs only when every node knows it"), nil
		}
		return nil, nil
	}
	has := func(t *sensorv1.Trust, root []byte) bool {
		return slices.ContainsFunc(t.GetRoots(), func(r []byte) bool { return bytes.Equal(r, root) })
	}
	issuer := before.GetRoots()[before.GetIssuer()]
	switch {
	case !has(before, next.GetRoots()[next.GetIssuer()]):
		return reject(RejectTrustStep, "a new authority signs only when every node knows it: first the list with it, then one that has it sign"), nil
	case !has(next, issuer):
		return reject(RejectTrustStep, "authority %s signs: have another one sign before it goes", trust.Short(issuer)), nil
	case !has(next, before.GetRoots()[0]):
		return reject(RejectTrustStep, "nodes show sensors authority %s: have them show another one before it goes", trust.Short(before.GetRoots()[0])), nil
	case !bytes.Equal(next.GetRoots()[0], before.GetRoots()[0]) && !bytes.Equal(next.GetRoots()[0], issuer):
		return reject(RejectTrustStep, "nodes show sensors authority %s: only the one that signs, %s, may follow", trust.Short(before.GetRoots()[0]), trust.Short(issuer)), nil
	}
	needed := before.GetEpoch()
	if undoes(lists, next) {
		// The key of what was added may be lost: then no node ever has all of that list.
		needed--
	}
	behind, err := a.tx.NodesBelow(needed)
	if err != nil {
		return nil, fmt.Errorf("reading nodes: %w", err)
	}
	if len(behind) > 0 {
		return reject(RejectNodesNotReady, "%s: not yet with epoch %d and all its keys; wait, start them, or remove them (`vedette cluster remove`)", strings.Join(behind, ", "), needed), nil
	}
	return nil, nil
}

// undoes says whether next is as the list before the one in force: who has either of the
// two has what it says.
func undoes(lists []*sensorv1.Trust, next *sensorv1.Trust) bool {
	earlier := &sensorv1.Trust{Roots: lists[0].GetRoots()[:1]} // what there was before the first list
	if len(lists) > 1 {
		earlier = lists[1]
	}
	return slices.EqualFunc(earlier.GetRoots(), next.GetRoots(), bytes.Equal) && earlier.GetIssuer() == next.GetIssuer()
}

// hostsReady says which hosts would be cut off. A host that holds a list since which all
// that stay are trusted trusts them, whichever newer one it has.
func (a *applier) hostsReady(lists []*sensorv1.Trust, next *sensorv1.Trust, since int64) (*raftv1.Result, error) {
	enough := lists[0].GetEpoch()
	for _, t := range lists {
		if len(missing(next.GetRoots(), t.GetRoots())) > 0 {
			break
		}
		enough = t.GetEpoch()
	}
	keys := make([][]byte, len(next.GetRoots()))
	for i, root := range next.GetRoots() {
		keys[i] = trust.Key(root)
	}
	// A host that never had a list has what it enrolled with.
	first := bytes.Equal(next.GetRoots()[0], lists[len(lists)-1].GetRoots()[0])
	n, one, err := a.tx.HostsUnready(enough, keys, since, first)
	if err != nil {
		return nil, fmt.Errorf("reading hosts: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	return reject(RejectHostsNotReady, "%d hosts, %s among them, do not hold epoch %d yet or have a certificate by what goes: they would have to enrol again; `vedette cluster root status` counts them", n, one, enough), nil
}

// missing are those of a that b lacks.
func missing(a, b [][]byte) (out [][]byte) {
	for _, root := range a {
		if !slices.ContainsFunc(b, func(r []byte) bool { return bytes.Equal(r, root) }) {
			out = append(out, root)
		}
	}
	return out
}

func rootsInWords(roots [][]byte) string {
	texts := make([]string, len(roots))
	for i, root := range roots {
		texts[i] = trust.Short(root)
	}
	return strings.Join(texts, " ")
}

// noteTrust keeps who holds which list.
func (a *applier) noteTrust(in *raftv1.NoteTrust) (*raftv1.Result, error) {
	if len(in.GetHosts())+len(in.GetNodes())+len(in.GetOperators()) > maxNoted {
		return reject(RejectInvalid, "more than %d at once", maxNoted), nil
	}
	for _, h := range in.GetHosts() {
		if len(h.GetRoot()) != 0 && len(h.GetRoot()) != sha256.Size {
			return reject(RejectInvalid, "the name of an authority has %d bytes", len(h.GetRoot())), nil
		}
	}
	if err := a.tx.NoteTrust(in); err != nil {
		return nil, fmt.Errorf("storing who trusts what: %w", err)
	}
	return accept(""), nil
}
