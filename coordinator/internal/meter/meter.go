// Package meter is what a node counts of itself, for Prometheus.
//
// Its one idea: a count is a field that whoever counts increments, an atomic addition
// and no more; what can be asked for is asked for when somebody reads, never while
// the node works. Every part of the coordinator may import it, it imports none.
//
// Invariant: the names and the values of every label are fixed in the program. No label
// holds what a host, an operator or a stranger wrote, so that nobody can make the
// figures grow. docs/metrics.md lists them all, and a test holds it to a running node.
package meter

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	armon "github.com/armon/go-metrics"
)

// Outcomes of a proposal.
const (
	Accepted  = "accepted"
	Rejected  = "rejected" // a rule of the state, the caller's mistake or a race
	NoLeader  = "no-leader"
	Uncertain = "uncertain"
	Failed    = "failed" // invalid, refused, or the node was stopping
)

// Why a batch was not taken.
const (
	Gap          = "gap"       // it did not follow what is stored: the sensor sends again
	Malformed    = "malformed" // the session is closed
	NotCommitted = "not-committed"
)

// Meter is a node's counts. Its fields are made by New and never replaced.
type Meter struct {
	// What sensors sent and the log took, at this node.
	Batches, BatchBytes, EventsLost              prometheus.Counter
	Summaries, Findings, Containments, FlowNotes prometheus.Counter
	batchesRefused                               *Choice
	// AckSeconds is from a batch's receipt to the log's answer.
	AckSeconds prometheus.Observer

	proposals *Choice
	// ProposedBytes are the sizes of the commands that this node proposed.
	ProposedBytes prometheus.Observer
	// ApplySeconds is one entry's transaction.
	ApplySeconds  prometheus.Observer
	LeaderChanges prometheus.Counter
	// Divergences are differences between this node's state and that of others, by what
	// differed; Resyncs is how often it took theirs over.
	Divergences *Choice
	Resyncs     prometheus.Counter
	Applied     *Choice // by the kind of command

	registry *prometheus.Registry
	wal      *armon.Metrics
	started  time.Time
}

// New makes the counts of one node. commands are the kinds of command that a log has.
func New(commands ...string) *Meter {
	m := &Meter{registry: prometheus.NewRegistry(), started: time.Now()}
	m.Batches = m.counter("vedette_batches_accepted_total", "Batches of sensors that the log took.")
	m.BatchBytes = m.counter("vedette_batch_bytes_total", "Bytes of the batches that the log took.")
	m.EventsLost = m.counter("vedette_events_lost_total", "Events that sensors said they had lost, in the batches that the log took.")
	records := m.Choice("vedette_records_accepted_total", "Records in the batches that the log took.", "kind", "summary", "finding", "containment", "flow-note")
	m.Summaries, m.Findings = records.Of("summary"), records.Of("finding")
	m.Containments, m.FlowNotes = records.Of("containment"), records.Of("flow-note")
	m.batchesRefused = m.Choice("vedette_batches_refused_total", "Batches that were not taken.", "reason", Gap, Malformed, NotCommitted)
	m.AckSeconds = m.histogram("vedette_batch_ack_seconds", "Time from a batch's receipt to the log's answer.", seconds)
	m.proposals = m.Choice("vedette_proposals_total", "Commands that this node proposed.", "outcome", Accepted, Rejected, NoLeader, Uncertain, Failed)
	m.ProposedBytes = m.histogram("vedette_proposal_bytes", "Sizes of the commands that this node proposed.", prometheus.ExponentialBuckets(256, 4, 8))
	m.ApplySeconds = m.histogram("vedette_apply_seconds", "Time of the transaction that applies one log entry.", seconds)
	m.LeaderChanges = m.counter("vedette_leader_changes_total", "How often this node learnt of another leader.")
	m.Divergences = m.Choice("vedette_state_differences_total", "Times that this node's state differed from that of others at the same log index, by what was compared; damaged: its own check says so; undecided: no majority says which is right.", "what", "chain", "slice", "damaged", "undecided")
	m.Resyncs = m.counter("vedette_state_resyncs_total", "Times that this node took another node's state over because its own differed.")
	m.Applied = m.Choice("vedette_entries_applied_total", "Log entries that this node applied.", "command", append(commands, Other)...)
	m.sinks()
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// seconds suits what takes from a tenth of a millisecond to the time-outs of the link.
var seconds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Refused counts a batch that was not taken.
func (m *Meter) Refused(reason string) { m.batchesRefused.Of(reason).Inc() }

// Proposed counts a proposal by its outcome.
func (m *Meter) Proposed(outcome string) { m.proposals.Of(outcome).Inc() }

// Started is when the counts began.
func (m *Meter) Started() time.Time { return m.started }

func (m *Meter) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Meter) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

// Other stands for every value of a label that is not foreseen.
const Other = "other"

// Choice counts by a label whose values are known from the start: all of them are
// exported, at 0 too, and no other ever is.
type Choice struct {
	of    map[string]prometheus.Counter
	other prometheus.Counter
}

// Choice makes one.
func (m *Meter) Choice(name, help, label string, values ...string) *Choice {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	m.registry.MustRegister(vec)
	c := &Choice{of: make(map[string]prometheus.Counter, len(values))}
	for _, v := range values {
		c.of[v] = vec.WithLabelValues(v)
	}
	c.other = c.of[Other]
	if c.other == nil {
		c.other = prometheus.NewCounter(prometheus.CounterOpts{Name: name}) // not exported: no value is unforeseen
	}
	return c
}

// Of is the counter of a value, that of Other for one that is not foreseen.
func (c *Choice) Of(value string) prometheus.Counter {
	if counter, ok := c.of[value]; ok {
		return counter
	}
	return c.other
}

// Write writes all figures as text, as /metrics has them.
func (m *Meter) Write(w io.Writer) error {
	families, err := m.registry.Gather()
	if err != nil {
		return fmt.Errorf("gathering metrics: %w", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return fmt.Errorf("writing metrics: %w", err)
		}
	}
	return nil
}

// Text is what Write writes, or why it could not.
func (m *Meter) Text() string {
	var text strings.Builder
	if err := m.Write(&text); err != nil {
		return "# " + err.Error() + "\n"
	}
	return text.String()
}

// maxScrapes at once: a reader that asks again before it is answered waits in vain.
const maxScrapes = 2

// Handler answers a scrape.
func (m *Meter) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: 10 * time.Second})
}
