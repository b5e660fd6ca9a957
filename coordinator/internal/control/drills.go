package control

import (
	"context"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// PutDrills implements the service.
func (s *Server) PutDrills(ctx context.Context, r *operatorv1.PutDrillsRequest) (*operatorv1.PutDrillsResponse, error) {
	_, err := s.propose(ctx, &raftv1.Command{Body: &raftv1.Command_PutDrills{PutDrills: &raftv1.PutDrills{Results: r.GetResults()}}})
	if err != nil {
		return nil, err
	}
	return &operatorv1.PutDrillsResponse{}, s.barrier(ctx)
}

// ListDrills implements the service.
func (s *Server) ListDrills(ctx context.Context, r *operatorv1.ListDrillsRequest) (*operatorv1.ListDrillsResponse, error) {
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	if err := s.ofHost(ctx, r.GetHost()); err != nil {
		return nil, err
	}
	results, row, err := s.cfg.DB.Drills(ctx, r.GetHost(), page)
	if err != nil {
		return nil, readError(err)
	}
	token, err := s.follows(ctx, row)
	if err != nil {
		return nil, err
	}
	return &operatorv1.ListDrillsResponse{Results: results, PageToken: token}, nil
}

// coverage is what drills found out, by technique; nil when none was ever done.
func coverage(tallies []store.DrillTally) *operatorv1.DrillCoverage {
	if len(tallies) == 0 {
		return nil
	}
	out := &operatorv1.DrillCoverage{}
	missed, proven, was := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, t := range tallies {
		out.Last = max(out.Last, t.Last)
		d, _ := drill.Find(t.Drill) // one of a newer release has no techniques here
		for _, id := range d.IDs() {
			missed[id] = missed[id] || t.Missed
			proven[id] = proven[id] || t.Proven
			was[id] = was[id] || t.WasMissed
		}
	}
	for id := range missed {
		switch {
		case missed[id]:
			out.Missed++
		case proven[id]:
			out.Proven++
			if was[id] {
				out.Closed++
			}
		}
	}
	return out
}
