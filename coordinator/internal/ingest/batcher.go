package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// errStopping: the node stops before the batch was proposed.
var errStopping = errors.New("node is stopping")

const (
	// maxProposals bounds the log entries that one node has under way. The leader's disk
	// takes one after another, and each costs every node an fsync and a transaction: what
	// comes meanwhile makes the next entry larger instead.
	maxProposals = 1
	// grownBy times CoalesceBytes is how large an entry becomes that waits.
	grownBy = 8
	// routineBytes is how large a batch may be and still wait for company.
	routineBytes = 16 << 10
)

// maxEntry is the largest sum of batches in one log entry, with room for what
// stands around them.
const maxEntry = consensus.MaxCommand - 64<<10

// item is one batch on its way to the log. A session has at most one, so that
// the order of a host's batches needs no care here.
type item struct {
	batch *raftv1.HostBatch
	size  int
	done  chan<- outcome
}

type outcome struct {
	ack *raftv1.HostAck
	err error
}

// batcher makes few large log entries of many small batches.
type batcher struct {
	cfg       Config
	proposals sync.WaitGroup

	mu   sync.Mutex // guards what follows
	room *sync.Cond
	// inflight counts bytes that are held and not yet committed.
	inflight int64
	running  context.Context // run's; nil before it
	pending  []item
	size     int
	due      bool        // pending is enough, or has waited for long enough
	timer    *time.Timer // makes it due
	dueAt    time.Time   // when the timer does so
	underWay int
}

func newBatcher(cfg Config) *batcher {
	b := &batcher{cfg: cfg}
	b.room = sync.NewCond(&b.mu)
	return b
}

// submit proposes a batch together with others and waits for the log's answer.
func (b *batcher) submit(ctx context.Context, batch *raftv1.HostBatch) (*raftv1.HostAck, error) {
	size := proto.Size(batch)
	if err := b.reserve(ctx, int64(size)); err != nil {
		return nil, err
	}
	defer b.release(int64(size))
	done := make(chan outcome, 1)
	b.add(item{batch: batch, size: size, done: done})
	select {
	case o := <-done:
		return o.ack, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *batcher) reserve(ctx context.Context, size int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.fits(size) {
		stop := context.AfterFunc(ctx, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.room.Broadcast()
		})
		defer stop()
	}
	for !b.fits(size) {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.room.Wait()
	}
	b.inflight += size
	return nil
}

// fits says whether there is room. One batch always fits, or a bound below its size
// would stop everything.
func (b *batcher) fits(size int64) bool {
	return b.inflight == 0 || b.inflight+size <= b.cfg.MaxInflightBytes
}

func (b *batcher) release(size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inflight -= size
	b.room.Broadcast()
}

// run proposes what is submitted until ctx ends.
func (b *batcher) run(ctx context.Context) error {
	b.mu.Lock()
	b.running = ctx
	b.advance()
	b.mu.Unlock()
	<-ctx.Done()
	b.mu.Lock()
	if b.timer != nil {
		b.timer.Stop()
	}
	fail(b.pending, errStopping)
	b.pending, b.size = nil, 0
	b.mu.Unlock()
	b.proposals.Wait()
	return nil
}

func (b *batcher) add(it item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running != nil && b.running.Err() != nil {
		it.done <- outcome{err: errStopping}
		return
	}
	b.pending = append(b.pending, it)
	b.size += it.size
	if b.size >= b.cfg.CoalesceBytes {
		b.due = true
		b.advance()
		return
	}
	delay := b.cfg.CoalesceDelay
	if routine(it) {
		delay = b.cfg.RoutineDelay
	}
	at := time.Now().Add(delay)
	switch {
	case len(b.pending) > 1 && !at.Before(b.dueAt): // something before it has set it
		return
	case b.timer == nil:
		b.timer = time.AfterFunc(delay, b.waited)
	default:
		b.timer.Reset(delay)
	}
	b.dueAt = at
}

// routine says that nobody acts on what a batch says: one summary, that leaves room for
// many. Several are a spool that empties, whose sensor waits for each answer.
func routine(it item) bool {
	records := it.batch.GetBatch().GetRecords()
	return it.size <= routineBytes && len(records) == 1 && records[0].GetSummary() != nil
}

// waited makes what is there due: the first of it has waited for long enough, or
// something before it, and then it is early.
func (b *batcher) waited() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = len(b.pending) > 0
	b.advance()
}

// advance proposes what is due, unless as much as may be is under way: then that calls
// it again. The caller holds mu.
func (b *batcher) advance() {
	ctx := b.running
	for b.due && b.underWay < maxProposals && ctx != nil && ctx.Err() == nil {
		items := b.take()
		b.underWay++
		b.proposals.Go(func() {
			err := b.propose(ctx, items)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.underWay--
			if err != nil { // what waited behind it must not wait as long again
				fail(b.pending, err)
				b.pending, b.size, b.due = nil, 0, false
			}
			b.advance()
		})
	}
}

// take is what the next entry consists of: as much as one may grow to, and one batch at
// least. What is left has waited as long as the rest.
func (b *batcher) take() []item {
	n, size := 0, 0
	for n < len(b.pending) && (n == 0 || size+b.pending[n].size <= min(maxEntry, grownBy*b.cfg.CoalesceBytes)) {
		size += b.pending[n].size
		n++
	}
	items := b.pending[:n:n]
	b.pending, b.size = b.pending[n:], b.size-size
	if len(b.pending) == 0 {
		b.pending, b.due = nil, false
	}
	return items
}

func fail(items []item, err error) {
	for _, it := range items {
		it.done <- outcome{err: err}
	}
}

// propose brings items into the log as one entry and hands out the answers. It
// tries again while there is time: a batch that came through twice is stored once. Its
// error is that there was no quorum for as long as a batch may wait.
func (b *batcher) propose(ctx context.Context, items []item) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.CommitTimeout)
	defer cancel()
	ingest := &raftv1.Ingest{Batches: make([]*raftv1.HostBatch, len(items))}
	for i, it := range items {
		ingest.Batches[i] = it.batch
	}
	cmd := &raftv1.Command{Time: b.cfg.Now().UnixNano(), Actor: "node:" + b.cfg.NodeID, Body: &raftv1.Command_Ingest{Ingest: ingest}}
	res, err := propose(ctx, b.cfg.Log, cmd)
	if err == nil && res.GetRejected() != "" {
		err = fmt.Errorf("the log refused the batch: %s: %s", res.GetRejected(), res.GetMessage())
	}
	if err != nil {
		fail(items, err)
		if ctx.Err() != nil {
			return err
		}
		return nil
	}
	// The answers come in the order of the batches; a host that the log does not
	// know has none.
	acks := res.GetAcks()
	for _, it := range items {
		if len(acks) == 0 || acks[0].GetHost() != it.batch.GetHost() {
			it.done <- outcome{err: fmt.Errorf("the log did not answer for host %s", it.batch.GetHost())}
			continue
		}
		it.done <- outcome{ack: acks[0]}
		acks = acks[1:]
	}
	return nil
}

// propose tries until the log takes the command or ctx ends: a missing leader
// is ordinary during an election. What ingest proposes may be committed twice
// without harm: it carries a position, a session number or an idempotency key.
func propose(ctx context.Context, log Log, cmd *raftv1.Command) (*raftv1.Result, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		res, err := log.Propose(ctx, cmd)
		if err == nil {
			return res, nil
		}
		if errors.Is(err, consensus.ErrInvalid) || errors.Is(err, consensus.ErrClosed) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}
