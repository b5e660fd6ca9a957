package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/sensor/ruleeval"
)

const (
	// sigmaRules is how many rules for Linux the collection has that the targets are of.
	sigmaRules   = 210
	mappedTarget = 190
	costTarget   = 10 * time.Microsecond
)

// sigmaDir is where the ecosystem's rules lie: a folder beside the checkout, or where
// VEDETTE_SIGMA_DIR says.
func sigmaDir() string {
	if dir := os.Getenv("VEDETTE_SIGMA_DIR"); dir != "" {
		return dir
	}
	return filepath.Join("..", "shared", "eval", "sigma")
}

func rulesTable(_ context.Context, w io.Writer, cfg config) ([]figure.Row, error) {
	if _, err := os.Stat(cfg.sigma); errors.Is(err, fs.ErrNotExist) {
		return []figure.Row{figure.Skipped("rules: of the ecosystem", "rules", fmt.Sprintf("a folder of Sigma rules at %s: give one by -sigma or VEDETTE_SIGMA_DIR", cfg.sigma))}, nil
	}
	r, err := ruleeval.Run(cfg.sigma)
	if err != nil {
		return nil, fmt.Errorf("judging the rules: %w", err)
	}
	if cfg.words {
		for _, reason := range slices.Sorted(maps.Keys(r.Unmapped)) {
			fmt.Fprintf(w, "%d rules not mapped: %s\n", len(r.Unmapped[reason]), reason)
			for _, title := range r.Unmapped[reason] {
				fmt.Fprintf(w, "    %s\n", title)
			}
		}
	}
	for _, err := range r.Wrong {
		fmt.Fprintf(w, "refused: %v\n", err)
	}
	for _, text := range append(slices.Clone(r.Theirs.Without), r.Ours.Without...) {
		fmt.Fprintf(w, "no event for %s\n", text)
	}
	return rulesRows(r), nil
}

// errEmpty: a folder without a rule says nothing of rules.
var errEmpty = errors.New("the folder has no *.yml")

func rulesRows(r ruleeval.Result) []figure.Row {
	of := fmt.Sprintf("of %d files", r.Files)
	if r.Files == 0 {
		return []figure.Row{figure.Missing("rules: parsed", "rules", fmt.Sprintf("= %d", sigmaRules), errEmpty)}
	}
	mapped := figure.AtLeast("rules: mapped, every field is one that the sensor supplies", float64(r.Mapped), mappedTarget, "rules",
		fmt.Sprintf("%s; %d by bare words in our events' texts, %d by some of their branches, %d of auditd's PATH, of which the sensor has no reads", of, r.Words, r.Partial, r.Reads))
	if r.Files != sigmaRules {
		// Another collection has no target of ours.
		mapped.Target, mapped.OK = "", true
	}
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return []figure.Row{
		figure.Exactly("rules: parsed", float64(r.Parsed), float64(r.Files), "rules", of),
		figure.Exactly("rules: compiled", float64(r.Compiled), float64(r.Files), "rules", "with whatever fields they ask for"),
		mapped,
		figure.Exactly("rules: mapped that match an event made up for them", float64(r.Theirs.Positive), float64(r.Mapped), "rules", "events of the sensor's own kinds, from each rule's condition"),
		figure.Exactly("rules: mapped that leave one alone that differs a little", float64(r.Theirs.Negative), float64(r.Mapped), "rules", ""),
		figure.AtMost("rules: to find what matches an event, all loaded", micros(r.PerEvent), micros(costTarget), "µs",
			fmt.Sprintf("processor time of the thread over 1,000 events of ordinary work, least of 20 measurements, median %.1f; %d rules and our own %d", micros(r.PerEventMedian), r.Theirs.Used, r.Ours.Used)),
		figure.Info("rules: the same, our own alone", micros(r.OwnPerEvent), "µs", ""),
		figure.Info("rules: our own, shipped", float64(r.Ours.Rules), "rules", "files of sensor/rules"),
		figure.Exactly("rules: our own with both events", float64(min(r.Ours.Positive, r.Ours.Negative)), float64(r.Ours.Rules), "rules", ""),
	}
}
