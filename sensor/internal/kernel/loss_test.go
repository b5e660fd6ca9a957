package kernel

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that what does not fit into a ring is counted to the last one.
func TestLossesAreExact(t *testing.T) {
	ns := newNetNS(t) // a scope of its own: nobody else's events
	needKernel(t)
	s, err := Open(Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}, CriticalRingBytes: 4096, BulkRingBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// Nobody reads while these are made.
	const execs = 40
	ns.do(func() {
		for range execs {
			cmd := exec.Command("/bin/true", strings.Repeat("a", 200))
			cmd.SysProcAttr = nil
			run(t, cmd)
		}
		for range 30 {
			exchangeAt(t, "127.0.0.1")
		}
	})
	total, suppressed := s.Counters()
	lost := map[string]uint64{}
	var sum uint64
	for _, l := range s.Losses() {
		lost[l.Where+"/"+l.Cause] = l.Count
		sum += l.Count
	}
	received := map[string]uint64{}
	var got uint64
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // one pass
	if err := s.Run(ctx, func(e event.Event) {
		got++
		switch e.(type) {
		case *event.Exec:
			received["exec"]++
		case *event.FlowOpen, *event.FlowClose:
			received["flow"]++
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got+sum != total || suppressed != 0 {
		t.Errorf("received %d + lost %d = %d, made %d", got, sum, got+sum, total)
	}
	if lost["ring:critical/exec: ring full"] == 0 || lost["ring:bulk/flow: ring full"] == 0 {
		t.Fatalf("nothing was lost in rings of one page: %v", lost)
	}
	if n := received["exec"] + lost["ring:critical/exec: ring full"]; n != execs {
		t.Errorf("execs: received %d + lost %d, made %d", received["exec"], lost["ring:critical/exec: ring full"], execs)
	}
	if n := received["flow"] + lost["ring:bulk/flow: ring full"]; n != 30*4 {
		t.Errorf("flow events: received %d + lost %d, made %d", received["flow"], lost["ring:bulk/flow: ring full"], 30*4)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if after, _ := s.Counters(); after != total {
		t.Errorf("after Close %d events, before %d", after, total)
	}
}
