// Package correlate makes incidents out of findings: storylines that deserve a
// person, joined across hosts by the exact flows that connect them.
//
// Its one idea: the incidents are a function of what the store holds. The
// engine runs on the leader, compares what the incidents should say with what
// they say, and proposes the difference; planning twice proposes nothing. So a
// new leader takes over by planning, and no state is handed on.
//
// What is kept in memory is a window of the store, read again whenever this
// node becomes leader or an incident is closed.
package correlate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	ReadBarrier(ctx context.Context) error
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
	Subscribe(fn func(index uint64, cmd *raftv1.Command, res *raftv1.Result)) (cancel func())
}

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Threshold is the sum of scores (0 to 100 each) of a storyline's findings,
	// joined ones included, from which it becomes an incident without any single
	// finding of severity high (default 120: more than one strong anomaly).
	Threshold float64
	// Investigated is how long a storyline with no finding of severity high waits for what the
	// investigator says before its scores make it an incident; 0: not at all.
	Investigated time.Duration
	// Horizon is how long a storyline waits for more (default 24 h).
	Horizon time.Duration
	// Settle is how long the engine collects before it plans, so that a burst of
	// findings is one incident and not five versions of it (default 200 ms).
	Settle time.Duration
	// Poll is how often the engine looks without being told (default 2 s): what
	// leadership brings is not announced by an entry.
	Poll time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine makes and keeps incidents while this node leads.
type Engine struct {
	cfg    Config
	wake   chan struct{}
	reload chan struct{}

	// The window, how far of the store it has taken in, and the open incidents; only Run's
	// goroutine has them.
	window         *window
	findings, flow uint64
	verdicts       uint64
	ledger         *ledger
	roster         *roster
	usual          *customs

	mu    sync.Mutex
	hosts map[string]bool // guarded by mu: of which an order or its answer came since the last plan
}

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("correlate configuration: Log and DB must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Threshold <= 0 {
		cfg.Threshold = 120
	}
	if cfg.Horizon <= 0 {
		cfg.Horizon = 24 * time.Hour
	}
	if cfg.Settle <= 0 {
		cfg.Settle = 200 * time.Millisecond
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 2 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Engine{cfg: cfg, wake: make(chan struct{}, 1), reload: make(chan struct{}, 1), hosts: make(map[string]bool)}, nil
}

// Run plans incidents whenever this node leads, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	cancel := e.cfg.Log.Subscribe(e.committed)
	defer cancel()
	poll := time.NewTicker(e.cfg.Poll)
	defer poll.Stop()
	failed := 0
	for {
		dirty := false
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
			dirty = true
			if !pause(ctx, e.cfg.Settle) {
				return nil
			}
		case <-poll.C:
		}
		if !e.cfg.Log.IsLeader() {
			e.window = nil
			continue
		}
		select {
		case <-e.reload:
			e.window = nil
		default:
		}
		if e.window != nil && !dirty && failed == 0 && len(e.window.waiting) == 0 {
			continue
		}
		if err := e.step(ctx); err != nil && ctx.Err() == nil {
			// The next round begins from the store again: nothing is lost but time.
			e.window = nil
			if failed++; failed == 1 {
				e.cfg.Logger.Warn("incidents not planned; trying again", "error", err)
			}
			continue
		}
		failed = 0
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// committed runs after every entry that this node applies, with a nil command
// when some were missed: it only says that there is news.
func (e *Engine) committed(_ uint64, cmd *raftv1.Command, res *raftv1.Result) {
	if res.GetRejected() != "" {
		return
	}
	if cmd == nil {
		signal(e.reload)
		signal(e.wake)
		return
	}
	switch cmd.GetBody().(type) {
	case *raftv1.Command_CloseIncident: // and with the last one its campaign
		signal(e.reload)
		signal(e.wake)
	case *raftv1.Command_Ingest:
		if interesting(cmd.GetIngest()) {
			e.touch(isolating(cmd.GetIngest()))
			signal(e.wake)
		}
	case *raftv1.Command_RequestResponse:
		e.touch(cmd.GetRequestResponse().GetHosts())
		signal(e.wake)
	case *raftv1.Command_RaiseSilence, *raftv1.Command_PutInvestigation:
		signal(e.wake)
	}
}

