package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/usage"
)

// What a process holds and has used.
var statusKiB, cpu = usage.KiB, usage.CPU

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// missingParents of a folder that is about to be made, the deepest first.
func missingParents(dir string) (missing []string) {
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil {
			return missing
		}
		missing = append(missing, p)
	}
}
