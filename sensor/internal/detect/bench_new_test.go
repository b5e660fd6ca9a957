package detect

import (
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// BenchmarkNewExec is what it takes to judge an exec that is new and not told.
func BenchmarkNewExec(b *testing.B) {
	h := newHost()
	bash := h.process(nil, "/usr/bin/bash", "bash")
	o := h.exec(h.process(bash, "/usr/bin/newtool", "newtool"))
	e := engine(b)
	v := event.Verdict{Tracked: true, New: true, Surprise: 9, Behaviour: event.Behaviour{Key: event.BehaviourKey{1}, Subject: "/usr/bin/bash"}}
	b.ReportAllocs()
	for b.Loop() {
		e.Evaluate(o, v)
	}
}
