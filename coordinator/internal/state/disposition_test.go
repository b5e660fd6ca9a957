package state_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func disposed(t testing.TB, id, host, incident string, malicious bool) *sensorv1.SignedDisposition {
	t.Helper()
	return disposedAt(t, id, host, incident, malicious, now, now+1e12)
}

func disposedAt(t testing.TB, id, host, incident string, malicious bool, given, end int64) *sensorv1.SignedDisposition {
	t.Helper()
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&sensorv1.Disposition{Id: id, ClusterId: "c-1", Host: host, Incident: incident,
		Malicious: malicious, Findings: []string{host + "-1"}, Operator: "hal", IssuedAt: given, NotAfter: end})
	if err != nil {
		t.Fatal(err)
	}
	return &sensorv1.SignedDisposition{Payload: payload}
}

// Ensure hosts are told of an incident what its record says and no other thing, wait for it until they answered, and
// that it is in the audit both times; a request that comes again adds nothing.
func TestPutDispositions(t *testing.T) {
	l := newLog(t)
	l.want("", command(&raftv1.InitCluster{ClusterId: "c-1"}))
	l.host("h-1")
	l.host("h-2")
	put := func(all ...*sensorv1.SignedDisposition) *raftv1.Command {
		return command(&raftv1.PutDispositions{Dispositions: all})
	}
	waiting := func(host string, want int) {
		t.Helper()
		if got, err := l.db.PendingDispositions(t.Context(), host, now); err != nil || len(got) != want {
			t.Errorf("%d wait for %s, want %d (%v)", len(got), host, want, err)
		}
	}
	l.want(state.RejectUnknownIncident, put(disposed(t, "dsp-1", "h-1", "inc-1", false)))
	l.want("", batch("h-1", 0, 1))
	l.want("", batch("h-2", 0, 1))
	l.want("", command(&raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-1", Findings: []string{"h-1-1"}}}))
	l.want(state.RejectInvalid, put(disposed(t, "dsp-1", "h-1", "inc-1", false)))
	l.want("", command(&raftv1.CloseIncident{Id: "inc-1", Disposition: "benign", Reason: "known"}))
	l.want(state.RejectInvalid, put(disposed(t, "dsp-1", "h-1", "inc-1", false), disposed(t, "dsp-2", "h-2", "inc-1", true)))
	waiting("h-1", 0)
	l.want(state.RejectInvalid, put(disposed(t, "dsp-2", "h-2", "inc-1", false))) // its finding is in no incident
	l.want("", command(&raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-2", Findings: []string{"h-2-1"}}}))
	l.want("", command(&raftv1.CloseIncident{Id: "inc-2", Disposition: "benign", Reason: "known"}))
	l.want(state.RejectInvalid, put(disposed(t, "dsp-2", "h-2", "inc-1", false))) // in another's
	l.want("", put(disposed(t, "dsp-1", "h-1", "inc-1", false), disposed(t, "dsp-2", "h-2", "inc-2", false), disposed(t, "dsp-3", "h-9", "inc-1", false)))
	l.want("", put(disposed(t, "dsp-1", "h-2", "inc-2", false))) // its id was used: nothing happens
	waiting("h-1", 1)
	waiting("h-2", 1)
	many := make([]*sensorv1.SignedDisposition, state.MaxDispositions+1)
	for i := range many {
		many[i] = disposed(t, fmt.Sprint("dsp-m", i), "h-1", "inc-1", false)
	}
	l.want(state.RejectInvalid, put(many...))
	l.want(state.RejectInvalid, put())
	for _, times := range [][2]int64{{now + 1e12, now + 2e12}, {now - 2e12, now}, {now, now + 1<<60}} {
		l.want(state.RejectInvalid, put(disposedAt(t, "dsp-t", "h-1", "inc-1", false, times[0], times[1])))
	}
	l.want(state.RejectInvalid, put(&sensorv1.SignedDisposition{Payload: []byte("x")}))

	answer := func(host string, with *sensorv1.Unlearnt) *raftv1.Command {
		return order(&raftv1.UnlearntBy{Host: host, Unlearnt: with})
	}
	l.want("", answer("h-2", &sensorv1.Unlearnt{Id: "dsp-1", Behaviours: 9})) // not its own: nothing happens
	waiting("h-1", 1)
	l.want("", answer("h-1", &sensorv1.Unlearnt{Id: "dsp-1", Behaviours: 1}))
	l.want("", answer("h-1", &sensorv1.Unlearnt{Id: "dsp-1", Behaviours: 5}))
	waiting("h-1", 0)
	rows, err := l.db.Dispositions(t.Context(), "inc-1")
	if err != nil || len(rows) != 1 || rows[0].Findings != 1 || rows[0].AnsweredAt != now {
		t.Errorf("%+v, %v", rows, err)
	}
	entries, _, err := l.db.Audit(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, e := range entries {
		if strings.HasPrefix(e.GetAction(), "dispos") {
			said = append(said, e.GetAction()+" "+e.GetSubject())
		}
	}
	if got := strings.Join(said, ", "); got != "disposition h-1, disposition h-2, disposed h-1" {
		t.Errorf("the audit says %s", got)
	}
	for i := range 70 { // one host's wait is bounded, and what was told stays
		l.want("", put(disposed(t, fmt.Sprintf("dsp-w%d", i), "h-1", "inc-1", false)))
	}
	waiting("h-1", 64)
	l.want("", command(&raftv1.RemoveHost{Host: "h-2", Reason: "gone"}))
	if rows, err := l.db.Dispositions(t.Context(), "inc-2"); err != nil || len(rows) != 0 {
		t.Errorf("of a host that is gone: %+v, %v", rows, err)
	}
}
