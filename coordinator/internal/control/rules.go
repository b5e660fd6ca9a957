package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
)

const (
	// maxRuleSets bounds the versions of one answer, and maxTroubled the hosts that are named.
	maxRuleSets = 32
	maxTroubled = 20
)

// PutRules implements the service. The sensors verify the set again.
func (s *Server) PutRules(ctx context.Context, r *operatorv1.PutRulesRequest) (*operatorv1.PutRulesResponse, error) {
	set, signer, err := ruleset.VerifyNew(r.GetRules(), s.operatorRoots(), s.cfg.Authority.Cluster(), s.cfg.Now())
	if err != nil {
		return nil, rulesError(err)
	}
	if caller := operator(ctx); signer.ID != caller.ID {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("operator %q pushes rules that %q signed: each signs their own", caller.ID, signer.ID))
	}
	if err := checkText(set.GetReason(), r.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	report := ruleset.Lint(ruleset.Files(set))
	for _, n := range report.Notes {
		if n.Weight == ruleset.Refused {
			return nil, invalid("%s:%d: %s: every sensor would refuse it; see vedette rule lint", n.Path, n.Line, n.What)
		}
	}
	var ids []string
	for _, rule := range report.Rules {
		ids = append(ids, rule.ID)
	}
	slices.Sort(ids)
	if set.GetRestores() != 0 {
		if err := s.sameRules(ctx, set.GetRestores(), ruleset.Content(set)); err != nil {
			return nil, err
		}
	}
	res, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: r.GetIdempotencyKey(), Body: &raftv1.Command_PutRules{
		PutRules: &raftv1.PutRules{Signed: r.GetRules(), Ids: ids}}})
	if err != nil {
		return nil, err
	}
	version := set.GetVersion()
	if made, err := strconv.ParseUint(res.GetId(), 10, 64); err == nil {
		version = made // the same idempotency key again: what the first one made
	}
	s.cfg.Logger.Info("rules pushed", "version", version, "operator", signer.ID, "files", len(set.GetFiles()))
	return &operatorv1.PutRulesResponse{Version: version}, nil
}

