package control

import (
	"context"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// ListCheckpoints implements the service.
func (s *Server) ListCheckpoints(context.Context, *operatorv1.ListCheckpointsRequest) (*operatorv1.ListCheckpointsResponse, error) {
	return &operatorv1.ListCheckpointsResponse{}, nil
}
