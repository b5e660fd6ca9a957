package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

// readError gives an error of the store the code that a client acts on.
func readError(err error) error {
	code := connect.CodeInternal
	ours := new(connect.Error)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		code = ours.Code()
	case errors.Is(err, store.ErrNotFound):
		code = connect.CodeNotFound
	case errors.Is(err, store.ErrAmbiguous), errors.Is(err, store.ErrBadPage):
		code = connect.CodeInvalidArgument
	case errors.Is(err, store.ErrClosed):
		code = connect.CodeUnavailable
	case errors.Is(err, context.Canceled):
		code = connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		code = connect.CodeDeadlineExceeded
	}
	return connect.NewError(code, err)
}

// barrier waits until this node has applied all that was committed when it was called.
func (s *Server) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if err := s.cfg.Log.ReadBarrier(ctx); err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("no leader confirms that this node is up to date: try again or ask another node: %w", err))
	}
	return nil
}

// propose brings a command into the log in the operator's name.
func (s *Server) propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	// The founder's first entry names the cluster. A request that overtook it would
	// be judged by a cluster without a name.
	if id, err := s.cfg.DB.ClusterID(ctx); err != nil {
		return nil, readError(err)
	} else if id == "" {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("this node has not learnt its cluster's state yet: try again in a second"))
	}
	cmd.Time = s.cfg.Now().UnixNano()
	cmd.Actor = actor(ctx)
	res, err := s.cfg.Log.Propose(ctx, cmd)
	switch {
	case errors.Is(err, consensus.ErrUncertain):
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("the leader was lost while it decided: ask again with the same idempotency key: %w", err))
	case err != nil:
		return nil, connect.NewError(connect.CodeUnavailable, err)
	case res.GetRejected() != "":
		return nil, connect.NewError(rejectionCode(res.GetRejected()), fmt.Errorf("%s (%s)", res.GetMessage(), res.GetRejected()))
	}
	return res, nil
}

// rejectionCode sorts the log's refusals: what does not exist, what makes no
// sense, and the rest, which the present state forbids.
func rejectionCode(rejected string) connect.Code {
	switch {
	case rejected == state.RejectUnknownCommand:
		return connect.CodeFailedPrecondition
	case strings.HasPrefix(rejected, "unknown-"):
		return connect.CodeNotFound
	case strings.HasPrefix(rejected, "bad-"), rejected == state.RejectInvalid:
		return connect.CodeInvalidArgument
	}
	return connect.CodeFailedPrecondition
}
