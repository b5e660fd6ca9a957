package meter

import (
	"sync"

	armon "github.com/armon/go-metrics"
	hashicorp "github.com/hashicorp/go-metrics"
	"github.com/prometheus/client_golang/prometheus"
)

// raft reports to hashicorp/go-metrics, its write-ahead log to armon/go-metrics, an
// older module with the same content. Both have a sink of ours that knows what it
// passes on, by a table: what a new version of a library adds reaches nobody before
// it is written here and documented. Labels, which hold the nodes' names, are left out.

// sink takes both libraries' reports. Its methods are the interfaces of theirs.
type sink struct {
	adds     map[string]prometheus.Counter
	samples  map[string]sample
	exported []prometheus.Collector
}

// sample is where a library's sample goes, and what makes it our unit.
type sample struct {
	to    interface{ Observe(float64) }
	scale float64
}

// latest is a gauge that is observed.
type latest struct{ prometheus.Gauge }

// Observe implements sample.to.
func (l latest) Observe(v float64) { l.Set(v) }

const milliseconds = 1e-3

func (s *sink) counter(key, name, help, label, value string) {
	opts := prometheus.CounterOpts{Name: name, Help: help}
	if label != "" {
		opts.ConstLabels = prometheus.Labels{label: value}
	}
	c := prometheus.NewCounter(opts)
	s.adds[key] = c
	s.exported = append(s.exported, c)
}

func (s *sink) time(key, name, help string) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds})
	s.samples[key] = sample{h, milliseconds}
	s.exported = append(s.exported, h)
}

func (s *sink) saturation(key, thread string) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "vedette_raft_thread_saturation", ConstLabels: prometheus.Labels{"thread": thread},
		Help: "Share of its time that a thread of raft is at work: at 1 it is what limits the node."})
	s.samples[key] = sample{latest{g}, 1}
	s.exported = append(s.exported, g)
}

func newSink() *sink {
	return &sink{adds: map[string]prometheus.Counter{}, samples: map[string]sample{}}
}

// raft has one sink in a process, as its library has: several nodes in one process,
// which only tests have, show the sum.
var raft = sync.OnceValue(func() *sink {
	s := newSink()
	s.counter("raft.apply", "vedette_raft_applies_total", "Commands that raft was given as the leader.", "", "")
	s.counter("raft.barrier", "vedette_raft_barriers_total", "Barriers through the log, which linearizable reads ask for.", "", "")
	const becomes = "vedette_raft_transitions_total"
	const becomesHelp = "How often the node took a role in raft."
	s.counter("raft.state.leader", becomes, becomesHelp, "to", "leader")
	s.counter("raft.state.candidate", becomes, becomesHelp, "to", "candidate")
	s.counter("raft.state.follower", becomes, becomesHelp, "to", "follower")
	const ends = "vedette_raft_timeouts_total"
	const endsHelp = "Time-outs that end a leadership: as a follower the leader was not heard, as the leader no majority was."
	s.counter("raft.transition.heartbeat_timeout", ends, endsHelp, "of", "leader")
	s.counter("raft.transition.leader_lease_timeout", ends, endsHelp, "of", "majority")
	s.time("raft.commitTime", "vedette_raft_commit_seconds", "Time from an entry's dispatch at the leader until a majority has it.")
	s.time("raft.leader.dispatchLog", "vedette_raft_dispatch_seconds", "Time of the leader's own write of entries, fsync included.")
	s.time("raft.rpc.appendEntries", "vedette_raft_append_seconds", "Time in which a follower answers the leader's entries.")
	s.time("raft.rpc.appendEntries.storeLogs", "vedette_raft_store_seconds", "Time of a follower's write of entries, fsync included.")
	s.time("raft.replication.appendEntries.rpc", "vedette_raft_replication_seconds", "Time of the leader's calls that bring entries to followers.")
	s.time("raft.leader.lastContact", "vedette_raft_last_contact_seconds", "How long ago the leader heard of each follower, when it looks at its lease.")
	s.time("raft.snapshot.takeSnapshot", "vedette_snapshot_seconds", "Time of a snapshot as a whole.")
	s.time("raft.fsm.restore", "vedette_restore_seconds", "Time of a restore from a snapshot.")
	s.saturation("raft.thread.main.saturation", "main")
	s.saturation("raft.thread.fsm.saturation", "fsm")
	conf := hashicorp.DefaultConfig("")
	conf.EnableHostname, conf.EnableRuntimeMetrics = false, false
	// It fails only where it starts what reads the runtime.
	_, _ = hashicorp.NewGlobal(conf, &raftSink{s})
	return s
})

