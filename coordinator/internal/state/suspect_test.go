package state_test

import (
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure a sensor's conduct becomes one finding about its host a day, whoever saw it.
func TestSuspectSensor(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	about := func(host, conduct string, day int64) *raftv1.Command {
		cmd := command(&raftv1.SuspectSensor{Host: host, Conduct: conduct, Detail: "exactly so"})
		cmd.Time += day * 24 * 3600e9
		return cmd
	}
	l.want(state.RejectUnknownHost, about("h-2", state.SuspectMalformed, 0))
	l.want(state.RejectInvalid, about("h-1", "rudeness", 0))
	for _, day := range []int64{0, 0, 1} {
		for _, conduct := range state.Conducts() {
			l.want("", about("h-1", conduct, day))
		}
	}
	kinds := l.kinds()
	if got, want := strings.Count(kinds, "h-1 "+state.KindSuspect), 2*len(state.Conducts()); got != want {
		t.Errorf("%d findings, want %d: %s", got, want, kinds)
	}
}
