package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

const yearName = "state after a year of 10,000 hosts, by the measured bytes of a row"

// yearRows are what a state of ten thousand hosts holds when a year is over, kept as long as a node
// keeps by default: what is added a day, times how long it is kept and a partition more.
var yearRows = []struct {
	kind string
	rows float64
	why  string
}{
	{"bytes_host", 10_000, "10,000 hosts"},
	{"bytes_sighting_with_a_tenth_of_a_description", 10_000 * 500, "500 behaviours each, every tenth on no other host"},
	{"bytes_count", 10_000 * (60*3.5 + 24*15 + 430), "counts of 3 h by the minute, 14 days by the hour, 400 days by the day"},
	{"bytes_finding", 10_000 * 90, "a finding of 1 KiB each host and day for 90 days"},
	{"bytes_flow", 10_000 * 10 * 7, "10 flow notes each host and day for 7 days"},
	{"bytes_loss", 10_000 * 8, "8 causes of loss each"},
	{"bytes_audit_entry", 365 * 2_000, "2,000 audit entries a day, never cut"},
}

// storedHistory computes a year's size and takes the time of entries that remove what is old.
func storedHistory(ctx context.Context, b *bench) []figure.Row {
	const entryName = "history: entry that removes what is old, p99"
	hosts := 2_000
	if b.quick {
		hosts /= 10
	}
	took, err := goBench(ctx, "BenchmarkHistory", "./coordinator/internal/store", "1x", fmt.Sprintf("VEDETTE_HISTORY=%d", hosts))
	if err == nil && len(took) == 0 {
		err = fmt.Errorf("the benchmark printed no figure")
	}
	if err != nil {
		return []figure.Row{figure.Missing(yearName, "GiB", "≤ 20", err), figure.Missing(entryName, "ms", "≤ 100", err)}
	}
	sum := 0.0
	var parts []string
	for _, y := range yearRows {
		bytes := took[y.kind] * y.rows
		sum += bytes
		parts = append(parts, fmt.Sprintf("%s: %.0f MiB", y.why, bytes/(1<<20)))
	}
	rows := []figure.Row{
		figure.AtMost(yearName, sum/(1<<30), 20, "GiB", strings.Join(parts, "; ")),
		figure.AtMost(entryName, took["entry_that_removes_rows_p99"], 100, "ms", fmt.Sprintf("128 rows; of %d hosts; load %s", hosts, loadNow())),
		figure.AtMost("history: entry that forgets sightings, p99", took["entry_that_forgets_p99"], 100, "ms", "128 of a host, with the fleet's counts"),
		figure.AtMost("history: entry that drops a partition, worst", took["entry_that_drops_a_partition_worst"], 100, "ms", fmt.Sprintf("at most %d rows", hosts*30)),
	}
	for _, name := range slices.Sorted(maps.Keys(took)) {
		unit := "ms"
		switch {
		case strings.HasPrefix(name, "bytes_"):
			unit = "bytes"
		case strings.HasPrefix(name, "summary_"):
			unit = "µs"
		}
		rows = append(rows, figure.Info("history: "+strings.ReplaceAll(name, "_", " "), took[name], unit, ""))
	}
	return rows
}
