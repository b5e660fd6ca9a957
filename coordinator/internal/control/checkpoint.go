package control

import (
	"context"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// ListCheckpoints implements the service; it is linearizable, as the audit is.
func (s *Server) ListCheckpoints(ctx context.Context, r *operatorv1.ListCheckpointsRequest) (*operatorv1.ListCheckpointsResponse, error) {
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	checkpoints, err := s.cfg.DB.Checkpoints(ctx, r.GetPageSize())
	if err != nil {
		return nil, readError(err)
	}
	roots, _ := s.cfg.Authority.Certificates()
	trusts, err := s.cfg.DB.Trusts(ctx)
	return &operatorv1.ListCheckpointsResponse{Checkpoints: checkpoints, Authority: roots, Trusts: trusts}, readError(err)
}
