package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = 200 * time.Millisecond
	// leaderCheck is how often a waiting request looks whether it waits for the right node.
	leaderCheck = 50 * time.Millisecond
)

// errElsewhere: this node does not lead, and did not accept the command.
var errElsewhere = errors.New("not the leader")

// Propose commits a command, from any node: it is forwarded to the leader, and
// over a change of leaders it is tried again for as long as ctx (or
// Config.ProposeTimeout) allows and that is safe. The result says what the
// command did, or why it was rejected. Errors: ErrNoLeader, ErrUncertain,
// ErrInvalid, ErrClosed.
func (n *Node) Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	result, err := n.propose(ctx, cmd)
	n.cfg.Meter.Proposed(outcomeOf(result, err))
	return result, err
}

func outcomeOf(result *raftv1.Result, err error) string {
	switch {
	case err == nil && result.GetRejected() == "":
		return meter.Accepted
	case err == nil:
		return meter.Rejected
	case errors.Is(err, ErrNoLeader):
		return meter.NoLeader
	case errors.Is(err, ErrUncertain):
		return meter.Uncertain
	}
	return meter.Failed
}

func (n *Node) propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	data, err := encode(cmd)
	if err != nil {
		return nil, err
	}
	n.cfg.Meter.ProposedBytes.Observe(float64(len(data)))
	// An ingest repeats nothing that its positions cover, a key answers what it did.
	repeatable := cmd.GetIdempotencyKey() != "" || cmd.GetIngest() != nil
	var result *raftv1.Result
	err = n.retry(ctx, repeatable, func(ctx context.Context) error {
		if n.IsLeader() {
			if err := n.heldBack(ctx, cmd); err != nil {
				return err
			}
			result, err = n.commit(ctx, data)
			return err
		}
		reply, err := n.ask(ctx, tagPropose, cmd)
		result = reply.GetResult()
		return err
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

func encode(cmd *raftv1.Command) ([]byte, error) {
	data, err := proto.Marshal(cmd)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	case cmd.GetBody() == nil:
		return nil, fmt.Errorf("%w: it has no body", ErrInvalid)
	case len(data) > MaxCommand:
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d: split it", ErrInvalid, len(data), MaxCommand)
	}
	return data, nil
}

// commit puts an encoded command into the log of this leader, and waits for it.
func (n *Node) commit(ctx context.Context, data []byte) (*raftv1.Result, error) {
	future := n.raft.Apply(data, remaining(ctx))
	if err := n.await(ctx, future); err != nil {
		return nil, err
	}
	result, ok := future.Response().(*raftv1.Result)
	if !ok || result == nil {
		return nil, fmt.Errorf("%w: entry %d was committed without an answer", ErrUncertain, future.Index())
	}
	return result, nil
}

// await waits for a raft future and sorts its error.
func (n *Node) await(ctx context.Context, future raft.Future) error {
	done := make(chan error, 1)
	if !n.start(func() { done <- future.Error() }) {
		return fmt.Errorf("%w: %w", ErrUncertain, ErrClosed)
	}
	select {
	case err := <-done:
		return sorted(err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
	}
}

// sorted says what an error of raft's means for the command.
func sorted(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		// raft answers these before it writes anything.
		return fmt.Errorf("%w: %w", errElsewhere, err)
	}
	return fmt.Errorf("%w: %w", ErrUncertain, err)
}

func remaining(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}

// retry calls once until it succeeds or says that trying again is useless or unsafe.
func (n *Node) retry(ctx context.Context, repeatable bool, once func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.cfg.ProposeTimeout)
		defer cancel()
	}
	uncertain := false
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		if n.closing.Err() != nil {
			return ErrClosed
		}
		err := n.Fit()
		switch {
		case err != nil && uncertain:
			return fmt.Errorf("%w: %w", ErrUncertain, err)
		case err != nil:
			return fmt.Errorf("%w: %w", ErrNoLeader, err)
		}
		err = once(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errElsewhere):
		case errors.Is(err, ErrUncertain):
			uncertain = true
			if !repeatable {
				return err
			}
		default:
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			continue
		case <-n.closing.Done():
			timer.Stop()
			return ErrClosed
		case <-ctx.Done():
			timer.Stop()
		}
		if uncertain {
			return fmt.Errorf("%w: %w", ErrUncertain, err)
		}
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
}

