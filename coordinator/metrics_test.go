package coordinator_test

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md anew")

const metricsDoc = "../docs/metrics.md"

// figure is a metric as Prometheus' text has it.
type figure struct {
	name, kind, help string
	label            string
	values           []string
	samples          map[string]string // value by the label's value
}

var sampleLine = regexp.MustCompile(`^(\w+?)(_bucket|_sum|_count)?(?:\{(.*)\})? (\S+)$`)

// readFigures reads what a node exports; it is stricter than Prometheus.
func readFigures(t *testing.T, text string) map[string]*figure {
	t.Helper()
	figures := map[string]*figure{}
	var now *figure
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			now = &figure{name: name, help: help, samples: map[string]string{}}
			figures[name] = now
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, now.kind, _ = strings.Cut(rest, " ")
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(line, now.name) {
			t.Fatalf("no sample of %s: %q", now.name, line)
		}
		value := ""
		for pair := range strings.SplitSeq(m[3], ",") {
			label, v, _ := strings.Cut(pair, "=")
			if label == "" || label == "le" || label == "quantile" {
				continue
			}
			if v = strings.Trim(v, `"`); now.label != "" && now.label != label {
				t.Errorf("%s has the labels %s and %s", now.name, now.label, label)
			}
			now.label, value = label, v
			if !slices.Contains(now.values, v) {
				now.values = append(now.values, v)
			}
		}
		if now.kind != "histogram" || strings.HasPrefix(line, now.name+"_count") {
			now.samples[value] = m[4]
		}
	}
	return figures
}

