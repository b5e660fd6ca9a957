package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

const (
	// maxReplayed bounds the findings of one replay, and replayBytes their bodies. A finding
	// costs up to half a millisecond, more with many policies, and an operator's client waits
	// for 10 s.
	maxReplayed = 5_000
	replayBytes = 64 << 20
	// cheapPolicies is how many policies cost as much as the rest of a replayed finding.
	cheapPolicies = 32
	// maxVerdicts bounds the rows of an answer.
	maxVerdicts = 10_000
)

// replaysAtOnce bounds the replays of a node: each takes a processor for seconds.
const replaysAtOnce = 1

// TestIntent implements the service. It changes nothing, so that a viewer may ask.
func (s *Server) TestIntent(ctx context.Context, r *operatorv1.TestIntentRequest) (*operatorv1.TestIntentResponse, error) {
	tried, err := intent.Compile(r.GetIntent())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	inForce, err := s.policy(ctx)
	if err != nil {
		return nil, err
	}
	done, err := s.replaying(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	most := replayable(tried, inForce)
	if limit := int(r.GetLimit()); limit > 0 && limit < most {
		most = limit
	}
	replay, more, err := s.past(ctx, tried, inForce, r.GetSince(), most)
	if err != nil {
		return nil, err
	}
	out := &operatorv1.TestIntentResponse{Verdicts: replay.Verdicts(), Findings: uint64(len(replay.Findings)), More: more}
	if len(out.GetVerdicts()) > maxVerdicts { // the newest are at the end
		out.Verdicts, out.More = out.GetVerdicts()[len(out.GetVerdicts())-maxVerdicts:], true
	}
	return out, nil
}

// GetScorecard implements the service. Where a bound left older findings out, each line
// says so.
func (s *Server) GetScorecard(ctx context.Context, r *operatorv1.GetScorecardRequest) (*operatorv1.GetScorecardResponse, error) {
	inForce, err := s.policy(ctx)
	if err != nil {
		return nil, err
	}
	done, err := s.replaying(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	replay, more, err := s.past(ctx, inForce, inForce, r.GetSince(), replayable(inForce, inForce))
	if err != nil {
		return nil, err
	}
	out := &operatorv1.GetScorecardResponse{Scores: replay.Scores()}
	if more {
		oldest := replay.Findings[0].Finding.GetTime()
		for _, f := range replay.Findings {
			oldest = min(oldest, f.Finding.GetTime())
		}
		for _, score := range out.GetScores() {
			score.Supports += fmt.Sprintf(" (of the newest %d findings, since %s; there are older ones)", len(replay.Findings), time.Unix(0, oldest).UTC().Format(time.RFC3339))
		}
	}
	return out, nil
}

// replaying waits for its turn.
func (s *Server) replaying(ctx context.Context) (done func(), err error) {
	wait, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	select {
	case s.replays <- struct{}{}:
		return func() { <-s.replays }, nil
	case <-wait.Done():
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("this node replays findings for somebody else: try again in a moment"))
	}
}

// replayable is how many findings two policies are asked about in the time that there is.
func replayable(a, b *intent.Policy) int {
	policies := (len(a.PolicyIDs()) + len(b.PolicyIDs())) / 2
	return maxReplayed * cheapPolicies / (cheapPolicies + policies)
}

// past reads what a replay needs.
func (s *Server) past(ctx context.Context, tried, inForce *intent.Policy, since int64, most int) (replay intent.Replay, more bool, err error) {
	replay = intent.Replay{Policy: tried, InForce: inForce, Groups: make(map[string]int)}
	all, err := s.everyHost(ctx)
	if err != nil {
		return replay, false, err
	}
	label := intent.GroupLabel(tried.Intent().GetGovernor())
	hosts := make(map[string]intent.Host, len(all))
	for _, h := range all {
		hosts[h.GetId()] = intent.Host{ID: h.GetId(), Name: h.GetName(), Labels: h.GetLabels()}
		replay.Groups[h.GetLabels()[label]]++
	}
	replay.Fleet = len(all)
	findings, more, err := s.cfg.DB.PastFindings(ctx, since, most, replayBytes)
	if err != nil {
		return replay, false, readError(err)
	}
	for _, f := range findings {
		host, known := hosts[f.Host]
		if !known { // it enrolled a moment ago
			host = intent.Host{ID: f.Host}
		}
		replay.Findings = append(replay.Findings, intent.Replayed{Finding: f.Finding, Host: host, Disposition: f.Disposition})
	}
	return replay, more, nil
}