// maxTouched bounds the hosts that wait for a plan; beyond it all is planned anew.
const maxTouched = 50_000

func (e *Engine) touch(hosts []string) {
	if len(hosts) == 0 || !e.cfg.Log.IsLeader() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.hosts)+len(hosts) > maxTouched {
		clear(e.hosts)
		signal(e.reload)
		return
	}
	for _, host := range hosts {
		e.hosts[host] = true
	}
}

func (e *Engine) takeTouched() map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	hosts := e.hosts
	e.hosts = make(map[string]bool)
	return hosts
}

// isolating are the hosts that say what became of an order.
func isolating(in *raftv1.Ingest) (hosts []string) {
	for _, b := range in.GetBatches() {
		if slices.ContainsFunc(b.GetBatch().GetRecords(), func(r *sensorv1.Record) bool { return r.GetIsolation() != nil }) {
			hosts = append(hosts, b.GetHost())
		}
	}
	return hosts
}

// interesting: most batches are summaries, which change no incident.
func interesting(in *raftv1.Ingest) bool {
	for _, b := range in.GetBatches() {
		for _, r := range b.GetBatch().GetRecords() {
			if r.GetFinding() != nil || r.GetFlowNote() != nil || r.GetIsolation() != nil {
				return true
			}
		}
	}
	return false
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// step takes in what is new and proposes what the incidents lack.
func (e *Engine) step(ctx context.Context) error {
	touched := e.takeTouched()
	if e.window == nil {
		if err := e.begin(ctx); err != nil {
			return err
		}
	}
	if err := e.take(ctx); err != nil {
		return err
	}
	e.forget()
	e.window.touchHosts(touched)
	e.usual.begin(ctx)
	if e.cfg.Investigated > 0 {
		e.window.waits = e.cfg.Now().Add(-e.cfg.Investigated).UnixNano()
	}
	components := e.window.components(e.ledger, e.cfg.Threshold)
	if err := e.usual.failed(); err != nil {
		return err
	}
	known, err := e.facts(ctx, components)
	if err != nil {
		return err
	}
	for _, put := range plan(components, e.ledger, known) {
		if err := e.propose(ctx, put); err != nil {
			return err
		}
	}
	if err := e.campaigns(ctx); err != nil {
		return err
	}
	clear(e.window.changed)
	maps.Copy(e.window.changed, e.window.waiting)
	return nil
}

// begin reads what a new leader needs. It must not plan from less than what was committed
// before it.
func (e *Engine) begin(ctx context.Context) error {
	if err := e.cfg.Log.ReadBarrier(ctx); err != nil {
		return fmt.Errorf("catching up: %w", err)
	}
	from, err := e.cfg.DB.IndexBefore(ctx, e.cfg.Now().Add(-e.cfg.Horizon-maxClocks).UnixNano())
	if err != nil {
		return fmt.Errorf("finding where the window begins: %w", err)
	}
	open, err := e.open(ctx)
	if err != nil {
		return err
	}
	e.window, e.ledger, e.findings, e.flow, e.verdicts = newWindow(), newLedger(open), from, from, from
	return e.beginCampaigns(ctx, open)
}

// maxClocks is how far the clocks of leaders are taken to differ, which give entries their times.
const maxClocks = time.Hour

// propose writes an incident and reads back what the log made of it.
func (e *Engine) propose(ctx context.Context, put *raftv1.PutIncident) error {
	id := put.GetIncident().GetId()
	res, err := e.cfg.Log.Propose(ctx, &raftv1.Command{Time: e.cfg.Now().UnixNano(), Actor: "engine:correlate",
		Body: &raftv1.Command_PutIncident{PutIncident: put}})
	switch {
	case err != nil:
		return fmt.Errorf("proposing incident %s: %w", id, err)
	case res.GetRejected() == state.RejectIncidentClosed:
		// An operator closed it meanwhile: read again which findings are left.
		signal(e.reload)
		signal(e.wake)
		return nil
	case res.GetRejected() != "":
		return fmt.Errorf("proposing incident %s: %s: %s", id, res.GetRejected(), res.GetMessage())
	}
	e.cfg.Logger.Info("incident written", "incident", id, "title", put.GetIncident().GetTitle(),
		"findings", len(put.GetIncident().GetFindings()), "merged", len(put.GetMerged()))
	for _, merged := range put.GetMerged() {
		e.ledger.remove(merged)
	}
	written, err := e.cfg.DB.Incident(ctx, id)
	if err != nil {
		return fmt.Errorf("reading incident %s: %w", id, err)
	}
	e.ledger.put(written)
	return nil
}

// take reads the findings and flows that the window does not hold yet.
func (e *Engine) take(ctx context.Context) error {
	horizon := e.cfg.Now().Add(-e.cfg.Horizon).UnixNano()
	for {
		rows, next, err := e.cfg.DB.FindingsSince(ctx, e.findings, store.MaxPage)
		if err != nil {
			return fmt.Errorf("reading findings: %w", err)
		}
		for _, row := range rows {
			// When it was stored counts, not the host's clock: a spool may bring old ones.
			if max(row.GetFinding().GetTime(), row.GetStoredAt()) >= horizon {
				e.window.addFinding(row)
			}
		}
		if next == e.findings {
			break
		}
		e.findings = next
	}
	for {
		rows, next, err := e.cfg.DB.FlowsSince(ctx, e.flow, store.MaxPage)
		if err != nil {
			return fmt.Errorf("reading flows: %w", err)
		}
		for _, row := range rows {
			if row.Time >= horizon {
				e.window.addNote(row.Host, row.Time, row.Note)
			}
		}
		if next == e.flow {
			break
		}
		e.flow = next
	}
	return e.hear(ctx)
}

// hear takes in what the investigator said since.
func (e *Engine) hear(ctx context.Context) error {
	for {
		said, next, err := e.cfg.DB.InvestigationsSince(ctx, e.verdicts, store.MaxPage)
		if err != nil {
			return fmt.Errorf("reading investigations: %w", err)
		}
		for _, in := range said {
			e.window.judged(storyKey{in.GetHost(), in.GetStoryline()}, in)
		}
		if next == e.verdicts {
			return nil
		}
		e.verdicts = next
	}
}

// maxOpen bounds the open incidents that are kept up to date: more than that
// many nobody looks at, and the oldest stay as they are.
const maxOpen = 2000

func (e *Engine) open(ctx context.Context) ([]*raftv1.Incident, error) {
	var open []*raftv1.Incident
	for token := ""; len(open) < maxOpen; {
		page, next, err := e.cfg.DB.Incidents(ctx, store.IncidentFilter{Status: "open"}, store.Page{Size: store.MaxPage, Token: token})
		if err != nil {
			return nil, fmt.Errorf("reading incidents: %w", err)
		}
		open = append(open, page...)
		if token = next; token == "" {
			break
		}
	}
	return open, nil
}

// facts reads what the account says of the hosts beside their findings.
func (e *Engine) facts(ctx context.Context, components []component) (facts, error) {
	known := facts{hosts: make(map[string]*operatorv1.Host), isolations: make(map[string][]*operatorv1.Isolation)}
	for _, c := range components {
		for _, id := range c.hostIDs() {
			if known.hosts[id] != nil {
				continue
			}
			host, err := e.cfg.DB.Host(ctx, id)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return known, fmt.Errorf("reading host: %w", err)
			}
			known.hosts[id] = host
			rows, _, err := e.cfg.DB.Isolations(ctx, store.IsolationFilter{Host: id}, store.Page{Size: store.DefaultPage})
			if err != nil {
				return known, fmt.Errorf("reading isolations: %w", err)
			}
			known.isolations[id] = rows
		}
	}
	return known, nil
}
