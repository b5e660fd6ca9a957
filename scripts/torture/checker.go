package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// checker takes the barrier away from reads, so that they may be old, and wants it found:
// a checker that finds nothing wrong is worth something only if it can.
func checker(ctx context.Context, cfg config, dir string) []figure.Row {
	const name = "the checker finds reads without a barrier"
	cfg.defect, cfg.brief, cfg.ops, cfg.lasts = "read-barrier", true, 400, 0
	r, err := newRig(ctx, cfg, dir, ",read-barrier=skip", nothingFirst)
	if err != nil {
		return []figure.Row{figure.Missing(name, "histories", "≥ 1", err)}
	}
	out := answered{faults: map[string]int{}, others: map[string]int64{}}
	faults := planFaults(cfg.seed, len(faultKinds))
	err = errors.Join(r.round(ctx, cfg, 0, cfg.ops, &faults, &out), r.close(cfg.keep))
	if err != nil {
		return []figure.Row{figure.Missing(name, "histories", "≥ 1", brief(cfg, err))}
	}
	return []figure.Row{figure.AtLeast(name, float64(out.violations), 1, "histories", fmt.Sprintf("that no single machine could have given, of %d", out.histories))}
}
