package detect

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// ruleTarget is what deciding by all rules may take for one event.
const ruleTarget = 10 * time.Microsecond

// BenchmarkRules prints what it takes to find the rules that match an event of ordinary
// work, with the built-in rules alone and with those of the ecosystem: by the index, and
// by trying each rule of the event's kind.
func BenchmarkRules(b *testing.B) {
	work := ordinaryWork(1000)
	v := event.Verdict{Tracked: true, Known: true}
	for _, dir := range []string{"", ecosystem(b)} {
		e := engine(b, func(c *Config) { c.RulesDir = dir })
		name := "builtin"
		if dir != "" {
			name = "ecosystem"
		}
		// The processor's time is what counts, and other work on the machine does not change it much.
		report := func(b *testing.B, looked uint64, since time.Duration) {
			perEvent := (processor(b) - since) / time.Duration(b.N)
			b.ReportMetric(float64(perEvent.Nanoseconds()), "cpu-ns/event")
			b.ReportMetric(float64(looked)/float64(b.N), "conditions/event")
			b.ReportMetric(float64(e.Stats().Rules), "rules")
			b.ReportMetric(float64(ruleTarget.Nanoseconds()), "target-ns")
			if name == "ecosystem" && b.N > len(work) && perEvent > ruleTarget && strings.HasSuffix(b.Name(), "index") {
				b.Logf("%v an event, want %v", perEvent, ruleTarget)
			}
		}
		b.Run(name+"/index", func(b *testing.B) {
			b.ReportAllocs()
			before := e.looked()
			since := processor(b)
			for i := 0; b.Loop(); i++ {
				e.matching(work[i%len(work)], v)
			}
			report(b, e.looked()-before, since)
		})
		b.Run(name+"/each", func(b *testing.B) {
			looked, since := uint64(0), processor(b)
			for i := 0; b.Loop(); i++ {
				o := work[i%len(work)]
				set := e.sets[categoryOf(o.Event)]
				e.record.reset(o, v)
				if set == nil {
					continue
				}
				for _, r := range set.rules {
					looked++
					r.Match(&e.record)
				}
			}
			report(b, looked, since)
		})
		b.Run(name+"/settled", func(b *testing.B) {
			since := processor(b)
			for i := 0; b.Loop(); i++ {
				e.Settled(work[i%len(work)], v)
			}
			report(b, 0, since)
		})
		b.Run(name+"/evaluate", func(b *testing.B) {
			since := processor(b)
			for i := 0; b.Loop(); i++ {
				e.Evaluate(work[i%len(work)], v)
			}
			report(b, 0, since)
		})
	}
}

// processor is what this program has used.
func processor(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// looked counts the conditions that the index left to be evaluated.
func (e *Engine) looked() (n uint64) {
	for _, set := range e.sets {
		n += set.scratch.Looked
	}
	return n
}

// Ensure the index finds what trying each rule finds, and that nothing is allocated for it.
func TestIndexOnWork(t *testing.T) {
	e := engine(t, func(c *Config) { c.RulesDir = ecosystem(t) })
	v := event.Verdict{Tracked: true, Known: true}
	work := ordinaryWork(2000)
	found := 0
	for _, o := range work {
		set := e.sets[categoryOf(o.Event)]
		if set == nil {
			continue
		}
		var want []string
		e.record.reset(o, v)
		for _, r := range set.rules {
			if r.Match(&e.record) {
				want = append(want, r.id)
			}
		}
		var got []string
		for _, r := range e.matching(o, v) {
			got = append(got, r.id)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%v: got %v, want %v", o.Process.Argv, got, want)
		}
		found += len(want)
	}
	if found == 0 {
		t.Error("no rule matches any of it: the comparison says nothing")
	}
	for _, o := range work {
		e.matching(o, v)
	}
	quiet := func(o *event.Observation) bool { return len(e.matching(o, v)) == 0 }
	allocated := 0.0
	n := 0
	for _, o := range work {
		if quiet(o) {
			allocated += testing.AllocsPerRun(1, func() { e.matching(o, v) })
			n++
		}
	}
	t.Logf("%d matches in %d events; %.2f allocations for an event without one", found, len(work), allocated/float64(n))
}
