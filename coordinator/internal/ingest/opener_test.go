package ingest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// openLog knows the hosts below a number, and what it is told to of commands.
type openLog struct {
	fakeLog
	old     bool // a node of an older release is there
	entries []int
	asked   int
}

func (l *openLog) Propose(_ context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	answer := func(s *raftv1.HostSession) *raftv1.SessionBegun {
		if s.GetHost() == "h-unknown" {
			return &raftv1.SessionBegun{Rejected: state.RejectUnknownHost, Message: "who?"}
		}
		return &raftv1.SessionBegun{}
	}
	res := &raftv1.Result{Index: uint64(l.asked)} //nolint:gosec // a few
	if s := cmd.GetHostSession(); s != nil {
		l.entries = append(l.entries, 1)
		a := answer(s)
		res.Rejected, res.Message = a.GetRejected(), a.GetMessage()
		return res, nil
	}
	if l.old {
		return nil, fmt.Errorf("%w: node n2 runs an older release", consensus.ErrRefused)
	}
	l.entries = append(l.entries, len(cmd.GetBeginSessions().GetSessions()))
	for _, s := range cmd.GetBeginSessions().GetSessions() {
		res.Sessions = append(res.Sessions, answer(s))
	}
	return res, nil
}

// come has so many hosts come, each so long after the one before, and returns how long each
// waited.
func come(t *testing.T, o *opener, hosts []string, apart time.Duration) []begun {
	t.Helper()
	answers := make([]begun, len(hosts))
	var all sync.WaitGroup
	for i, host := range hosts {
		all.Go(func() {
			<-time.After(time.Duration(i) * apart)
			began := time.Now()
			answers[i] = o.begin(t.Context(), &raftv1.HostSession{Host: host, Connected: true})
			if waited := time.Since(began); waited > openEvery {
				t.Errorf("%s waited for %s", host, waited)
			}
		})
	}
	all.Wait()
	return answers
}

func TestSessionsShareEntries(t *testing.T) {
	hosts := make([]string, 60)
	for i := range hosts {
		hosts[i] = fmt.Sprint("h-", i)
	}
	hosts[30] = "h-unknown"
	for _, c := range []struct {
		name    string
		old     bool
		apart   time.Duration
		entries int
		asked   int
	}{
		{"a herd", false, 10 * time.Millisecond, 4, 4},       // the first at once, then each 200 ms
		{"one by one", false, time.Second, 60, 60},           // nobody waits
		{"an old node", true, 10 * time.Millisecond, 60, 61}, // asked once, then not for a minute
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &openLog{old: c.old}
				o := newOpener(Config{NodeID: "n1", Log: log, CommitTimeout: 4 * time.Second, Now: time.Now})
				answers := come(t, o, hosts, c.apart)
				o.stop()
				for i, a := range answers {
					if want := map[bool]string{true: state.RejectUnknownHost}[i == 30]; a.err != nil || a.rejected != want || a.index == 0 {
						t.Errorf("%s: %+v, want %q", hosts[i], a, want)
					}
				}
				sum := 0
				for _, n := range log.entries {
					sum += n
				}
				if sum != len(hosts) || len(log.entries) != c.entries || log.asked != c.asked {
					t.Errorf("%d sessions in entries of %v, %d proposals, want %d entries and %d proposals", sum, log.entries, log.asked, c.entries, c.asked)
				}
			})
		})
	}
}

func TestOpenerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpener(Config{NodeID: "n1", Log: &openLog{}, CommitTimeout: 4 * time.Second, Now: time.Now})
		if b := o.begin(t.Context(), &raftv1.HostSession{Host: "h-1"}); b.err != nil {
			t.Fatal(b.err)
		}
		waits := make(chan begun)
		go func() { waits <- o.begin(t.Context(), &raftv1.HostSession{Host: "h-2"}) }()
		synctest.Wait()
		o.stop()
		if b := <-waits; b.err == nil {
			t.Error("who waited when the node stopped was let in")
		}
		if b := o.begin(t.Context(), &raftv1.HostSession{Host: "h-3"}); b.err == nil {
			t.Error("who came after the stop was let in")
		}
	})
}
