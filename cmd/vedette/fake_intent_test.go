package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// holding lets the connected hosts hold what the script wants; "slow-hosts" take a while
// and "deaf" ones never do.
func (f *fake) holding(hosts []*operatorv1.Host) []*operatorv1.Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mode != "deaf" && (f.mode != "slow-hosts" || f.calls["ListHosts"] > f.quick+3 && f.calls["GetIntent"] > f.asked+5) {
		f.held = uint64(len(f.intents))
	}
	for _, h := range hosts {
		if h.GetHealth() != nil {
			h.Health.IntentVersion = f.held
		}
	}
	return hosts
}

func (f *fake) ApplyIntent(_ context.Context, r *operatorv1.ApplyIntentRequest) (*operatorv1.ApplyIntentResponse, error) {
	next, signer, err := intent.VerifyNew(r.GetIntent(), f.ca.Roots(), linktest.Cluster, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetIdempotencyKey() == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no idempotency key"))
	}
	if made, err := strconv.ParseUint(f.keys[r.GetIdempotencyKey()], 10, 64); err == nil {
		return &operatorv1.ApplyIntentResponse{Version: made}, nil
	}
	if f.mode == "race" { // somebody else is a moment earlier
		f.mode = ""
		f.add(f.newest(), "a race")
	}
	if err := intent.Follows(f.payload(), next); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%w: somebody else applied one meanwhile; look at it with vedette intent show (stale-intent)", err))
	}
	if signer.ID != "alice" {
		f.t.Errorf("signed by %q", signer.ID)
	}
	f.keys[r.GetIdempotencyKey()] = fmt.Sprint(next.GetVersion())
	f.intents = append(f.intents, r.GetIntent())
	f.quick, f.asked = f.calls["ListHosts"], f.calls["GetIntent"]
	return &operatorv1.ApplyIntentResponse{Version: next.GetVersion()}, nil
}

func (f *fake) payload() []byte {
	if len(f.intents) == 0 {
		return nil
	}
	return f.intents[len(f.intents)-1].GetPayload()
}

func (f *fake) newest() *sensorv1.Intent {
	in, err := intent.Decode(f.payload())
	if err != nil {
		return &sensorv1.Intent{}
	}
	return in
}

// add applies the content of in as bob.
func (f *fake) add(in *sensorv1.Intent, reason string) {
	cert := f.ca.IssueBetween(link.KindOperator, "bob", "admin", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	in.ClusterId, in.Author, in.Reason, in.IssuedAt = linktest.Cluster, "bob", reason, time.Now().UnixNano()
	in.Version, in.Previous = uint64(len(f.intents))+1, nil
	if payload := f.payload(); payload != nil {
		in.Previous = intent.Digest(payload)
	}
	signed, err := intent.Sign(cert.PrivateKey.(crypto.Signer), cert.Certificate, in)
	if err != nil {
		f.t.Error(err)
	}
	f.intents = append(f.intents, signed)
}

// told is what the node says that there is.
func (f *fake) told() []*sensorv1.SignedIntent {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.mode == "rolled-back" && len(f.intents) > 1:
		return slices.Clone(f.intents[:len(f.intents)-1])
	case f.mode == "tampered" && len(f.intents) > 0:
		all := slices.Clone(f.intents)
		last := all[len(all)-1]
		all[len(all)-1] = &sensorv1.SignedIntent{Payload: append(slices.Clone(last.GetPayload()), 0x40, 0x01), Signature: last.GetSignature()}
		return all
	case f.mode == "gap" && len(f.intents) > 2:
		return slices.Delete(slices.Clone(f.intents), len(f.intents)-2, len(f.intents)-1)
	}
	return slices.Clone(f.intents)
}

func (f *fake) GetIntent(_ context.Context, r *operatorv1.GetIntentRequest) (*operatorv1.GetIntentResponse, error) {
	all := f.told()
	n := r.GetVersion()
	if n == 0 {
		n = uint64(len(all))
	}
	out := &operatorv1.GetIntentResponse{Version: n, Hosts: 3}
	f.holding(nil)
	f.mu.Lock()
	if f.held == n {
		out.HostsCurrent = 1
	}
	f.mu.Unlock()
	switch {
	case n > uint64(len(all)):
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("intent version %d: not found", n))
	case n > 0:
		out.Intent = all[n-1]
	}
	return out, nil
}

// ListIntents pages by one, so that every script also tests paging.
func (f *fake) ListIntents(_ context.Context, r *operatorv1.ListIntentsRequest) (*operatorv1.ListIntentsResponse, error) {
	all := f.told()
	slices.Reverse(all)
	at := len(r.GetPageToken())
	if at >= len(all) {
		return &operatorv1.ListIntentsResponse{}, nil
	}
	token := ""
	if at+1 < len(all) {
		token = fmt.Sprintf("%*s", at+1, "")
	}
	return &operatorv1.ListIntentsResponse{Intents: all[at : at+1], PageToken: token}, nil
}

func (f *fake) TestIntent(_ context.Context, r *operatorv1.TestIntentRequest) (*operatorv1.TestIntentResponse, error) {
	if f.is("replay-fails") {
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("another replay is under way: try again in a moment"))
	}
	if r.GetSince() == 0 || r.GetSince() > at(600) {
		f.t.Errorf("since is %d", r.GetSince())
	}
	return &operatorv1.TestIntentResponse{Findings: 42, More: f.is("many"), Verdicts: []*operatorv1.Verdict{
		{Finding: found, Host: web1, HostName: "web1", Time: at(5), Title: "A shell out of a server", Action: "freeze", Level: 1, LevelNow: 1, Disposition: "malicious"},
		{Finding: found, Host: web1, HostName: "web1", Time: at(5), Title: "A shell out of a server", Action: "isolate", Level: 4, LevelNow: 2, Policies: []string{"web-at-once"}, Disposition: "malicious"},
		{Finding: "f-2", Host: evil, HostName: names[evil], Time: at(7), Title: "t" + hostile2(), Action: "isolate", Level: 4, LevelNow: 1, Policies: []string{"web-at-once"},
			Held: "the host is protected: it is in the group infrastructure", Disposition: "benign"},
	}}, nil
}

func (f *fake) GetScorecard(context.Context, *operatorv1.GetScorecardRequest) (*operatorv1.GetScorecardResponse, error) {
	if f.is("empty") {
		return &operatorv1.GetScorecardResponse{}, nil
	}
	return &operatorv1.GetScorecardResponse{Scores: []*operatorv1.Score{
		{Action: "freeze", Group: "web", ConfidenceFrom: 90, ConfidenceTo: 95, Level: 2, Findings: 60, Agreed: 55, Unjudged: 5, WouldAsk: 60, SupportedLevel: 4,
			Supports: "55 of 55 judged were malicious, with 95 % certainty at least 95.3 %: supports level 4 (act at once)"},
		{Action: "isolate", ConfidenceFrom: 0, ConfidenceTo: 50, Level: 1, Findings: 3, Unjudged: 3, WouldRecommend: 3, SupportedLevel: 1, Supports: "nobody judged any: level 1"},
	}}, nil
}
