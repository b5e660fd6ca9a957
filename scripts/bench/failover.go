package main

import (
	"context"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// failover kills the leader's process twenty times under load.
func failover(ctx context.Context, b *bench) []figure.Row {
	return tested{name: "leader killed → writes resume, 20 kills", unit: "s", target: "≤ 5",
		tests: "TestClusterLosesNothingWhenLeadersDie", folder: "./scripts/internal/clusterlab", limit: "9m"}.figures(ctx, b)
}
