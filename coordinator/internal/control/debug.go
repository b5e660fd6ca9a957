package control

import (
	"context"
	"runtime/debug"
	"runtime/pprof"
	"strings"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// maxProfile bounds the profile of goroutines: with thousands of sessions it is a few
// hundred places still.
const maxProfile = 1 << 20

// DebugInfo implements the service. It is of the node that is asked, and must work when
// the cluster does not: nothing in it waits for another node. Nothing in it is secret:
// a configuration has no key, lines of the log have none, and the profile has places of
// the program with counts and no values.
func (s *Server) DebugInfo(ctx context.Context, _ *operatorv1.DebugInfoRequest) (*operatorv1.DebugInfoResponse, error) {
	res := &operatorv1.DebugInfoResponse{NodeId: s.cfg.NodeID, Time: s.cfg.Now().UnixNano(), Version: s.cfg.Version,
		Started: s.cfg.Meter.Started().UnixNano(), Metrics: s.cfg.Meter.Text(), Configuration: s.cfg.Configuration}
	res.Health, _ = s.healthy(ctx)
	res.Readiness, _ = s.ready(ctx)
	if info, ok := debug.ReadBuildInfo(); ok {
		res.Build = info.String()
	}
	var profile strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&profile, 1) // a builder takes everything
	res.Goroutines = profile.String()[:min(profile.Len(), maxProfile)]
	if s.cfg.Journal != nil {
		lines, dropped := s.cfg.Journal.Lines()
		res.LogDropped = dropped
		for _, l := range lines {
			res.Log = append(res.Log, &operatorv1.LogLine{Time: l.Time.UnixNano(), Level: strings.ToLower(l.Level.String()), Text: l.Text})
		}
	}
	return res, nil
}
