package scale

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// herd kills the leader, or all nodes, as a crash would, and waits until each sensor that
// had its session there is served again.
func (s *stage) herd(ctx context.Context, window int) []figure.Row {
	name := fmt.Sprintf("the leader of %d sessions killed → all of its sessions served again", s.cfg.Size)
	if s.cfg.Herd == "all" {
		name = fmt.Sprintf("all three nodes killed and started → all %d sessions served again", s.cfg.Size)
	}
	rows, err := s.stampede(ctx, name, window+1)
	if err != nil {
		rows = append(rows, figure.Missing(name, "s", fmt.Sprintf("≤ %g", herdMost.Seconds()), err))
	}
	return rows
}

func (s *stage) stampede(ctx context.Context, name string, window int) ([]figure.Row, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	status, err := s.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	leader := slices.IndexFunc(s.cluster.Nodes, func(n lab.NodeSpec) bool { return n.ID == status.GetLeaderId() })
	victims, from := s.cluster.Nodes, -1
	if s.cfg.Herd != "all" {
		if leader < 0 {
			return nil, fmt.Errorf("no node leads: %q", status.GetLeaderId())
		}
		victims, from = victims[leader:leader+1], leader
	}
	s.cfg.Log(fmt.Sprintf("killing %d of %d nodes", len(victims), len(s.cluster.Nodes)))
	// The fleet goes on reporting: a sensor learns of it when it is silent after a report or a keep-alive.
	living, end := context.WithCancel(ctx)
	var pacing sync.WaitGroup
	pacing.Go(func() { _ = s.fleet.Pace(living, window, int(herdLimit/s.cfg.Every)+1, s.cfg.Every) })
	defer pacing.Wait()
	defer end()
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	before := s.fleet.Tally()
	used := ownCPU()
	gone, load := s.fleet.At(from), loadNow()
	began := time.Now()
	for _, n := range victims {
		s.cluster.Members[n.ID].Kill()
	}
	recall := s.fleet.Recall(gone, began)
	if s.cfg.Herd == "all" {
		for _, n := range victims {
			if err := s.cluster.StartNode(ctx, n); err != nil {
				return nil, err
			}
		}
	}
	waiting, stop := context.WithTimeoutCause(ctx, herdLimit, fmt.Errorf("within %s", herdLimit))
	defer stop()
	times, left := recall.Wait(waiting)
	own := ownCPU() - used
	now := s.fleet.Tally()
	end()
	note := fmt.Sprintf("%d sensors, from SIGKILL to a record made after it acknowledged: p50 %.1f s, p99 %.1f s; handshakes at once: %s; tries that failed: %s; sessions lost: %s; CPU of this process %.0f s; load %s",
		len(gone), fleet.Quantile(times, 0.5).Seconds(), fleet.Quantile(times, 0.99).Seconds(), rushText(s.cfg.Rush), none(fleet.Causes(now.Failed, before.Failed)), none(fleet.Causes(now.Lost, before.Lost)), own.Seconds(), load)
	row := figure.AtMost(name, fleet.Quantile(times, 1).Seconds(), herdMost.Seconds(), "s", note)
	if left != nil {
		row.OK, row.Note = false, left.Error()+"; "+note
	}
	return []figure.Row{row,
		figure.Exactly("records lost by the herd", float64(now.Dropped-before.Dropped), 0, "records", "dropped by a sensor that kept too many while it had no session"),
	}, nil
}

func rushText(rush int) string {
	switch {
	case rush < 0:
		return "as many as come"
	case rush == 0:
		return "64"
	}
	return fmt.Sprint(rush)
}

func none(text string) string {
	if text == "" {
		return "none"
	}
	return text
}
