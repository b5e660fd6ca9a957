// Package respond proposes what the intent lets automation do about a finding with
// people's word: at level 2 of the autonomy ladder a containment waits for approval,
// at level 3 until its veto window has closed. Level 4 is the sensor's own: it holds
// the same intent and acts before anybody here has heard of it.
//
// Its one idea: an operation's name follows from what it is about, so that a new
// leader that looks at the same findings again proposes nothing twice. The log holds
// each proposal to the intent, the governor and the evidence by itself; this engine
// only saves people the asking.
package respond

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	ReadBarrier(ctx context.Context) error
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
}

// lookBack is how far back a new leader looks for findings that nobody has judged.
const lookBack = 15 * time.Minute

// once is how long the same proposal about the same storyline is not made again.
const once = time.Hour

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Poll is how often the engine looks (default 500 ms).
	Poll time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine proposes responses while this node leads.
type Engine struct {
	cfg Config
	// next is the index after the last finding that was judged; 0 before this one leads.
	next uint64
}

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("respond configuration: Log and DB must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 500 * time.Millisecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Engine{cfg: cfg}, nil
}

// Run proposes whenever this node leads, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	poll := time.NewTicker(e.cfg.Poll)
	defer poll.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
		if !e.cfg.Log.IsLeader() {
			e.next = 0
			continue
		}
		err := e.step(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			e.cfg.Logger.Warn("responses not proposed; trying again", "error", err)
		}
		failed = err != nil
	}
}

func (e *Engine) step(ctx context.Context) error {
	if e.next == 0 {
		if err := e.begin(ctx); err != nil {
			return err
		}
	}
	return errors.Join(e.follow(ctx), e.closeWindows(ctx))
}

// begin looks at what the leader before may have left.
func (e *Engine) begin(ctx context.Context) error {
	if err := e.cfg.Log.ReadBarrier(ctx); err != nil {
		return err
	}
	index := e.cfg.DB.AppliedIndex()
	since := e.cfg.Now().Add(-lookBack).UnixNano()
	for token := ""; ; {
		rows, next, err := e.cfg.DB.Findings(ctx, store.FindingFilter{Since: since}, store.Page{Size: store.MaxPage, Token: token})
		if err != nil {
			return fmt.Errorf("reading findings: %w", err)
		}
		if err := e.judge(ctx, rows); err != nil {
			return err
		}
		if token = next; token == "" {
			break
		}
	}
	e.next = max(index, 1)
	return nil
}

// follow judges what is new.
func (e *Engine) follow(ctx context.Context) error {
	for {
		rows, next, err := e.cfg.DB.FindingsSince(ctx, e.next, store.MaxPage)
		if err != nil {
			return fmt.Errorf("reading findings: %w", err)
		}
		if err := e.judge(ctx, rows); err != nil {
			return err
		}
		if next == e.next {
			return nil
		}
		e.next = next
	}
}

func (e *Engine) judge(ctx context.Context, rows []*operatorv1.FindingRow) error {
	if len(rows) == 0 {
		return nil
	}
	signed, err := e.cfg.DB.Intent(ctx, 0)
	if err != nil {
		return fmt.Errorf("reading intent: %w", err)
	}
	if signed == nil {
		return nil // before there is one everything is at level 1
	}
	policy, err := state.PolicyOf(signed)
	if err != nil {
		return err
	}
	for _, row := range rows {
		host, err := e.cfg.DB.Host(ctx, row.GetHost())
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading host: %w", err)
		}
		best := choose(policy.Propose(row.GetFinding(), intent.Host{ID: host.GetId(), Name: host.GetName(), Labels: host.GetLabels()}))
		if best == nil {
			continue
		}
		if err := e.propose(ctx, policy, row, best); err != nil {
			return err
		}
	}
	return nil
}

// choose is the one that people are asked about: of the highest level, what disturbs
// least. What the sensor does by itself is not asked for, and neighbours are for a
// person to choose.
func choose(proposals []intent.Proposal) *intent.Proposal {
	var best *intent.Proposal
	for i, p := range proposals {
		if p.Verdict.Level != intent.Approve && p.Verdict.Level != intent.Veto || p.Action == sensorv1.Action_ACTION_BLOCK_NEIGHBOUR {
			continue
		}
		if best == nil || p.Verdict.Level > best.Verdict.Level {
			best = &proposals[i]
		}
	}
	return best
}

