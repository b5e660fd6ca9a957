package state

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
)

const (
	// RejectStaleRules: not the set that follows the newest, or a step that it is past.
	RejectStaleRules = "stale-rules"

	// keptRules is how many versions can be brought back.
	keptRules = 32
	maxRuleID = 128
	maxWhy    = 1024
)

// putRules takes the next set of rules. Its signature is the proposer's and every sensor's
// to verify. One with the files of a set that all hosts had goes to all at once: it was
// tried, and who brings it back is in a hurry.
func (a *applier) putRules(in *raftv1.PutRules) (*raftv1.Result, error) {
	next, err := ruleset.Decode(in.GetSigned().GetPayload())
	if err != nil {
		return reject(RejectInvalid, "%v", err), nil
	}
	cluster, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	switch {
	case next.GetClusterId() != cluster:
		return reject(RejectWrongCluster, "the rules are for cluster %q, this is %q: use the right context", next.GetClusterId(), cluster), nil
	case len(in.GetIds()) > ruleset.MaxFiles*64 || slices.ContainsFunc(in.GetIds(), func(id string) bool { return len(id) > maxRuleID || strings.Contains(id, "\n") }):
		return reject(RejectInvalid, "the ids of its rules are too many, or too long"), nil
	}
	newest, err := a.tx.NewestRules()
	if err != nil {
		return nil, fmt.Errorf("reading rules: %w", err)
	}
	base, err := a.tx.RulesAllHave()
	if err != nil {
		return nil, fmt.Errorf("reading rules: %w", err)
	}
	if err := ruleset.Follows(payloadOf(newest), payloadOf(base), next); err != nil {
		return reject(RejectStaleRules, "%v", err), nil
	}
	content := ruleset.Content(next)
	set := &store.RuleSet{
		Version: next.GetVersion(), Signed: in.GetSigned(), IDs: in.GetIds(), Content: content[:], Base: next.GetBase(),
		PutAt: a.cmd.GetTime(), State: store.RulesRolling, RingSince: a.cmd.GetTime(),
	}
	tried, err := a.tx.RulesLike(content[:])
	if err != nil {
		return nil, fmt.Errorf("reading rules: %w", err)
	}
	if tried != nil && tried.State != store.RulesHalted || len(next.GetFiles()) == 0 {
		set.State, set.Ring = store.RulesComplete, store.AllRings
	}
	if set.FirstHost, err = a.firstHost(); err != nil {
		return nil, err
	}
	if newest != nil && newest.State == store.RulesRolling {
		if err := a.tx.EndRules(newest.Version, store.RulesReplaced, a.cmd.GetTime(), fmt.Sprintf("version %d came", set.Version), ""); err != nil {
			return nil, fmt.Errorf("storing rules: %w", err)
		}
	}
	if err := a.tx.PutRules(set); err != nil {
		return nil, fmt.Errorf("storing rules: %w", err)
	}
	if err := a.tx.PruneRules(keptRules); err != nil {
		return nil, fmt.Errorf("forgetting old rules: %w", err)
	}
	return accept(fmt.Sprint(set.Version)), a.audit("rules-push", fmt.Sprintf("version %d", set.Version),
		"%d files, %d rules, goes back to version %d, %s, restores %d, reason %q", len(next.GetFiles()), len(in.GetIds()), set.Base, set.State, next.GetRestores(), next.GetReason())
}

func payloadOf(set *store.RuleSet) []byte {
	if set == nil {
		return nil
	}
	return set.Signed.GetPayload()
}

// firstHost has the first place of those that are connected and take rules, or else of those
// that are connected, or of all.
func (a *applier) firstHost() (string, error) {
	told, connected, others, err := a.tx.HostIDs()
	if err != nil {
		return "", fmt.Errorf("reading hosts: %w", err)
	}
	of := told
	if len(of) == 0 {
		of = connected
	}
	if len(of) == 0 {
		of = others
	}
	first := ""
	for _, id := range of {
		if first == "" || ruleset.Place(id) < ruleset.Place(first) {
			first = id
		}
	}
	return first, nil
}

// advanceRules gives the newest set to the next ring.
func (a *applier) advanceRules(in *raftv1.AdvanceRules) (*raftv1.Result, error) {
	set, err := a.tx.NewestRules()
	if err != nil {
		return nil, fmt.Errorf("reading rules: %w", err)
	}
	if set == nil || set.Version != in.GetVersion() || set.State != store.RulesRolling || int(in.GetRing()) != set.Ring+1 {
		return reject(RejectStaleRules, "version %d does not go on to ring %d: it is past it, halted or replaced", in.GetVersion(), in.GetRing()), nil
	}
	state, what := store.RulesRolling, "the hosts left get it"
	if int(in.GetRing()) >= store.AllRings {
		state, what = store.RulesComplete, "all hosts have it, and later ones go back to it"
	} else if percent := ruleset.Rings[in.GetRing()]; percent < 100 {
		what = fmt.Sprintf("%d %% of the hosts get it", percent)
	}
	if err := a.tx.MoveRules(set.Version, state, int(in.GetRing()), a.cmd.GetTime()); err != nil {
		return nil, fmt.Errorf("storing rules: %w", err)
	}
	return accept(fmt.Sprint(set.Version)), a.audit("rules-advance", fmt.Sprintf("version %d", set.Version), "%s", what)
}

// haltRules takes the newest set back from everybody.
func (a *applier) haltRules(in *raftv1.HaltRules) (*raftv1.Result, error) {
	set, err := a.tx.NewestRules()
	if err != nil {
		return nil, fmt.Errorf("reading rules: %w", err)
	}
	switch {
	case len(in.GetWhy()) > maxWhy || in.GetWhy() == "":
		return reject(RejectInvalid, "a halt says why, in %d bytes at most", maxWhy), nil
	case set == nil || set.Version != in.GetVersion() || set.State != store.RulesRolling && set.State != store.RulesComplete:
		return reject(RejectStaleRules, "version %d is not the newest set of rules, or is halted already", in.GetVersion()), nil
	}
	if err := a.tx.EndRules(set.Version, store.RulesHalted, a.cmd.GetTime(), in.GetWhy(), in.GetHost()); err != nil {
		return nil, fmt.Errorf("storing rules: %w", err)
	}
	return accept(fmt.Sprint(set.Version)), a.audit("rules-halt", fmt.Sprintf("version %d", set.Version),
		"hosts go back to version %d; %s", set.Base, in.GetWhy())
}

// noteRules keeps what hosts say that they use.
func (a *applier) noteRules(in *raftv1.NoteRules) (*raftv1.Result, error) {
	if len(in.GetHosts()) > maxNoted {
		return reject(RejectInvalid, "more than %d at once", maxNoted), nil
	}
	for _, h := range in.GetHosts() {
		n, known, err := a.tx.HostNumber(h.GetHost())
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if !known {
			continue
		}
		if err := a.tx.NoteRules(n, h); err != nil {
			return nil, fmt.Errorf("storing what a host uses: %w", err)
		}
	}
	return accept(""), nil
}
