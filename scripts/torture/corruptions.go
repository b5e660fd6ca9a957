package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// corruptions damages the files of one node; the test that asserts what comes of it is
// also what counts.
func corruptions(ctx context.Context, cfg config, _ string) []figure.Row {
	const name, asserted = "files damaged: healed, or refused with what to do", "TestClusterDamagedNode"
	bin, err := filepath.Abs(cfg.bin)
	if err != nil {
		return []figure.Row{figure.Missing(name, "", "all", err)}
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", "9m", "-run", "^"+asserted+"$", "./scripts/internal/clusterlab")
	cmd.Env = append(os.Environ(), "VEDETTE_BIN="+bin)
	printed, err := cmd.CombinedOutput()
	good, bad := strings.Count(string(printed), "--- PASS: "+asserted+"/"), strings.Count(string(printed), "--- FAIL: "+asserted+"/")
	var exit *exec.ExitError
	if good+bad == 0 || err != nil && !errors.As(err, &exit) {
		return []figure.Row{figure.Missing(name, "", "all", brief(cfg, fmt.Errorf("%w: %s", err, lastLines(string(printed), 20))))}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, lastLines(string(printed), 60))
	}
	return []figure.Row{
		figure.Info(name, float64(good), "", "each kind of file of one node, cut, overwritten, emptied or gone; the nodes then answer the same"),
		figure.Exactly("files damaged: served, spread or not understood", float64(bad), 0, "", "not drawn from the seed"),
	}
}

// checker takes the barrier away from reads, so that they may be old, and wants it found:
// a checker that finds nothing wrong is worth something only if it can.
func checker(ctx context.Context, cfg config, dir string) []figure.Row {
	const name = "the checker finds reads without a barrier"
	cfg.defect, cfg.brief, cfg.ops = "read-barrier", true, 400
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
