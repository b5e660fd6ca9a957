package main

import (
	"context"
	"fmt"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// trusting is how many hosts race for a token, and how many rotate.
const trusting = 1000

// tokenRacers has a thousand hosts enrol with one token at the same moment.
func tokenRacers(ctx context.Context, b *bench) []figure.Row {
	return tested{name: "racers for one join token: enrolled", target: "= 1",
		tests: "TestTokenRacers", folder: "./coordinator", limit: "10m",
		settings: []string{fmt.Sprintf("VEDETTE_RACERS=%d", b.times(trusting))}}.figures(ctx, b)
}

// rotation has an authority followed by another under a thousand sensors in their sessions.
func rotation(ctx context.Context, b *bench) []figure.Row {
	return tested{name: "authority rotated under sensors: enrolments again", target: "= 0",
		tests: "TestRotate", folder: "./coordinator", limit: "15m",
		settings: []string{fmt.Sprintf("VEDETTE_ROTATE_SENSORS=%d", b.times(trusting))}}.figures(ctx, b)
}
