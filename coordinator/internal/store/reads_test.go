package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/raftv1"
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
	listed := func(f HostFilter, size uint32) func(context.Context, *DB, int) error {
		return func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Hosts(ctx, f, Page{Size: size})
			return err
		}
	}
	isolations := func(f IsolationFilter) func(context.Context, *DB, int) error {
		return func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Isolations(ctx, f, Page{})
			return err
		}
	}
	all := make([]string, hosts)
	for i := range all {
		all[i] = fmt.Sprintf("h-%d", i)
	}
	host := func(i int) string { return fmt.Sprintf("h-%d", i*7919%hosts) }
	return map[string]func(context.Context, *DB, int) error{
		"hosts": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Hosts(ctx, HostFilter{}, Page{})
			return err
		},
		"hosts, 1000 of them":          listed(HostFilter{}, MaxPage),
		"hosts by label":               listed(HostFilter{Labels: map[string]string{"role": "none"}}, 0),
		"hosts by a label of all":      listed(HostFilter{Labels: map[string]string{"role": "web"}}, 0),
		"hosts by two labels":          listed(HostFilter{Labels: map[string]string{"role": "web", "site": "s-3"}}, 0),
		"hosts by two labels, of none": listed(HostFilter{Labels: map[string]string{"role": "web", "site": "none"}}, 0),
		"hosts by id":                  listed(HostFilter{IDs: []string{"h-3", "web-4", "h-none"}}, 0),
		"hosts by ids of all":          listed(HostFilter{IDs: all}, MaxPage),
		"hosts by id and label":        listed(HostFilter{IDs: []string{"h-3", "web-4"}, Labels: map[string]string{"role": "web"}}, 0),
		"host":                         func(ctx context.Context, db *DB, i int) error { _, err := db.Host(ctx, host(i)); return err },
		"campaigns": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Campaigns(ctx, IncidentFilter{Status: "open"}, Page{})
			return err
		},
		"campaigns of an hour": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Campaigns(ctx, IncidentFilter{Since: now - int64(time.Hour)}, Page{})
			return err
		},
		"sessions at a node": func(ctx context.Context, db *DB, _ int) error {
			_, err := db.SessionsAt(ctx, "n1")
			return err
		},
		"how usual an object is": func(ctx context.Context, db *DB, i int) error {
			_, err := db.Usual(ctx, sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, fmt.Sprint("/usr/bin/", i))
			return err
		},
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
		"status, who is quiet": func(ctx context.Context, db *DB, _ int) error {
			_, err := db.Quiet(ctx, now-int64(time.Minute), now-int64(time.Hour))
			return err
		},
		"status, what waits": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Orders(ctx, true, time.Unix(0, now), Page{})
			return err
		},
		"status, nodes that differed": func(ctx context.Context, db *DB, _ int) error {
			_, err := db.Differences(ctx, 0, now-int64(time.Hour))
			return err
		},
		"isolations":           isolations(IsolationFilter{}),
		"isolations, active":   isolations(IsolationFilter{Active: true}),
		"isolations of a host": isolations(IsolationFilter{Host: "h-3"}),
		"operations": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Orders(ctx, false, time.Unix(0, now), Page{})
			return err
		},
		"audit": func(ctx context.Context, db *DB, i int) error {
			_, _, err := db.Audit(ctx, uint64(i), 500)
			return err
		},
		"incidents since a year": func(ctx context.Context, db *DB, _ int) error {
			_, _, err := db.Incidents(ctx, IncidentFilter{Since: 1}, Page{})
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
	if err := db.Update(1, func(tx *Tx) error { return tx.populate(hosts, findings, now) }); err != nil {
		t.Fatal(err)
	}
	return db, now
}

