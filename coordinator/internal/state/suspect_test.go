package state_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
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
			cmd := about("h-1", conduct, day)
			if !state.FirstConduct(conduct) {
				l.want(state.RejectInvalid, cmd) // as nodes do that do not know it
				cmd.Body = &raftv1.Command_SuspectConduct{SuspectConduct: &raftv1.SuspectConduct{Sensor: cmd.GetSuspectSensor()}}
			}
			l.want("", cmd)
		}
	}
	kinds := l.kinds()
	if got, want := strings.Count(kinds, "h-1 "+state.KindSuspect), 2*len(state.Conducts()); got != want {
		t.Errorf("%d findings, want %d: %s", got, want, kinds)
	}
}

// Ensure the commands that tell of conducts take the words that they took when they were made, and
// no word that a later release adds: a node of an earlier one would make another state.
func TestConductsOfCommandsAreFrozen(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	defer state.AddConduct("later")()
	first := []string{"malformed", "time", "behaviour-flood", "volume"}
	second := append([]string{"clock", "sequence", "forged"}, first...)
	for _, conduct := range state.Conducts() {
		about := &raftv1.SuspectSensor{Host: "h-1", Conduct: conduct}
		for _, c := range []struct {
			cmd  *raftv1.Command
			have []string
		}{
			{command(about), first},
			{command(&raftv1.SuspectConduct{Sensor: about}), second},
		} {
			want := state.RejectInvalid
			if slices.Contains(c.have, conduct) {
				want = ""
			}
			l.want(want, c.cmd)
		}
	}
	if got := len(state.Conducts()); got != len(second)+1 {
		t.Errorf("%d conducts are known, want the %d of the commands and the later one", got, len(second))
	}
}

// Ensure it is known which names and kinds are coordinators'.
func TestForged(t *testing.T) {
	for id, want := range map[string]bool{"01JABCDEFGHJKMNPQRSTVWXYZ0": false, "": false, "h-1-9-3": false, "sil-x": true, "ret-x": true, "sus-x": true, "two-9": true} {
		if got := state.Forged(&sensorv1.Finding{Id: id, Kind: "rule"}); got != want {
			t.Errorf("a finding called %q is forged: %v, want %v", id, got, want)
		}
	}
	for kind, want := range map[string]bool{"rule": false, "new-exec": false, "blind": false, "tamper": false, "silent": true, "returned": true, "suspect-sensor": true, "two-places": true} {
		if got := state.Forged(&sensorv1.Finding{Id: "x", Kind: kind}); got != want {
			t.Errorf("a finding of kind %q is forged: %v, want %v", kind, got, want)
		}
	}
}
