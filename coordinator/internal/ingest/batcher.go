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
	// maxProposals bounds the log entries that one node has under way: one is written
	// while the next is on its way. More would not be faster, since the leader's disk
	// takes one after another, and each costs every node an fsync and a transaction:
	// what comes meanwhile makes the next entry larger instead.
	maxProposals = 2
	// grownBy times CoalesceBytes is how large an entry becomes that waits.
	grownBy = 8
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
	cfg   Config
	queue chan item
	// inflight counts bytes that are held and not yet committed.
	mu       sync.Mutex
	room     *sync.Cond
	inflight int64
}

func newBatcher(cfg Config) *batcher {
	b := &batcher{cfg: cfg, queue: make(chan item)}
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
	select {
	case b.queue <- item{batch: batch, size: size, done: done}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case o := <-done:
		return o.ack, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *batcher) reserve(ctx context.Context, size int64) error {
	stop := context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.room.Broadcast()
	})
	defer stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	// One batch always fits, or a bound below its size would stop everything.
	for b.inflight > 0 && b.inflight+size > b.cfg.MaxInflightBytes {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.room.Wait()
	}
	b.inflight += size
	return ctx.Err()
}

func (b *batcher) release(size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inflight -= size
	b.room.Broadcast()
}

// run collects and proposes until ctx ends.
func (b *batcher) run(ctx context.Context) error {
	var proposals sync.WaitGroup
	defer proposals.Wait()
	committed := make(chan struct{}, maxProposals)
	underWay := 0
	var pending []item
	var next *item // what has no room beside those that wait
	size, due := 0, false
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	add := func(it item) {
		if len(pending) == 0 {
			timer.Reset(b.cfg.CoalesceDelay)
		}
		pending = append(pending, it)
		size += it.size
		due = due || size >= b.cfg.CoalesceBytes
	}
	for {
		if due && underWay < maxProposals {
			items := pending
			pending, size, due = nil, 0, false
			timer.Stop()
			underWay++
			proposals.Go(func() {
				defer func() { committed <- struct{}{} }()
				b.propose(ctx, items)
			})
			if next != nil {
				add(*next)
				next = nil
			}
			continue
		}
		queue := b.queue
		if next != nil || due && size >= grownBy*b.cfg.CoalesceBytes {
			queue = nil
		}
		select {
		case it := <-queue:
			if len(pending) > 0 && size+it.size > maxEntry {
				next, due = &it, true
			} else {
				add(it)
			}
		case <-timer.C:
			due = true
		case <-committed:
			underWay--
		case <-ctx.Done():
			if next != nil {
				pending = append(pending, *next)
			}
			fail(pending, errStopping)
			return nil
		}
	}
}

func fail(items []item, err error) {
	for _, it := range items {
		it.done <- outcome{err: err}
	}
}

// propose brings items into the log as one entry and hands out the answers. It
// tries again while there is time: a batch that came through twice is stored once.
func (b *batcher) propose(ctx context.Context, items []item) {
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
		return
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
