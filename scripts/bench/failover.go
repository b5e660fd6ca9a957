package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// failover kills the leader's process twenty times under load; the test that
// asserts this is also what measures it.
func failover(ctx context.Context, b *bench) []figure.Row {
	const name = "leader killed → writes resume, 20 kills"
	out := filepath.Join(b.dir, "failover.jsonl")
	// What still runs would be load that the test does not know of.
	if err := b.lab.Close(); err != nil {
		return []figure.Row{figure.Missing(name, "s", "≤ 5", err)}
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout", "9m", "-run", "^TestClusterLosesNothingWhenLeadersDie$", "./scripts/internal/clusterlab")
	cmd.Env = append(os.Environ(), "VEDETTE_OUT="+out, "VEDETTE_BIN="+b.bin)
	printed, failed := cmd.CombinedOutput()
	raw, err := os.ReadFile(out)
	if err != nil {
		return []figure.Row{figure.Missing(name, "s", "≤ 5", fmt.Errorf("%w: %s", err, bytes.TrimSpace(printed)))}
	}
	var rows []figure.Row
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		var row figure.Row
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return append(rows, figure.Missing(name, "s", "≤ 5", err))
		}
		rows = append(rows, row)
	}
	if failed != nil {
		rows = append(rows, figure.Missing("the test of twenty leader kills", "", "passes", fmt.Errorf("%w", failed)))
	}
	return rows
}
