package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// showing hosts have behaviours.
const showing = 20

// reads is what the CLI asks a store for.
func reads(hosts int, now int64) map[string]func(context.Context, *DB, int) error {
	findings := func(f func(i int) FindingFilter, rows int) func(context.Context, *DB, int) error {
		return func(ctx context.Context, db *DB, i int) error {
			got, _, err := db.Findings(ctx, f(i), Page{})
			if err == nil && len(got) < rows {
				err = fmt.Errorf("got %d findings, want %d", len(got), rows)
			}
			return err
		}
	}
	host := func(i int) string { return fmt.Sprintf("h-%d", i*7919%hosts) }
	return map[string]func(context.Context, *DB, int) error{
		"hosts": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Hosts(ctx, HostFilter{}, Page{})
			return err
		},
		"hosts by label": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Hosts(ctx, HostFilter{Labels: map[string]string{"role": "none"}}, Page{})
			return err
		},
		"host": func(ctx context.Context, db *DB, i int) error { _, err := db.Host(ctx, host(i)); return err },
		"behaviours": func(ctx context.Context, db *DB, i int) error {
			_, err := db.Behaviours(ctx, fmt.Sprintf("h-%d", i%showing), 50)
			return err
		},
		"findings":            findings(func(int) FindingFilter { return FindingFilter{} }, 1),
		"findings of a host":  findings(func(i int) FindingFilter { return FindingFilter{Host: host(i)} }, 1),
		"findings of an hour": findings(func(int) FindingFilter { return FindingFilter{Since: now - int64(time.Hour)} }, 1),
		"findings of a year":  findings(func(int) FindingFilter { return FindingFilter{Since: 1} }, 1),
		"findings of no time": findings(func(int) FindingFilter { return FindingFilter{Since: now + 1} }, 0),
		"findings of a host, of an hour": findings(func(i int) FindingFilter {
			return FindingFilter{Host: host(i), Since: now - int64(time.Hour)}
		}, 0),
		"findings of a storyline": findings(func(i int) FindingFilter { return FindingFilter{Storyline: fmt.Sprintf("s-%d", i)} }, 1),
		"findings of an incident": findings(func(i int) FindingFilter { return FindingFilter{Incident: fmt.Sprintf("i-%d", i%50)} }, 0),
		"incidents": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Incidents(ctx, IncidentFilter{Status: "open"}, Page{})
			return err
		},
		"incidents of an hour": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Incidents(ctx, IncidentFilter{Since: now}, Page{})
			return err
		},
		"status": func(ctx context.Context, db *DB, _ int) error {
			_, err := db.Counts(ctx, now-int64(24*time.Hour))
			return err
		},
	}
}

// filled is a state with so many hosts and findings, a minute between every two of a
// host's, written past the log.
func filled(t testing.TB, hosts, findings int) (db *DB, now int64) {
	t.Helper()
	db = open(t, filepath.Join(t.TempDir(), "state.db"))
	now = time.Now().UnixNano()
	body, err := encode(&sensorv1.Finding{Id: "f", Title: strings.Repeat("what was seen ", 30), Score: 50})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(1, func(tx *Tx) error {
		for i := range hosts {
			if err := tx.AddHost(fmt.Sprintf("h-%d", i), &sensorv1.HostFacts{Name: fmt.Sprintf("web-%d", i)}, map[string]string{"role": "web"}, now); err != nil {
				return err
			}
		}
		for host := range min(showing, hosts) {
			var found []*sensorv1.Behaviour
			for i := range 500 {
				key := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
				found = append(found, &sensorv1.Behaviour{Key: key[:16], Kind: 1, Subject: []byte("/usr/bin/sh"), Object: []byte("/usr/bin/id"), FirstSeen: now - int64(i)})
			}
			if err := tx.Summarise(int64(host+1), found, nil); err != nil {
				return err
			}
		}
		_, err := tx.exec(`WITH RECURSIVE i(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM i WHERE i < ?1 - 1)
			INSERT INTO findings (id, host, idx, time, stored_at, storyline, disposition, incident, body)
			SELECT 'f-' || i, 1 + i % ?2, i / 10, ?3 - (?1 - i) * (60000000000 / ?2), ?3 - (?1 - i) * (60000000000 / ?2), 's-' || (i / 5), 'new',
				CASE i % 1000 WHEN 0 THEN 'i-' || (i / 1000 % 50) ELSE '' END, ?4 FROM i`, int64(findings), int64(hosts), now, body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return db, now
}

// Ensure no list reads a large table for the page that it answers: it begins where an
// index says. A list without a filter walks along the row numbers and stops.
func TestReadsUseIndexes(t *testing.T) {
	db, now := filled(t, 20, 2000)
	for name, want := range map[string][]string{
		"findings of a host":      {"findings_host"},
		"findings of an hour":     {"COVERING INDEX findings_time (time>?)", "rowid>? AND rowid<?"},
		"findings of a storyline": {"findings_storyline"},
		"findings of an incident": {"findings_incident"},
		"incidents":               {"incidents_status"},
		"incidents of an hour":    {"COVERING INDEX incidents_seen (last_seen>?)", "rowid>? AND rowid<?"},
		"status":                  {"COVERING INDEX findings_stored"},
	} {
		var plan []string
		explained = func(q string, args []any) {
			rows, err := db.pool.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+steady(q), args...)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			for rows.Next() {
				var id, parent, unused int64
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					t.Fatal(err)
				}
				plan = append(plan, detail)
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
		}
		err := reads(20, now)[name](t.Context(), db, 3)
		explained = nil
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		whole := strings.Join(plan, "\n")
		for _, part := range want {
			if !strings.Contains(whole, part) {
				t.Errorf("%s does not use %q:\n%s", name, part, whole)
			}
		}
		for _, step := range plan {
			for _, table := range []string{"findings", "f", "sightings", "behaviours", "incidents", "flows"} {
				if step == "SCAN "+table {
					t.Errorf("%s reads all of a table:\n%s", name, whole)
				}
			}
		}
	}
}

// BenchmarkReads prints the 99th percentile of each read. VEDETTE_READS says "hosts
// findings"; 10,000 and 1,000,000 are what the CLI's figure is about.
func BenchmarkReads(b *testing.B) {
	hosts, findings := 1000, 20_000
	if text := os.Getenv("VEDETTE_READS"); text != "" {
		if _, err := fmt.Sscan(text, &hosts, &findings); err != nil {
			b.Fatal(err)
		}
	}
	db, now := filled(b, hosts, findings)
	for name, read := range reads(hosts, now) {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				began := time.Now()
				if err := read(b.Context(), db, i); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			p99, _ := strconv.ParseFloat(fmt.Sprintf("%.3f", float64(took[len(took)*99/100].Microseconds())/1000), 64)
			b.ReportMetric(p99, "p99-ms")
		})
	}
}
