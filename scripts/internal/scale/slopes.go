package scale

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

// slopeSteps are the parts of the fleet that a slope is fitted through, as divisors of its size.
var slopeSteps = []int{8, 4, 2, 1}

// point is what three nodes cost with so many hosts.
type point struct{ hosts, cpu, kib, disk float64 }

// slopes says what one more host costs: a fleet grows, and at each size is left to report.
// A cost that is not a straight line shows in the fit.
func slopes(ctx context.Context, cfg Config) []figure.Row {
	const name = "CPU of three nodes for each 1,000 hosts"
	missing := func(err error) []figure.Row { return []figure.Row{figure.Missing(name, "% of a core", "", err)} }
	s, err := newStage(ctx, cfg, "slopes", world.Config{Seed: cfg.Seed, Hosts: cfg.Size, Window: time.Duration(cfg.Speed) * cfg.Every, RolloutEvery: 4 * time.Hour})
	if err != nil {
		return missing(err)
	}
	defer s.close()
	points, err := s.points(ctx, max(2, int(cfg.Hold/cfg.Every)))
	if err != nil {
		return missing(err)
	}
	row := func(name, unit string, each float64, of func(point) float64, note string) figure.Row {
		slope, fixed, r2 := fit(points, of)
		var measured []string
		for _, p := range points {
			measured = append(measured, fmt.Sprintf("%.0f hosts %.4g", p.hosts, of(p)))
		}
		return figure.Info(name, each*slope, unit, fmt.Sprintf("%s; without hosts %.3g; r² %.3f of %s; load %s", note, fixed, r2, strings.Join(measured, ", "), loadNow()))
	}
	return []figure.Row{
		row(name, "% of a core", 1000, func(p point) float64 { return p.cpu }, fmt.Sprintf("each reports each %s", cfg.Every)),
		row("memory of three nodes for each host", "KiB", 1, func(p point) float64 { return p.kib }, "VmRSS of all three: a session is held by one, the state's cache by each"),
		row("disk of one node for each host", "KiB", 1, func(p point) float64 { return p.disk / 1024 }, "state.db and what is beside it, without the log; what a host has told in its first minutes"),
	}
}

// points grows the fleet step by step.
func (s *stage) points(ctx context.Context, windows int) (points []point, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, enrolLimit, fmt.Errorf("not within %s", enrolLimit))
	defer cancel()
	window := 0
	for _, part := range slopeSteps {
		size := s.cfg.Size / part
		if err := s.fleet.Grow(ctx, size); err != nil { // whoever is enrolled would report
			return nil, err
		}
		if open := s.fleet.Tally().Open; open != int64(size) {
			return nil, fmt.Errorf("%d sessions are open, want %d", open, size)
		}
		// The first report of a host brings its behaviours, and is no part of the slope.
		if err := s.fleet.Pace(ctx, window, 1, s.cfg.Every); err != nil {
			return nil, err
		}
		window++
		before, err := s.read()
		if err != nil {
			return nil, err
		}
		if err := s.fleet.Pace(ctx, window, windows, s.cfg.Every); err != nil {
			return nil, err
		}
		window += windows
		after, err := s.read()
		if err != nil {
			return nil, err
		}
		disk, err := s.disk()
		if err != nil {
			return nil, err
		}
		p := point{hosts: float64(size), cpu: share(after.nodes-before.nodes, after.instant.Sub(before.instant)), kib: float64(total(after.rss)), disk: float64(disk)}
		s.cfg.Log(fmt.Sprintf("%d hosts: nodes use %.1f %% of a core, %.0f MiB, %.1f MiB of disk each", size, p.cpu, p.kib/1024, p.disk/(1<<20)))
		points = append(points, p)
	}
	return points, nil
}

// disk is how large the state of the first node is.
func (s *stage) disk() (bytes int64, err error) {
	files, err := filepath.Glob(filepath.Join(s.lab.NodeDir(s.cluster.Nodes[0].ID), "state.db*"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a journal that was just taken in
		}
		if err != nil {
			return 0, err
		}
		bytes += info.Size()
	}
	return bytes, nil
}

// fit is the straight line through points by least squares, and how much of them it explains.
func fit(points []point, of func(point) float64) (slope, fixed, r2 float64) {
	var n, sx, sy, sxx, sxy, syy float64
	for _, p := range points {
		x, y := p.hosts, of(p)
		n, sx, sy, sxx, sxy, syy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y, syy+y*y
	}
	vx, vy, c := sxx-sx*sx/n, syy-sy*sy/n, sxy-sx*sy/n
	if vx == 0 {
		return 0, sy / n, 0
	}
	slope = c / vx
	if vy != 0 {
		r2 = c * c / (vx * vy)
	}
	return slope, (sy - slope*sx) / n, r2
}
