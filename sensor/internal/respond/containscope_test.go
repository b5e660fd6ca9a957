package respond

import (
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a sensor of a part of its host does not act on what is the whole host's,
// whoever asks.
func TestContainOfAPart(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Contain = &ContainConfig{Root: t.TempDir()} })
	for action, target := range map[sensorv1.Action]*sensorv1.Target{
		sensorv1.Action_ACTION_LOCK_ACCOUNT:    {Account: "alice"},
		sensorv1.Action_ACTION_QUARANTINE_FILE: {Path: []byte("/tmp/x")},
		sensorv1.Action_ACTION_BLOCK_IMAGE:     {ImageSha256: make([]byte, 32)},
	} {
		g := b.order(action, "op-1")
		g.Target = target
		for what, status := range map[string]*sensorv1.IsolationStatus{
			"an order":         b.r.Grant(t.Context(), b.sign(g)).GetStatus(),
			"the own evidence": b.r.Contain(t.Context(), LocalOrder{Action: action, Target: target, Evidence: []string{"f-1"}}),
		} {
			if status.GetState() != refused || !strings.Contains(status.GetDetail(), "scope is a part of its host") {
				t.Errorf("%s, %s: got %v", action, what, status)
			}
		}
	}
}
