package meter

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Family is a figure that is asked for when somebody reads. One whose name ends in
// _total is a counter, every other one a gauge.
type Family struct {
	Name, Help string
	// Label is empty for a figure without one; Values are all that it may have. Of one
	// that is not among them the figure is added to Other's, if that is, or left out.
	Label  string
	Values []string
}

// Set gives the value of a family; label is empty where the family has none.
type Set func(name, label string, value float64)

const (
	// readTime bounds one asking; what is not there by then is left out.
	readTime = 3 * time.Second
)

// How long an answer stands, so that whoever reads more often, or two who read, cost
// the node nothing more: Cheap reads memory, Costly whole tables.
const (
	Cheap  = 2 * time.Second
	Costly = 15 * time.Second
)

// Read has the families read when the figures are asked for, and keep is over. What read does not set
// is left out: no figure is better than a wrong one.
func (m *Meter) Read(keep time.Duration, read func(ctx context.Context, set Set), families ...Family) {
	r := &reading{keep: keep, read: read, families: make(map[string]family, len(families))}
	for _, f := range families {
		var labels []string
		if f.Label != "" {
			labels = []string{f.Label}
		}
		kind := prometheus.GaugeValue
		if strings.HasSuffix(f.Name, "_total") {
			kind = prometheus.CounterValue
		}
		r.families[f.Name] = family{Family: f, desc: prometheus.NewDesc(f.Name, f.Help, labels, nil), kind: kind}
	}
	m.registry.MustRegister(r)
}

type family struct {
	Family
	desc *prometheus.Desc
	kind prometheus.ValueType
}

type reading struct {
	keep     time.Duration
	read     func(context.Context, Set)
	families map[string]family

	mu   sync.Mutex // guards what follows, and lets one ask at a time
	at   time.Time
	kept []prometheus.Metric
}

// Describe implements prometheus.Collector.
func (r *reading) Describe(out chan<- *prometheus.Desc) {
	for _, f := range r.families {
		out <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (r *reading) Collect(out chan<- prometheus.Metric) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || time.Since(r.at) > r.keep {
		r.kept, r.at = r.ask(), time.Now()
	}
	for _, m := range r.kept {
		out <- m
	}
}

func (r *reading) ask() []prometheus.Metric {
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	type key struct{ name, label string }
	values := make(map[key]float64)
	r.read(ctx, func(name, label string, value float64) {
		f, known := r.families[name]
		if !known || (f.Label == "") != (label == "") {
			return
		}
		if f.Label != "" && !slices.Contains(f.Values, label) {
			if label = Other; !slices.Contains(f.Values, label) {
				return
			}
		}
		values[key{name, label}] += value
	})
	metrics := make([]prometheus.Metric, 0, len(values))
	for k, value := range values {
		f := r.families[k.name]
		if f.Label == "" {
			metrics = append(metrics, prometheus.MustNewConstMetric(f.desc, f.kind, value))
			continue
		}
		metrics = append(metrics, prometheus.MustNewConstMetric(f.desc, f.kind, value, k.label))
	}
	return metrics
}