// sinks makes both libraries report to this node's figures.
func (m *Meter) sinks() {
	s := newSink()
	for key, f := range map[string]struct{ name, help string }{
		"log_appends":             {"vedette_wal_appends_total", "Writes of entries to the write-ahead log, an fsync each."},
		"log_entries_written":     {"vedette_wal_entries_written_total", "Entries written to the write-ahead log."},
		"log_entry_bytes_written": {"vedette_wal_written_bytes_total", "Bytes of entries written to the write-ahead log."},
		"log_entries_read":        {"vedette_wal_entries_read_total", "Entries read back from the write-ahead log: those that were not in memory any more."},
		"log_entry_bytes_read":    {"vedette_wal_read_bytes_total", "Bytes of entries read back from the write-ahead log."},
		"segment_rotations":       {"vedette_wal_segment_rotations_total", "Segments of the write-ahead log that were begun."},
		"head_truncations":        {"vedette_wal_head_truncations_total", "Entries cut off the head of the write-ahead log, behind a snapshot."},
		"tail_truncations":        {"vedette_wal_tail_truncations_total", "Entries cut off the tail of the write-ahead log: they were never committed."},
		"stable_sets":             {"vedette_wal_stable_sets_total", "Writes of raft's term and vote."},
	} {
		s.counter(key, f.name, f.help, "", "")
	}
	conf := armon.DefaultConfig("")
	conf.EnableHostname, conf.EnableRuntimeMetrics = false, false
	m.wal, _ = armon.New(conf, &walSink{s}) // as above
	m.registry.MustRegister(s.exported...)
	m.registry.MustRegister(raft().exported...)
}

// WAL is where the write-ahead log of this node reports to.
func (m *Meter) WAL() *armon.Metrics { return m.wal }

// maxKey is more than the longest key that is passed on; a longer one is cut and unknown.
const maxKey = 64

// lookUp finds a key without making a string of it: raft reports for every entry.
func lookUp[T any](in map[string]T, key []string) (T, bool) {
	var buf [maxKey]byte
	b := buf[:0]
	for i, part := range key {
		if i > 0 {
			b = append(b, '.')
		}
		b = append(b, part...)
	}
	v, ok := in[string(b)]
	return v, ok
}

// SetGauge drops it: no gauge of theirs says what ours do not.
func (s *sink) SetGauge([]string, float32) {}

func (s *sink) IncrCounter(key []string, v float32) {
	if c, ok := lookUp(s.adds, key); ok && v > 0 {
		c.Add(float64(v))
	}
}

func (s *sink) AddSample(key []string, v float32) {
	if o, ok := lookUp(s.samples, key); ok {
		o.to.Observe(float64(v) * o.scale)
	}
}

func (s *sink) EmitKey([]string, float32) {}

// raftSink and walSink differ in whose labels they leave out.
type raftSink struct{ *sink }

func (s *raftSink) SetGaugeWithLabels(key []string, v float32, _ []hashicorp.Label) {
	s.SetGauge(key, v)
}

func (s *raftSink) IncrCounterWithLabels(key []string, v float32, _ []hashicorp.Label) {
	s.IncrCounter(key, v)
}

func (s *raftSink) AddSampleWithLabels(key []string, v float32, _ []hashicorp.Label) {
	s.AddSample(key, v)
}

type walSink struct{ *sink }

func (s *walSink) SetGaugeWithLabels(key []string, v float32, _ []armon.Label) { s.SetGauge(key, v) }

func (s *walSink) IncrCounterWithLabels(key []string, v float32, _ []armon.Label) {
	s.IncrCounter(key, v)
}

func (s *walSink) AddSampleWithLabels(key []string, v float32, _ []armon.Label) { s.AddSample(key, v) }
