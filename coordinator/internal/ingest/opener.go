package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	// openEvery is how far apart a node's entries that begin sessions are at least. The first
	// one goes at once; after a node's death hundreds come in a second, and an entry for each,
	// which costs every node a transaction and an fsync, was a quarter of what they all did.
	openEvery = 200 * time.Millisecond
	// singlyFor is how long a cluster that refused such an entry is not asked again.
	singlyFor = time.Minute
	// maxOpened bounds the sessions of one entry: with facts as large as they may be it fits.
	maxOpened = (consensus.MaxCommand - 64<<10) / (maxFacts + 4<<10)
)

// opening is a session on its way to the log.
type opening struct {
	session *raftv1.HostSession
	left    func() error // why nobody waits for it any more; nil: somebody does
	done    chan<- begun
}

// errLeft: the sensor had gone before its session was proposed.
var errLeft = errors.New("left before the session was proposed")

type begun struct {
	index uint64
	// rejected and message are the log's no.
	rejected, message string
	err               error
}

// opener makes few log entries of many sessions that begin.
type opener struct {
	cfg       Config
	proposals sync.WaitGroup
	singly    atomic.Int64 // until then, Unix ns, each session has an entry of its own

	mu      sync.Mutex // guards what follows
	ended   bool
	pending []opening
	last    time.Time   // the newest entry was proposed
	timer   *time.Timer // proposes what waits; nil: nothing does
}

func newOpener(cfg Config) *opener { return &opener{cfg: cfg} }

// begin brings a session into the log, with others that come at the same time, and waits for
// the answer: also when ctx ends, which only keeps what is not proposed yet from being so. What
// the caller then tells of the session's end is behind its begin in the log. It takes openEvery
// and Config.CommitTimeout at most.
func (o *opener) begin(ctx context.Context, session *raftv1.HostSession) begun {
	done := make(chan begun, 1)
	o.add(opening{session, ctx.Err, done})
	return <-done
}

func (o *opener) add(it opening) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		it.done <- begun{err: errStopping}
		return
	}
	o.pending = append(o.pending, it)
	wait := openEvery - time.Since(o.last)
	switch {
	case wait <= 0 || len(o.pending) >= maxOpened:
		o.advance()
	case o.timer == nil:
		o.timer = time.AfterFunc(wait, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.advance()
		})
	}
}

// advance proposes what waits. The caller holds mu.
func (o *opener) advance() {
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	if o.ended { // stop has answered them
		return
	}
	items := slices.DeleteFunc(o.pending, func(it opening) bool {
		err := it.left()
		if err != nil {
			it.done <- begun{err: fmt.Errorf("%w: %w", errLeft, err)}
		}
		return err != nil
	})
	o.pending = nil
	if len(items) == 0 {
		return
	}
	o.last = time.Now()
	o.proposals.Go(func() { o.propose(items) })
}

// stop answers who waits, and returns when nothing is under way.
func (o *opener) stop() {
	o.mu.Lock()
	o.ended = true
	if o.timer != nil {
		o.timer.Stop()
	}
	for _, it := range o.pending {
		it.done <- begun{err: errStopping}
	}
	o.pending = nil
	o.mu.Unlock()
	o.proposals.Wait()
}

func (o *opener) propose(items []opening) {
	ctx, cancel := context.WithTimeout(context.Background(), o.cfg.CommitTimeout)
	defer cancel()
	if len(items) > 1 && o.together(ctx, items) {
		return
	}
	var each sync.WaitGroup
	for _, it := range items {
		each.Go(func() { o.single(ctx, it) })
	}
	each.Wait()
}

// together is false when the cluster takes no such entry: while a node of an older release is
// there. Each session then needs an entry of its own.
func (o *opener) together(ctx context.Context, items []opening) bool {
	if time.Now().UnixNano() < o.singly.Load() {
		return false
	}
	all := &raftv1.BeginSessions{Sessions: make([]*raftv1.HostSession, len(items))}
	for i, it := range items {
		all.Sessions[i] = it.session
	}
	cmd := o.command(&raftv1.Command{Body: &raftv1.Command_BeginSessions{BeginSessions: all}})
	res, err := o.cfg.Log.Propose(ctx, cmd)
	if errors.Is(err, consensus.ErrInvalid) || errors.Is(err, consensus.ErrRefused) || err == nil && res.GetRejected() != "" {
		o.singly.Store(time.Now().Add(singlyFor).UnixNano())
		return false
	}
	if err != nil {
		res, err = propose(ctx, o.cfg.Log, cmd)
	}
	if err == nil && len(res.GetSessions()) != len(items) {
		err = fmt.Errorf("the log answered for %d sessions of %d", len(res.GetSessions()), len(items))
	}
	for i, it := range items {
		if err != nil {
			it.done <- begun{err: err}
			continue
		}
		answer := res.GetSessions()[i]
		it.done <- begun{index: res.GetIndex(), rejected: answer.GetRejected(), message: answer.GetMessage()}
	}
	return true
}

func (o *opener) single(ctx context.Context, it opening) {
	res, err := propose(ctx, o.cfg.Log, o.command(&raftv1.Command{Body: &raftv1.Command_HostSession{HostSession: it.session}}))
	it.done <- begun{index: res.GetIndex(), rejected: res.GetRejected(), message: res.GetMessage(), err: err}
}

func (o *opener) command(cmd *raftv1.Command) *raftv1.Command {
	cmd.Time, cmd.Actor = o.cfg.Now().UnixNano(), "node:"+o.cfg.NodeID
	return cmd
}