func rulesError(err error) error {
	if errors.Is(err, ruleset.ErrMalformed) || errors.Is(err, ruleset.ErrTime) || errors.Is(err, ruleset.ErrInvalid) {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return grantError(err)
}

// sameRules holds a rollback to its word.
func (s *Server) sameRules(ctx context.Context, version uint64, content [32]byte) error {
	if err := s.barrier(ctx); err != nil {
		return err
	}
	old, err := s.cfg.DB.RuleSet(ctx, version)
	if err != nil {
		return readError(err)
	}
	if !slices.Equal(old.Content, content[:]) {
		return invalid("the set says that it restores version %d and holds other rules: sign it without that, or as that version was", version)
	}
	return nil
}

// HaltRules implements the service.
func (s *Server) HaltRules(ctx context.Context, r *operatorv1.HaltRulesRequest) (*operatorv1.HaltRulesResponse, error) {
	if err := checkText(r.GetReason(), ""); err != nil {
		return nil, err
	}
	if r.GetReason() == "" {
		return nil, invalid("a halt needs a reason: the next person will ask why")
	}
	_, err := s.propose(ctx, &raftv1.Command{Body: &raftv1.Command_HaltRules{
		HaltRules: &raftv1.HaltRules{Version: r.GetVersion(), Why: "operator " + operator(ctx).ID + ": " + r.GetReason()}}})
	if err != nil {
		return nil, err
	}
	return &operatorv1.HaltRulesResponse{}, nil
}

// GetRules implements the service; it is linearizable.
func (s *Server) GetRules(ctx context.Context, r *operatorv1.GetRulesRequest) (*operatorv1.GetRulesResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	out := &operatorv1.GetRulesResponse{}
	set, err := s.cfg.DB.RuleSet(ctx, r.GetVersion())
	if err != nil {
		return nil, readError(err)
	}
	if set != nil {
		out.Rules = set.Signed
		if out.Status, err = statusOf(set); err != nil {
			return nil, err
		}
	}
	base, err := s.cfg.DB.RulesAllHave(ctx)
	if err != nil {
		return nil, readError(err)
	}
	if base != nil {
		out.AllHave = base.Signed
	}
	if len(r.GetContent()) > 0 {
		if out.Goes, err = s.goes(ctx, r.GetContent()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// goes says how a set would go out, as the state machine decides it when the set is put.
func (s *Server) goes(ctx context.Context, content []byte) (string, error) {
	if none := ruleset.Content(nil); bytes.Equal(content, none[:]) {
		return ruleset.GoesAtOnce, nil
	}
	tried, err := s.cfg.DB.RulesLike(ctx, content)
	if err != nil {
		return "", readError(err)
	}
	if tried != nil && tried.State != store.RulesHalted {
		return ruleset.GoesAtOnce, nil
	}
	return ruleset.GoesByRings, nil
}

func statusOf(set *store.RuleSet) (*operatorv1.RuleSetStatus, error) {
	rules, err := ruleset.Decode(set.Signed.GetPayload())
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("reading version %d of the rules: %w", set.Version, err))
	}
	out := &operatorv1.RuleSetStatus{
		Version: set.Version, Author: rules.GetAuthor(), Reason: rules.GetReason(), PushedAt: set.PutAt, State: set.State,
		Ring: uint32(set.Ring), RingSince: set.RingSince, Base: set.Base, Restores: rules.GetRestores(), //nolint:gosec // four rings
		Files: uint32(len(rules.GetFiles())), Rules: uint32(len(set.IDs)), Why: set.Why, WhyHost: set.WhyHost, EndedAt: set.EndedAt, //nolint:gosec // bounded
	}
	switch {
	case set.State == store.RulesComplete:
		out.Percent = 100
	case set.State == store.RulesRolling && set.Ring < len(ruleset.Rings):
		out.Percent = ruleset.Rings[set.Ring]
	}
	return out, nil
}

// ListRules implements the service.
func (s *Server) ListRules(ctx context.Context, _ *operatorv1.ListRulesRequest) (*operatorv1.ListRulesResponse, error) {
	sets, err := s.cfg.DB.RuleSets(ctx, maxRuleSets)
	if err != nil {
		return nil, readError(err)
	}
	hosts, err := s.cfg.DB.RuleHosts(ctx)
	if err != nil {
		return nil, readError(err)
	}
	out := &operatorv1.ListRulesResponse{Hosts: uint64(len(hosts))}
	byRule := map[string][]int{}
	for i, set := range sets {
		status, err := statusOf(set)
		if err != nil {
			return nil, err
		}
		out.Sets = append(out.Sets, status)
		for _, id := range set.IDs {
			byRule[id] = append(byRule[id], i)
		}
	}
	for _, h := range hosts {
		s.countHost(out, sets, h)
	}
	if len(sets) == 0 {
		return out, nil
	}
	cut, err := s.cfg.DB.RuleFindings(ctx, sets[len(sets)-1].PutAt, func(host, rule string, at int64) {
		for _, i := range byRule[rule] {
			ended := sets[i].EndedAt
			if at < sets[i].PutAt || ended != 0 && at > ended {
				continue
			}
			covered := *sets[i]
			if ended != 0 {
				covered.State = store.RulesRolling // as it was then
			}
			if ruleset.Covers(covered.State, covered.Ring, covered.FirstHost, host) {
				out.Sets[i].Matches++
			}
		}
	})
	if err != nil {
		return nil, readError(err)
	}
	for _, set := range out.GetSets() {
		set.MatchesCut = cut
	}
	return out, nil
}

func (s *Server) countHost(out *operatorv1.ListRulesResponse, sets []*store.RuleSet, h store.RuleHost) {
	if h.Told {
		out.HostsAble++
	}
	for i, set := range sets {
		covered := ruleset.Covers(set.State, set.Ring, set.FirstHost, h.ID) && (i == 0 || set.Version == sets[0].Base)
		if i > 0 && ruleset.Covers(sets[0].State, sets[0].Ring, sets[0].FirstHost, h.ID) {
			covered = false
		}
		if covered {
			out.Sets[i].Hosts++
		}
		if h.Held.GetVersion() == set.Version {
			out.Sets[i].HostsUsing++
			out.Sets[i].MostCostNs = max(out.Sets[i].GetMostCostNs(), h.Held.GetCostNs())
		}
		troubled := h.Held.GetFailure() != "" || h.Held.GetRefusedCount() > 0 || h.Connected && h.Told && covered && h.Held.GetVersion() != set.Version
		if covered && troubled && len(out.GetTroubled()) < maxTroubled {
			out.Troubled = append(out.Troubled, &operatorv1.RuleHost{Id: h.ID, Name: h.Name, Connected: h.Connected, Held: h.Held, Since: h.Since})
		}
	}
}