// ask sends one request to the leader and reads its answer.
func (n *Node) ask(ctx context.Context, tag byte, cmd *raftv1.Command) (*raftv1.ForwardReply, error) {
	_, addr, ok := n.leader()
	if !ok || addr == n.cfg.Address {
		return nil, fmt.Errorf("%w, and none is known", errElsewhere)
	}
	ctx, stop := n.whileLeading(ctx, addr)
	defer stop()
	return n.askAt(ctx, addr, tag, cmd)
}

// whileLeading ends with ctx or as soon as another node than the one at addr is
// known to lead: a leader that died silently answers nothing, and its
// connection takes seconds to be given up.
func (n *Node) whileLeading(ctx context.Context, addr string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if !n.start(func() {
		ticker := time.NewTicker(leaderCheck)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if _, now, ok := n.leader(); ok && now != addr {
					cancel()
				}
			}
		}
	}) {
		cancel()
	}
	return ctx, cancel
}

// askAt is ask for the node at addr. Until the request begins to be written it
// has certainly no effect; after that only the answer can tell.
func (n *Node) askAt(ctx context.Context, addr string, tag byte, cmd *raftv1.Command) (*raftv1.ForwardReply, error) {
	select {
	case n.peers.forwards <- struct{}{}:
		defer func() { <-n.peers.forwards }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errElsewhere, ctx.Err())
	}
	stream, err := n.peers.open(ctx, addr, tag)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errElsewhere, err)
	}
	defer func() { _ = stream.Close() }()
	stop := interruptible(ctx, stream)
	defer stop()
	reply := &raftv1.ForwardReply{}
	if err := frame.Write(stream, cmd); err != nil {
		return nil, fmt.Errorf("%w: sending to %s: %w", ErrUncertain, addr, err)
	}
	if err := frame.Read(stream, reply); err != nil {
		return nil, fmt.Errorf("%w: waiting for %s: %w", ErrUncertain, addr, err)
	}
	switch {
	case reply.GetNotLeader():
		return nil, fmt.Errorf("%w: %s says so of itself", errElsewhere, addr)
	case reply.GetError() != "" && reply.GetResult() != nil:
		return nil, fmt.Errorf("%w: %s", ErrRefused, reply.GetError())
	case reply.GetError() != "":
		return nil, fmt.Errorf("%w: %s", ErrUncertain, reply.GetError())
	}
	return reply, nil
}

// interruptible makes a stream's reads and writes end with ctx.
func interruptible(ctx context.Context, stream net.Conn) (stop func() bool) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = stream.SetDeadline(deadline)
	}
	return context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
}

// ReadBarrier returns when the local state holds everything that was committed
// before the call: a read after it is linearizable.
func (n *Node) ReadBarrier(ctx context.Context) error {
	if failpoint.Skips("read-barrier") {
		return nil
	}
	var index uint64
	err := n.retry(ctx, true, func(ctx context.Context) (err error) {
		if n.IsLeader() {
			index, err = n.barrier(ctx)
			return err
		}
		reply, err := n.ask(ctx, tagBarrier, &raftv1.Command{})
		index = reply.GetResult().GetIndex()
		return err
	})
	if err != nil {
		return fmt.Errorf("reaching a read point: %w", err)
	}
	return n.db.WaitApplied(ctx, index)
}

// barrier proves that this node leads, that its state holds every commit before
// now, and answers the index of the last command in it.
func (n *Node) barrier(ctx context.Context) (uint64, error) {
	if err := n.await(ctx, n.raft.Barrier(remaining(ctx))); err != nil {
		return 0, err
	}
	return n.db.AppliedIndex(), nil
}
