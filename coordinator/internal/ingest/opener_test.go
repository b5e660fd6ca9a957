package ingest

import (
	"context"
	"fmt"
	"slices"
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

// Ensure who left while it waited for company is not brought into the log, and the others are.
func TestAbandonedOpenings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &openLog{}
		o := newOpener(Config{NodeID: "n1", Log: log, CommitTimeout: 4 * time.Second, Now: time.Now})
		come(t, o, []string{"h-0"}, 0) // the others wait behind its entry
		ctx, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for i := range 3 {
			waiting.Go(func() {
				at := t.Context()
				if i != 1 {
					at = ctx
				}
				if b := o.begin(at, &raftv1.HostSession{Host: fmt.Sprint("h-", i+1), Connected: true}); (b.err == nil) != (i == 1) {
					t.Errorf("h-%d: %+v", i+1, b)
				}
			})
		}
		synctest.Wait()
		leave()
		waiting.Wait()
		<-time.After(openEvery)
		for range 2 { // with nobody else there is no entry
			gone, leave := context.WithCancel(t.Context())
			leave()
			o.begin(gone, &raftv1.HostSession{Host: "h-9", Connected: true})
		}
		<-time.After(openEvery)
		o.stop()
		if want := []int{1, 1}; !slices.Equal(log.entries, want) {
			t.Errorf("entries of %v sessions, want %v", log.entries, want)
		}
	})
}

// Ensure nobody hears of a session's begin before its fate is known, however soon it leaves:
// what is told of its end comes behind it.
func TestOpeningUnderWayIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = time.Second
		log := &fakeLog{slow: slow}
		o := newOpener(Config{NodeID: "n1", Log: log, CommitTimeout: 4 * time.Second, Now: time.Now})
		ctx, leave := context.WithTimeout(t.Context(), slow/10)
		defer leave()
		began := time.Now()
		if b := o.begin(ctx, &raftv1.HostSession{Host: "h-1", Connected: true}); b.err != nil || time.Since(began) < slow {
			t.Errorf("after %s: %+v", time.Since(began), b)
		}
		o.stop()
	})
}
