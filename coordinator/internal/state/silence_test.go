package state_test

import (
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// boots of kernels and processes.
var (
	kernel1, kernel2   = hash("kernel-1")[:16], hash("kernel-2")[:16]
	process1, process2 = hash("process-1")[:16], hash("process-2")[:16]
)

func connect(host string, session uint64, kernel, process []byte) *raftv1.Command {
	return command(&raftv1.HostSession{Host: host, Node: "n1", Connected: true, Session: session, KernelBoot: kernel, Instance: process})
}

func ends(host, node, how string, session uint64) *raftv1.Command {
	return command(&raftv1.SessionsEnded{Node: node, Sessions: []*raftv1.SessionEnd{{Host: host, Session: session, How: how, Heard: now - 9e9}}})
}

func silence(id, rule string, hosts ...string) *raftv1.Command {
	in := &raftv1.RaiseSilence{Finding: &sensorv1.Finding{Id: id, Time: now, Kind: state.KindSilent, RuleId: rule, Storyline: "silence"}}
	for _, h := range hosts {
		in.Hosts = append(in.Hosts, &raftv1.SilentHost{Host: h, Session: 1})
	}
	return command(in)
}

func (l *log) stateOf(host, want string) {
	l.t.Helper()
	if h, err := l.db.Host(l.t.Context(), host); err != nil || h.GetState() != want {
		l.t.Errorf("%s is %q (%v), want %q", host, h.GetState(), err, want)
	}
}

func (l *log) kinds() string {
	l.t.Helper()
	rows, _, err := l.db.Findings(l.t.Context(), store.FindingFilter{}, store.Page{})
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for i := range rows {
		f := rows[len(rows)-1-i]
		out = append(out, f.GetHost()+" "+f.GetFinding().GetKind()+": "+f.GetFinding().GetTitle())
	}
	return strings.Join(out, "; ")
}

// Ensure a session's end is taken from the node that had it, for the newest session, once.
func TestSessionsEnded(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	l.want("", connect("h-1", 2, kernel1, process1))
	l.want("", ends("h-1", "n1", "unheard", 1))
	l.want("", ends("h-1", "n2", "unheard", 2))
	l.want("", ends("h-1", "n1", "nonsense", 2))
	l.want("", ends("h-9", "n1", "unheard", 2))
	l.stateOf("h-1", "online")
	l.want("", ends("h-1", "n1", "stopped", 2))
	l.stateOf("h-1", "stopped")
	l.want("", ends("h-1", "n1", "unheard", 2))
	l.stateOf("h-1", "stopped")
	if missing, err := l.db.Unheard(t.Context(), 10); err != nil || len(missing) != 0 {
		t.Errorf("missing: %v, %v; a stopped host is not", missing, err)
	}
	l.want("", connect("h-1", 3, kernel1, process2))
	l.stateOf("h-1", "online")
	l.want("", command(&raftv1.SessionsEnded{Node: "n2", All: true}))
	l.stateOf("h-1", "online")
	l.want("", command(&raftv1.SessionsEnded{Node: "n1", All: true}))
	l.stateOf("h-1", "silent")
	if missing, err := l.db.Unheard(t.Context(), 10); err != nil || len(missing) != 1 || missing[0].How != "node" || missing[0].Session != 3 {
		t.Errorf("missing: %+v, %v", missing, err)
	}
	l.want(state.RejectInvalid, command(&raftv1.SessionsEnded{}))
}

// Ensure a silence is told once for a session, never of a host that has come back, and
// that its end says what came back.
func TestSilence(t *testing.T) {
	for name, tt := range map[string]struct {
		kernel, process []byte
		want            string
	}{
		"frozen":    {kernel1, process1, "back after 9 s, the same process"},
		"restarted": {kernel1, process2, "back after 9 s, its sensor restarted"},
		"rebooted":  {kernel2, process2, "back after 9 s, rebooted"},
		"mute":      {nil, nil, "back after 9 s"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			l.host("h-1")
			l.want("", connect("h-1", 1, kernel1, process1))
			l.want(state.RejectNotSilent, silence("sil-1", "", "h-1"))
			l.want("", ends("h-1", "n1", "unheard", 1))
			l.want("", silence("sil-1", "", "h-1"))
			l.want(state.RejectNotSilent, silence("sil-1", "", "h-1"))
			l.want(state.RejectNotSilent, silence("sil-2", "", "h-1"))
			l.want("", connect("h-1", 2, tt.kernel, tt.process))
			l.want(state.RejectNotSilent, silence("sil-1", "", "h-1"))
			l.want("", connect("h-1", 3, tt.kernel, tt.process)) // no second return
			want := "h-1 silent: ; h-1 returned: The sensor is " + tt.want
			if got := l.kinds(); got != want {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
	}
	l := newLog(t)
	l.host("h-1")
	l.want(state.RejectInvalid, silence("sil-1", ""))
	l.want(state.RejectInvalid, silence("other", "", "h-1"))
	l.want(state.RejectNotSilent, silence("sil-1", "", "h-9"))
}

// Ensure many that fall silent together are one finding, and one return when the last is back.
func TestManySilent(t *testing.T) {
	l := newLog(t)
	hosts := []string{"h-1", "h-2", "h-3"}
	for _, h := range hosts {
		l.host(h)
		l.want("", connect(h, 1, kernel1, process1))
		l.want("", ends(h, "n1", "unheard", 1))
	}
	l.want("", connect("h-2", 2, kernel1, process1)) // back before it was told
	l.want("", silence("sil-m", state.RuleManySilent, hosts...))
	if missing, err := l.db.Unheard(t.Context(), 10); err != nil || len(missing) != 0 {
		t.Errorf("missing after it was told: %+v, %v", missing, err)
	}
	l.want("", connect("h-1", 2, kernel1, process1))
	if got := l.kinds(); got != "h-1 silent: " {
		t.Errorf("one is back of two: %q", got)
	}
	l.want("", connect("h-3", 2, kernel1, process1))
	if got, want := l.kinds(), "h-1 silent: ; h-1 returned: All hosts that had fallen silent are back"; got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// Ensure a host that is online and does not see is shown and counted as blind, with its reason.
func TestBlind(t *testing.T) {
	l := newLog(t)
	l.host("h-1")
	l.want("", connect("h-1", 1, kernel1, process1))
	health := func(sequence uint64, h *sensorv1.Health) *raftv1.Command {
		return command(&raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: "h-1", Batch: &sensorv1.Batch{Boot: hash("h-1")[:16], Prev: sequence - 1,
			Records: []*sensorv1.Record{{Sequence: sequence, Time: now, Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{Health: h}}}}}}}})
	}
	l.want("", health(1, &sensorv1.Health{Blind: true, BlindReason: "its link was detached"}))
	l.stateOf("h-1", "blind")
	q, err := l.db.Quiet(t.Context(), 0, 0)
	if err != nil || q.Blind != 1 || len(q.BlindNames) != 1 || q.BlindNames[0] != "name-h-1: its link was detached" {
		t.Errorf("quiet: %+v, %v", q, err)
	}
	l.want("", health(2, &sensorv1.Health{}))
	l.stateOf("h-1", "online")
	l.want("", health(3, &sensorv1.Health{Blind: true}))
	l.want("", ends("h-1", "n1", "unheard", 1))
	l.stateOf("h-1", "silent")
}
