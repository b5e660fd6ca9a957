package main

import (
	"context"
	"fmt"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// namedRules is how many rules are named of those that are added, changed or removed.
const namedRules = 20

// inForce is the set that hosts have or are to have: the newest, but for one that was halted.
func inForce(newest, base *client.Rules) *client.Rules {
	if newest != nil && newest.Status.GetState() == ruleset.Halted {
		return base
	}
	return newest
}

// sayDifference names what a set adds, changes and takes away.
func (s *session) sayDifference(d *ruleset.Difference) {
	for _, part := range []struct {
		what  string
		rules []ruleset.Rule
	}{{"added", d.Added}, {"changed", d.Changed}, {"removed", d.Removed}} {
		if len(part.rules) == 0 {
			continue
		}
		s.say("%s would be %s:", plural(len(part.rules), "rule"), part.what)
		for _, r := range part.rules[:min(len(part.rules), namedRules)] {
			s.say("  %s %s", r.ID, r.Title)
		}
		if more := len(part.rules) - namedRules; more > 0 {
			s.say("  and %d more", more)
		}
	}
}

// whereTo says to whom a set would go, and when.
func whereTo(next *sensorv1.RuleSet, goes string) string {
	parts := fmt.Sprintf("1, 5, 25 and then all of 100 hosts, each part watched for %s", ruleset.Soak(next))
	switch {
	case len(next.GetFiles()) == 0:
		return "all hosts at once: it takes all pushed rules away"
	case goes == ruleset.GoesAtOnce:
		return "all hosts at once: all of them had these files before"
	case goes == ruleset.GoesByRings:
		return parts
	}
	return parts + ", or to all at once if all of them had these files before" // the node is older
}

// pushed says how far a new version has gone, as the cluster has decided it, and lists all.
func (s *session) pushed(ctx context.Context, version uint64, next *sensorv1.RuleSet) error {
	res, err := s.api.RuleSets(ctx)
	if err != nil {
		s.say("version %d of the rules is pushed; how it goes out is not known: vedette rule list", version)
		return err
	}
	set := &operatorv1.RuleSetStatus{}
	for _, one := range res.GetSets() {
		if one.GetVersion() == version {
			set = one
		}
	}
	hosts := plural(int(res.GetHosts()), "host") //nolint:gosec // fits
	switch {
	case set.GetState() == ruleset.Complete:
		s.say("version %d of the rules goes to all %s at once: vedette rule list", version, hosts)
	case set.GetState() != ruleset.Rolling:
		s.say("version %d of the rules was pushed, and is %s: vedette rule list", version, first(set.GetState(), "not listed"))
	case set.GetHosts() >= res.GetHosts():
		s.say("version %d of the rules is on its way: all %s are to have it now: vedette rule list", version, hosts)
	default:
		s.say("version %d of the rules is on its way: %d of %s are to have it now, the next part in %s at the earliest: vedette rule list",
			version, set.GetHosts(), hosts, ruleset.Soak(next))
	}
	return s.listRules(res)
}
