package clustertest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Ensure a node can say since when another is away although nobody had asked before, what
// the others say of themselves, and that one without a leader knows that it is not ready.
func TestVitals(t *testing.T) {
	const look = 400 * time.Millisecond
	ends := time.Now().Add(time.Hour)
	c := New(t, 3, func(cfg *consensus.Config) {
		cfg.LookPeriod, cfg.Version, cfg.CertificateEnds = look, "1.2.3", func() time.Time { return ends }
	})
	asks, gone := c.Members[0], c.Members[2]
	// Nobody asks: that it has heard of the others after three looks' time shows that it did.
	began := time.Now()
	c.Eventually(10*time.Second, "a look", func() bool {
		return time.Since(began) > 3*look+meter.Cheap && strings.Contains(asks.Figures(), "\nvedette_raft_members_unreachable 0\n")
	})
	c.Stop(gone)
	stopped := time.Now()
	c.Eventually(10*time.Second, "the figures tell", func() bool {
		return strings.Contains(asks.Figures(), "\nvedette_raft_members_unreachable 1\n")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	members, err := asks.Node().Members(ctx)
	if err != nil || len(members) != 3 {
		t.Fatalf("members: %v, %v", members, err)
	}
	for _, m := range members {
		if m.GetId() == gone.ID {
			if at := time.Unix(0, m.GetLastContact()); m.GetState() != "unreachable" || at.After(stopped) || stopped.Sub(at) > 5*time.Second {
				t.Errorf("stopped at %s: %v", stopped, m)
			}
			continue
		}
		if m.GetState() != "alive" || m.GetVersion() != "1.2.3" || m.GetCertificateEnds() != ends.UnixNano() || m.GetDiskTotal() == 0 || len(m.GetNotReady()) != 0 || m.GetClockOffset() != 0 {
			t.Errorf("alive: %v", m)
		}
	}
	c.Stop(c.Members[1])
	c.Eventually(10*time.Second, "no quorum makes it unready", func() bool {
		reasons := asks.Node().Vitals().Unready()
		return len(reasons) == 1 && strings.Contains(reasons[0], "no leader")
	})
	c.Start(c.Members[1])
	c.Eventually(20*time.Second, "it is ready again, and says so to the other", func() bool {
		members, err := c.Members[1].Node().Members(ctx)
		return err == nil && ready(members, asks.ID) && ready(members, c.Members[1].ID)
	})
}

func ready(members []*operatorv1.Member, id string) bool {
	for _, m := range members {
		if m.GetId() == id {
			return m.GetState() == "alive" && m.GetVersion() != "" && len(m.GetNotReady()) == 0
		}
	}
	return false
}
