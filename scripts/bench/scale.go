package main

import (
	"context"
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
	return rows
}
