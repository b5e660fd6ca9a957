package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// fakeRules is a version of the rules. In mode "finished" all hosts have the newest when it is looked at again.
type fakeRules struct {
	signed *sensorv1.SignedRules
	set    *sensorv1.RuleSet
	all    bool
	status *operatorv1.RuleSetStatus
}

// pushed is a version, nil where there is none. Its caller holds the lock.
func (f *fake) pushed(version uint64) *fakeRules {
	if version == 0 || version > uint64(len(f.rules)) {
		return nil
	}
	r := f.rules[version-1]
	if f.mode == "finished" && version == uint64(len(f.rules)) && r.status.GetState() == ruleset.Rolling {
		r.all, r.status.State, r.status.Percent, r.status.Hosts = true, ruleset.Complete, 100, 200
	}
	return r
}

// allHave is the newest version that all hosts have.
func (f *fake) allHave() *fakeRules {
	for version := uint64(len(f.rules)); version > 0; version-- {
		if r := f.pushed(version); r.status.GetState() == ruleset.Complete {
			return r
		}
	}
	return nil
}

func (f *fake) goes(content [32]byte) string {
	if content == ruleset.Content(nil) {
		return ruleset.GoesAtOnce
	}
	for _, r := range f.rules {
		if r.all && ruleset.Content(r.set) == content {
			return ruleset.GoesAtOnce
		}
	}
	return ruleset.GoesByRings
}

func (f *fake) PutRules(_ context.Context, r *operatorv1.PutRulesRequest) (*operatorv1.PutRulesResponse, error) {
	set, signer, err := ruleset.VerifyNew(r.GetRules(), f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if made, err := strconv.ParseUint(f.keys[r.GetIdempotencyKey()], 10, 64); err == nil {
		return &operatorv1.PutRulesResponse{Version: made}, nil
	}
	var previous, base []byte
	if newest := f.pushed(uint64(len(f.rules))); newest != nil {
		previous = newest.signed.GetPayload()
	}
	if all := f.allHave(); all != nil {
		base = all.signed.GetPayload()
	}
	if err := ruleset.Follows(previous, base, set); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%w (stale-rules)", err))
	}
	f.keys[r.GetIdempotencyKey()] = fmt.Sprint(set.GetVersion())
	st := &operatorv1.RuleSetStatus{Version: set.GetVersion(), Author: signer.ID, Reason: set.GetReason(), PushedAt: at(1), State: ruleset.Rolling, Percent: 1,
		Base: set.GetBase(), Restores: set.GetRestores(), Files: uint32(len(set.GetFiles())), Hosts: 2}
	if f.goes(ruleset.Content(set)) == ruleset.GoesAtOnce {
		st.State, st.Percent, st.Hosts = ruleset.Complete, 100, 200
	}
	if last := f.pushed(uint64(len(f.rules))); last != nil && last.status.GetState() == ruleset.Rolling {
		last.status.State, last.status.Hosts = ruleset.Replaced, 0
	}
	f.rules = append(f.rules, &fakeRules{r.GetRules(), set, st.GetState() == ruleset.Complete, st})
	return &operatorv1.PutRulesResponse{Version: set.GetVersion()}, nil
}

func (f *fake) GetRules(_ context.Context, r *operatorv1.GetRulesRequest) (*operatorv1.GetRulesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	version := r.GetVersion()
	if version == 0 {
		version = uint64(len(f.rules))
	}
	out := &operatorv1.GetRulesResponse{}
	switch set := f.pushed(version); {
	case set != nil:
		out.Rules, out.Status = set.signed, set.status
	case r.GetVersion() != 0:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("version %d of the rules: not found", version))
	}
	if all := f.allHave(); all != nil {
		out.AllHave = all.signed
	}
	if len(r.GetContent()) > 0 && f.mode != "older" {
		out.Goes = f.goes([32]byte(r.GetContent()))
	}
	return out, nil
}

func (f *fake) ListRules(context.Context, *operatorv1.ListRulesRequest) (*operatorv1.ListRulesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &operatorv1.ListRulesResponse{Hosts: 200, HostsAble: 200}
	if f.mode == "lonely" {
		out.Hosts, out.HostsAble = 2, 2
	}
	for _, r := range f.rules {
		out.Sets = append(out.Sets, r.status)
	}
	slices.Reverse(out.Sets)
	return out, nil
}

func (f *fake) HaltRules(_ context.Context, r *operatorv1.HaltRulesRequest) (*operatorv1.HaltRulesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := f.pushed(r.GetVersion())
	if set == nil || r.GetVersion() != uint64(len(f.rules)) || set.status.GetState() == ruleset.Halted {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("it is not the newest set of rules, or is halted already (stale-rules)"))
	}
	set.status.State, set.status.Hosts, set.status.Why = ruleset.Halted, 0, "operator alice: "+r.GetReason()
	return &operatorv1.HaltRulesResponse{}, nil
}