// row is the figure's in the table.
func (f *figure) row() string {
	unit := ""
	for suffix, name := range map[string]string{"seconds": "seconds", "bytes": "bytes", "index": "log entries"} {
		if strings.HasSuffix(strings.TrimSuffix(f.name, "_total"), "_"+suffix) {
			unit = name
		}
	}
	labels := ""
	if f.label != "" {
		values := slices.Clone(f.values)
		slices.Sort(values)
		labels = "`" + f.label + "`: " + strings.Join(values, ", ")
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s |", f.name, f.kind, unit, labels, f.help)
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(raw)
}

// Ensure the table in docs/metrics.md is what a running node exports: each name, type,
// label with all its values, and meaning, and that the figures follow what happens.
func TestMetrics(t *testing.T) {
	c := startClusterOf(t, 1, func(cfg *coordinator.Config) { cfg.MetricsListen = fmt.Sprintf("127.0.0.1:%d", freePort(t)) })
	url := "http://" + c.nodes[0].cfg.MetricsListen
	members, err := c.api.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.api.NewNodes([]*sensorv1.NodeAddress{{Id: "n1", Address: members[0].GetAddress()}}, 24*time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.api.SignNodes(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	sensor := c.enrol(0)
	boot := newBoot()
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 0, finding(1, &sensorv1.Finding{Storyline: "1.1"}),
		&sensorv1.Record{Sequence: 2, Time: time.Now().UnixNano(), Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
			Losses: []*sensorv1.Loss{{Where: "ring:bulk", Cause: "full", Count: 7}}}}})
	session.wantAck(2)
	session.batch(boot, 9, finding(10, &sensorv1.Finding{Storyline: "1.1"}))
	session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetResume() != nil })

	code, text := get(t, url+"/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics answers %d: %s", code, text)
	}
	figures := readFigures(t, text)
	for name, want := range map[string]string{
		"vedette_batches_accepted_total": "1", "vedette_events_lost_total": "7", "vedette_batch_ack_seconds": "2", "vedette_sessions": "1",
		"vedette_enrolments_total": "1", "vedette_raft_has_leader": "1", "vedette_raft_members": "1", "vedette_ready": "1",
		"vedette_records_accepted_total/finding": "1", "vedette_records_accepted_total/summary": "1", "vedette_batches_refused_total/gap": "1",
		"vedette_hosts/online": "1", "vedette_raft_state/leader": "1", "vedette_entries_applied_total/put-signed-nodes": "1",
		"vedette_leader_changes_total": "1",
	} {
		name, label, _ := strings.Cut(name, "/")
		if f := figures[name]; f == nil || f.samples[label] != want {
			t.Errorf("%s %s: got %+v, want %s", name, label, f, want)
		}
	}
	// Both libraries' reports have come: raft's by one module, its log's by the other.
	for _, name := range []string{"vedette_raft_applies_total", "vedette_raft_commit_seconds", "vedette_wal_appends_total", "vedette_wal_written_bytes_total", "vedette_apply_seconds", "vedette_proposal_bytes"} {
		if f := figures[name]; f == nil || f.samples[""] == "0" || f.samples[""] == "" {
			t.Errorf("%s has counted nothing: %+v", name, f)
		}
	}
	var rows []string
	for _, f := range figures {
		if strings.Contains(text, sensor.id) {
			t.Fatalf("the figures name host %s", sensor.id)
		}
		if !strings.HasPrefix(f.name, "go_") && !strings.HasPrefix(f.name, "process_") {
			rows = append(rows, f.row())
		}
	}
	slices.Sort(rows)
	table := "| name | type | unit | label | meaning |\n|---|---|---|---|---|\n" + strings.Join(rows, "\n") + "\n"
	doc, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, documented, found := strings.Cut(string(doc), "| name |")
	if *update {
		if err := os.WriteFile(metricsDoc, []byte(before+table), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	documented = "| name |" + documented
	if !found || documented != table {
		for row := range strings.Lines(table) {
			if !strings.Contains(documented, row) {
				t.Errorf("exported, and not in docs/metrics.md like this: %s", row)
			}
		}
		for row := range strings.Lines(documented) {
			if !strings.Contains(table, row) {
				t.Errorf("in docs/metrics.md, and not exported like this: %s", row)
			}
		}
		t.Error("go test ./coordinator -run TestMetrics -update writes the table anew")
	}
}

// Ensure health and readiness say what is the matter and what to do, that operators have
// them by their certificate, and that nobody else has anything unless the node is told to.
func TestHealth(t *testing.T) {
	open := 0
	c := startClusterOf(t, 2, func(cfg *coordinator.Config) {
		if open++; open == 1 {
			cfg.MetricsListen = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		}
	})
	url := "http://" + c.nodes[0].cfg.MetricsListen
	if code, text := get(t, url+"/healthz"); code != http.StatusOK || text != "healthy\n" {
		t.Errorf("/healthz: %d %q", code, text)
	}
	if code, text := get(t, url+"/readyz"); code != http.StatusOK || !strings.HasPrefix(text, "ready: ") {
		t.Errorf("/readyz: %d %q", code, text)
	}
	if code, _ := get(t, url+"/vedette.operator.v1.OperatorService/GetStatus"); code != http.StatusNotFound {
		t.Errorf("the operators' API is on the open port: %d", code)
	}
	key, chain := c.key()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c.tls(key, chain)}}
	res, err := client.Get("https://" + c.nodes[1].cfg.OperatorListen + "/readyz")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("an operator asks: %v, %v", res, err)
	}
	_ = res.Body.Close()
	client.CloseIdleConnections()
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: c.tls(nil, nil)}}
	if res, err := stranger.Get("https://" + c.nodes[1].cfg.OperatorListen + "/metrics"); err == nil {
		t.Errorf("somebody without a certificate got %d", res.StatusCode)
	}
	c.nodes[1].stop()
	eventually(t, "a node without a leader is not ready", func() error {
		code, text := get(t, url+"/readyz")
		if code != http.StatusServiceUnavailable || !strings.Contains(text, "no leader") || !strings.Contains(text, "vedette status") {
			return fmt.Errorf("/readyz: %d %q", code, text)
		}
		return nil
	})
	if code, text := get(t, url+"/healthz"); code != http.StatusOK {
		t.Errorf("without a leader a node lives still: %d %q", code, text)
	}
}