// TestFill fills the state of a node that stands still, behind the back of its log: what
// 'vedette-bench -only reads' asks a real node for, and what '-only restore' makes a backup of.
func TestFill(t *testing.T) {
	path, hosts, findings := os.Getenv("VEDETTE_FILL"), 0, 0
	if path == "" {
		t.Skip("SKIP: needs VEDETTE_FILL, the state.db of a stopped node, which it fills as VEDETTE_READS says, or to -size-mib")
	}
	db := open(t, path)
	db.chain.off = true
	behind := func(fill func(*Tx) error) {
		t.Helper()
		tx := &Tx{db: db}
		for _, step := range []func() error{
			func() error { _, err := tx.exec("BEGIN IMMEDIATE"); return err },
			func() error { return fill(tx) },
			tx.settle,
			func() error { _, err := tx.exec("COMMIT"); return err },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if *sizeMiB > 0 {
		made := uint64(0)
		inOrder := func() []byte { // in another order each would write a page of its own
			made++
			return append(binary.BigEndian.AppendUint64(nil, made), randomBytes(8)...)
		}
		for sizeOf(t, path) < int64(*sizeMiB)<<20 {
			behind(func(tx *Tx) error { return tx.ballast(20_000, 512, inOrder) })
		}
		return
	}
	if _, err := fmt.Sscan(os.Getenv("VEDETTE_READS"), &hosts, &findings); err != nil {
		t.Fatal(err)
	}
	behind(func(tx *Tx) error { return tx.populate(hosts, findings, time.Now().UnixNano()) })
}

func (tx *Tx) populate(hosts, findings int, now int64) error {
	body, err := encode(&sensorv1.Finding{Id: "f", Title: strings.Repeat("what was seen ", 30), Score: 50, Severity: "medium", Time: now, Reason: "it was not seen before"})
	if err != nil {
		return err
	}
	for i := range hosts {
		if err := tx.AddHost(fmt.Sprintf("h-%d", i), &sensorv1.HostFacts{Name: fmt.Sprintf("web-%d", i), Os: "Debian GNU/Linux 13", Kernel: "6.12.0", Addresses: []string{"192.0.2.1", "2001:db8::1"},
			Labels: map[string]string{"site": fmt.Sprintf("s-%d", i%50)}}, map[string]string{"role": "web"}, now); err != nil {
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
	if _, err := tx.exec(`WITH RECURSIVE i(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM i WHERE i < ?1 - 1)
		INSERT INTO findings (id, host, idx, time, stored_at, storyline, disposition, incident, body)
		SELECT 'f-' || i, 1 + i % ?2, i / 10, ?3 - (?1 - i) * (60000000000 / ?2), ?3 - (?1 - i) * (60000000000 / ?2), 's-' || (i / 5), 'new',
			CASE i % 1000 WHEN 0 THEN 'i-' || (i / 1000 % 50) ELSE '' END, ?4 FROM i`, int64(findings), int64(hosts), now, body); err != nil {
		return err
	}
	return tx.crowd(int64(hosts), int64(findings), now)
}

// crowd fills the other tables of a large fleet that is not new: each host's health and losses, an order for
// one in ten that is over, incidents, and the audit.
func (tx *Tx) crowd(hosts, findings, now int64) error {
	health, err := encode(&sensorv1.Health{EventsTotal: 1e6, EventsLost: 3, Baseline: &sensorv1.BaselineState{Behaviours: 500, Known: 480, Confidence: 0.9}})
	if err != nil {
		return err
	}
	incident, err := encode(&raftv1.Incident{Id: "i", Status: "open", Title: strings.Repeat("a server was broken into ", 8), Account: strings.Repeat("what happened ", 100)})
	if err != nil {
		return err
	}
	upTo := func(n int64) string {
		return fmt.Sprintf("WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < %d) ", n)
	}
	for _, q := range []struct {
		text string
		args []val
	}{
		{"UPDATE hosts SET health = ?, connected = 1, last_seen = ?, node = 'n1', address = '192.0.2.1:4000', isolation = CASE n % 50 WHEN 0 THEN 'applied' WHEN 1 THEN 'failed' ELSE 'none' END", []val{health, now}},
		{upTo(hosts) + "INSERT INTO losses SELECT i, 'ring', 'full', 3, ? FROM i", []val{now}},
		{upTo(findings/100+1) + "INSERT INTO incidents (id, status, last_seen, body) SELECT 'x-' || i, CASE i % 10 WHEN 0 THEN 'open' ELSE 'closed' END, ?1 - i * 60000000000, ?2 FROM i", []val{now, incident}},
		{upTo(hosts/10+1) + "INSERT INTO operations (id, nonce, action, requested_by, requested_at, reason, signed) SELECT 'op-' || i, CAST('n' || i AS BLOB), 1, 'alice', ?, 'drill', x'' FROM i", []val{now}},
		{upTo(hosts) + "INSERT INTO isolations (operation, host, state, lease_expires, applied_at, self_test, detail) SELECT 1 + i / 10, i, CASE i % 100 WHEN 0 THEN 2 WHEN 1 THEN 5 WHEN 2 THEN 1 ELSE 3 END, ?, 0, '', '' FROM i", []val{now}},
		{upTo(findings/10+1) + "INSERT INTO audit (time, actor, action, subject, detail, previous, hash) SELECT ?, 'operator:alice', 'isolate', 'h-1', 'op-1', x'00', x'01' FROM i", []val{now}},
	} {
		if _, err := tx.exec(q.text, q.args...); err != nil {
			return err
		}
	}
	tx.db.hot = newHot()
	return nil
}

// Ensure no list reads a large table for the page that it answers: it begins where an
// index says. A list without a filter walks along the row numbers and stops.
func TestReadsUseIndexes(t *testing.T) {
	db, now := filled(t, 20, 2000)
	for name, want := range map[string][]string{
		"findings of a host":          {"findings_host"},
		"findings of an hour":         {"COVERING INDEX findings_stored (stored_at>?)", "rowid>? AND rowid<?"},
		"hosts by label":              {"COVERING INDEX host_labels_value (key=? AND value=? AND host>?)", "hosts USING INTEGER PRIMARY KEY (rowid=?)"},
		"hosts by two labels":         {"COVERING INDEX host_labels_value (key=? AND value=? AND host>?)", "o EXISTS USING PRIMARY KEY (host=? AND key=?)"},
		"hosts by id":                 {"hosts USING INTEGER PRIMARY KEY (rowid=?)", "h USING COVERING INDEX sqlite_autoindex_hosts_1 (id=?)", "h USING COVERING INDEX hosts_name (name=?)"},
		"hosts by id and label":       {"COVERING INDEX host_labels_value (key=? AND value=? AND host=?)"},
		"isolations of a host":        {"isolations_host (host=? AND n<?)"},
		"isolations, active":          {"isolations_active"},
		"status, what waits":          {"operations_open"},
		"status, nodes that differed": {"audit_differed"},
		"audit":                       {"rowid>?"},
		"findings of a storyline":     {"findings_storyline"},
		"findings of an incident":     {"findings_incident"},
		"incidents":                   {"incidents_status"},
		"incidents of an hour":        {"COVERING INDEX incidents_seen (last_seen>?)", "rowid>? AND rowid<?"},
		"status":                      {"COVERING INDEX findings_stored", "isolations_host (host=?)", "isolations_active", "COVERING INDEX incidents_status (status=?)"},
		"campaigns":                   {"campaigns_status"},
		"campaigns of an hour":        {"COVERING INDEX campaigns_seen (last_seen>?)", "rowid>? AND rowid<?"},
		"sessions at a node":          {"hosts_node (node=?)"},
		"how usual an object is":      {"behaviours_object (kind=? AND object=?)"},
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
			// What somebody named is few, and is put together from ids and names.
			if strings.Contains(step, "TEMP B-TREE FOR ORDER BY") && !strings.Contains(whole, "MERGE (UNION)") {
				t.Errorf("%s sorts:\n%s", name, whole)
			}
			for _, table := range []string{"findings", "f", "sightings", "behaviours", "incidents", "flows", "audit", "isolations", "i", "operations", "o", "l", "h"} {
				if step == "SCAN "+table {
					t.Errorf("%s reads all of a table:\n%s", name, whole)
				}
			}
		}
	}
}

// BenchmarkReads prints the 99th percentile of each read, and how much processor one takes, which other
// work on the machine does not change. VEDETTE_READS says "hosts
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
			before := processor()
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
			b.ReportMetric(float64((processor()-before).Microseconds())/1000/float64(len(took)), "processor-ms")
		})
	}
}