func (e *Engine) propose(ctx context.Context, policy *intent.Policy, row *operatorv1.FindingRow, p *intent.Proposal) error {
	now, finding := e.cfg.Now(), row.GetFinding()
	epoch, err := e.cfg.DB.LastEpoch(ctx)
	if err != nil {
		return fmt.Errorf("reading the order of grants: %w", err)
	}
	operation := name(row, p)
	nonce := sha256.Sum256([]byte(operation))
	lease := intent.LeaseSeconds(policy.Intent())
	g := &sensorv1.Grant{
		Nonce: nonce[:grant.NonceSize], Action: p.Action, Target: p.Target, LeaseSeconds: lease,
		IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Duration(lease) * time.Second).UnixNano(), //nolint:gosec // a day at most, by Compile
		Reason:    fmt.Sprintf("finding %s, %q: %s", finding.GetId(), finding.GetTitle(), p.Why),
		Operation: operation, ClusterId: policy.Intent().GetClusterId(), Evidence: []string{finding.GetId()},
		Epoch: max(epoch+1, uint64(now.UnixNano())), //nolint:gosec // after 1970
	}
	if _, err := grant.Address(g, row.GetHost()); err != nil {
		return err
	}
	in := &raftv1.ProposeResponse{Grant: g, Host: row.GetHost(), Level: uint32(p.Verdict.Level), //nolint:gosec // 2 or 3
		IntentVersion: policy.Version(), Policies: p.Verdict.Policies, Finding: finding.GetId()}
	if p.Verdict.Level == intent.Veto {
		in.WindowEnds = now.Add(time.Duration(intent.VetoSeconds(policy.Intent())) * time.Second).UnixNano()
	}
	res, err := e.send(ctx, &raftv1.Command{Body: &raftv1.Command_ProposeResponse{ProposeResponse: in}})
	switch {
	case err != nil:
		return fmt.Errorf("proposing a response: %w", err)
	case res.GetRejected() == "":
		e.cfg.Logger.Warn("a response is proposed", "operation", operation, "action", grant.Word(p.Action), "host", row.GetHost(),
			"level", p.Verdict.Level, "finding", finding.GetId())
	case res.GetRejected() != state.RejectOperationExists && res.GetRejected() != state.RejectNonceUsed:
		e.cfg.Logger.Warn("a response is not proposed", "action", grant.Word(p.Action), "host", row.GetHost(), "finding", finding.GetId(), "reason", res.GetMessage())
	}
	return nil
}

// name is the same for the same thing about the same storyline, for a while.
func name(row *operatorv1.FindingRow, p *intent.Proposal) string {
	target, _ := proto.MarshalOptions{Deterministic: true}.Marshal(p.Target) // of a message without required fields
	bucket := strconv.FormatInt(row.GetFinding().GetTime()/int64(once), 10)
	sum := sha256.Sum256([]byte(strings.Join([]string{row.GetHost(), grant.Word(p.Action), string(target), row.GetFinding().GetStoryline(), bucket}, "\x00")))
	return "op-" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:12]
}

// closeWindows sends out what nobody has vetoed in time.
func (e *Engine) closeWindows(ctx context.Context) error {
	operations, err := e.cfg.DB.WindowsEnding(ctx, e.cfg.Now().UnixNano())
	if err != nil {
		return fmt.Errorf("reading veto windows: %w", err)
	}
	for _, operation := range operations {
		res, err := e.send(ctx, &raftv1.Command{Body: &raftv1.Command_StartOperation{StartOperation: &raftv1.StartOperation{Operation: operation}}})
		switch {
		case err != nil:
			return fmt.Errorf("closing a veto window: %w", err)
		case res.GetRejected() != "":
			e.cfg.Logger.Debug("a veto window is not closed", "operation", operation, "reason", res.GetMessage())
		default:
			e.cfg.Logger.Warn("a veto window has closed", "operation", operation)
		}
	}
	return nil
}

func (e *Engine) send(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	cmd.Time, cmd.Actor = e.cfg.Now().UnixNano(), "engine:respond"
	return e.cfg.Log.Propose(ctx, cmd)
}
