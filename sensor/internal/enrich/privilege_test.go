package enrich

import (
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that who was reached into is told beside who did it, also when nothing was
// heard of him before and when he is gone.
func TestTarget(t *testing.T) {
	m := newMachine(t)
	actor, victim, stranger := key(1), key(2), key(3)
	m.exec(actor, event.ProcessKey{}, "/opt/tool")
	m.exec(victim, event.ProcessKey{}, "/usr/sbin/sshd")
	reach := func(target event.ProcessKey) *event.Observation {
		return m.Observe(&event.Privilege{Header: m.head(actor, event.ProcessKey{}), Operation: event.OpPtrace, Target: target})
	}
	if o := reach(victim); o.Process.Image != "/opt/tool" || o.Target == nil || o.Target.Image != "/usr/sbin/sshd" {
		t.Errorf("target %+v of %+v", o.Target, o.Process)
	}
	m.exit(victim)
	if o := reach(victim); o.Target == nil || o.Target.Image != "/usr/sbin/sshd" || !o.Target.Exited {
		t.Errorf("target that ended: %+v", o.Target)
	}
	if o := reach(stranger); o.Target == nil || o.Target.Key != stranger || !slices.Contains(o.Target.Traits, event.TraitUnseen) {
		t.Errorf("target that was never seen: %+v", o.Target)
	}
	if o := reach(event.ProcessKey{}); o.Target != nil {
		t.Errorf("a target that is none: %+v", o.Target)
	}
}
