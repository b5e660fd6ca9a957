package main

import (
	"context"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// stalls is how long the leader's disk stands still.
const stalls = time.Minute

// troubledDisks fills the leader's disk, has another fail, and has a third stand still for a minute.
func troubledDisks(ctx context.Context, b *bench) []figure.Row {
	return tested{name: "disks: another leader after", unit: "s", target: "≤ 10",
		tests: "TestClusterFullDisk|TestClusterDiskInTrouble", about: "disks: ", folder: "./scripts/internal/clusterlab", limit: "9m",
		args: []string{"-args", "-stall", b.span(stalls).String()}}.figures(ctx, b)
}
