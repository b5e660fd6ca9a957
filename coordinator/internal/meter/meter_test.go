package meter

import (
	"context"
	"strings"
	"testing"

	hashicorp "github.com/hashicorp/go-metrics"
)

// Ensure a label never gets a value that is not foreseen, whoever says it.
func TestLabelsAreBounded(t *testing.T) {
	m := New("ingest")
	codes := m.Choice("vedette_test_total", "x", "code", "known", Other)
	codes.Of("known").Inc()
	for _, hostile := range []string{"h-abc", "a\nb", ""} {
		codes.Of(hostile).Inc()
	}
	m.Choice("vedette_strict_total", "x", "code", "known").Of("unforeseen").Inc()
	m.Read(Cheap, func(_ context.Context, set Set) {
		set("vedette_asked", "known", 1)
		set("vedette_asked", "h-abc", 2)
		set("vedette_asked", "h-def", 3)
		set("vedette_asked", "", 4)       // it has a label
		set("vedette_strict", "h-abc", 5) // no value stands for it
		set("vedette_plain", "h-abc", 6)  // it has none
		set("vedette_unheard", "", 7)
	}, Family{Name: "vedette_asked", Help: "x", Label: "state", Values: []string{"known", Other}},
		Family{Name: "vedette_strict", Help: "x", Label: "state", Values: []string{"known"}}, Family{Name: "vedette_plain", Help: "x"})
	var got []string
	for line := range strings.Lines(m.Text()) {
		for _, name := range []string{"vedette_test", "vedette_strict", "vedette_asked", "vedette_plain", "vedette_unheard"} {
			if strings.HasPrefix(line, name) {
				got = append(got, strings.TrimSuffix(line, "\n"))
			}
		}
	}
	want := `vedette_asked{state="known"} 1
vedette_asked{state="other"} 5
vedette_strict_total{code="known"} 0
vedette_test_total{code="known"} 1
vedette_test_total{code="other"} 3`
	if strings.Join(got, "\n") != want {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}
}

// Ensure both libraries' reports reach the figures, and their labels and what is not in
// our table do not.
func TestSinks(t *testing.T) {
	m := New()
	hashicorp.IncrCounterWithLabels([]string{"raft", "apply"}, 3, []hashicorp.Label{{Name: "peer_id", Value: "node-1"}})
	hashicorp.AddSample([]string{"raft", "commitTime"}, 250) // ms
	hashicorp.AddSample([]string{"raft", "thread", "fsm", "saturation"}, .5)
	hashicorp.IncrCounter([]string{"raft", "replication", "heartbeat", "node-1"}, 1)
	hashicorp.SetGauge([]string{"raft", "peers"}, 3)
	m.WAL().IncrCounter([]string{"log_appends"}, 2)
	m.WAL().IncrCounter([]string{strings.Repeat("x", 2*maxKey)}, 2)
	text := m.Text()
	for _, want := range []string{
		"vedette_raft_applies_total 3\n", "vedette_raft_commit_seconds_sum 0.25\n", `vedette_raft_thread_saturation{thread="fsm"} 0.5` + "\n", "vedette_wal_appends_total 2\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the figures have no %q", want)
		}
	}
	if strings.Contains(text, "node-1") || strings.Contains(text, "peer") {
		t.Error("the figures have a library's label")
	}
	if other := New().Text(); strings.Contains(other, "vedette_wal_appends_total 2") {
		t.Error("a node's log is counted at another node of the process")
	}
}

// Ensure counting allocates nothing: it is done for every batch and every entry.
func TestCountingAllocatesNothing(t *testing.T) {
	m := New("ingest")
	key := []string{"raft", "replication", "appendEntries", "rpc"}
	s := raft()
	for name, count := range map[string]func(){
		"a counter":   func() { m.Batches.Inc(); m.Refused(Gap); m.Applied.Of("ingest").Inc() },
		"a histogram": func() { m.ApplySeconds.Observe(.003) },
		"a report":    func() { s.AddSample(key, 1) },
	} {
		if n := testing.AllocsPerRun(100, count); n > 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	m := New("ingest")
	for b.Loop() {
		m.Batches.Inc()
		m.BatchBytes.Add(700)
		m.Summaries.Add(1)
		m.AckSeconds.Observe(.003)
	}
}
