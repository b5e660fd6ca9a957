package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/scale"
)

// scaleTable holds a thousand sessions under their reports and kills the leader: what
// `make sim` does, of which `make sim SIZE=10000 HOLD=1h` is the whole.
func scaleTable(ctx context.Context, b *bench) []figure.Row {
	const name = "the scale table"
	// What still runs would be load that the figures do not know of.
	if err := b.lab.Close(); err != nil {
		return []figure.Row{figure.Missing(name, "", "is measured", err)}
	}
	cfg := scale.Config{Bin: b.bin, Dir: filepath.Join(b.dir, "scale"), Port: *firstPort + 50, Size: 1000, Seed: 1, Hold: b.span(time.Minute),
		Every: 30 * time.Second, Only: []string{"steady", "herd"}, Log: func(text string) { fmt.Fprintf(os.Stderr, "    %s\n", text) }}
	if b.quick {
		cfg.Size, cfg.Every = 200, cfg.Hold/2
	}
	rows, err := scale.Run(ctx, cfg)
	if err != nil {
		rows = append(rows, figure.Missing(name, "", "is measured", err))
	}
	return append(rows, edges(ctx)...)
}

// edgeGrows is how much more an edge may cost when ten times as many are known: a leader that
// looks at all of them for each would be ten times as slow.
const edgeGrows = 2

func edges(ctx context.Context) []figure.Row {
	const name = "an edge of a campaign, 3,000 known ÷ 300 known"
	cost, err := goBench(ctx, "BenchmarkEdge", "./coordinator/internal/engine/correlate", "300x", "")
	if err == nil && (cost["300"] <= 0 || cost["3000"] <= 0) {
		err = errors.New("BenchmarkEdge printed no figure")
	}
	if err != nil {
		return []figure.Row{figure.Missing(name, "×", fmt.Sprintf("≤ %d", edgeGrows), err)}
	}
	return []figure.Row{
		figure.Info("leader's CPU for an edge of a campaign", cost["3000"], "µs", "taken in, joined and described; its entry in the log comes on top"),
		figure.AtMost(name, cost["3000"]/cost["300"], edgeGrows, "×", fmt.Sprintf("%.0f and %.0f µs, in one run", cost["3000"], cost["300"])),
	}
}
