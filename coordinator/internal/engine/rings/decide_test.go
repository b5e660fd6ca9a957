package rings

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var (
	pushed = time.Unix(1_000_000, 0)
	later  = pushed.Add(5 * time.Minute)
)

// fleet is a set on its way to the first ring, which three hosts are in, and seven others.
func fleet() view {
	set := &store.RuleSet{Version: 2, Base: 1, State: store.RulesRolling, Ring: 3, PutAt: pushed.UnixNano(), RingSince: pushed.UnixNano()}
	v := view{set: set, rules: &sensorv1.RuleSet{Version: 2, SoakSeconds: 600}, now: later, led: pushed.Add(-time.Hour), findings: map[string]int{}}
	for i := range 10 {
		v.hosts = append(v.hosts, store.RuleHost{
			ID: fmt.Sprintf("host-%d", i), Connected: true, Told: true, Since: pushed.Add(time.Second).UnixNano(), Heard: later.UnixNano(),
			Held: &sensorv1.RulesHeld{Version: 2, Newest: 2},
		})
	}
	return v
}

// of makes the last n hosts peers: a set is in force for all at ring 3, so they are told apart
// by a set that only the others are covered by.
func (v view) of(ring int) view {
	v.set.Ring = ring
	for i := range v.hosts {
		if !inRing(v, v.hosts[i].ID) {
			v.hosts[i].Held = &sensorv1.RulesHeld{Version: 1, Newest: 1}
		}
	}
	return v
}

func inRing(v view, id string) bool {
	for _, h := range members(v) {
		if h.ID == id {
			return true
		}
	}
	return false
}

// Ensure a set goes on when all of a ring use it for long enough, waits before, and is halted
// at what hurts, which is named.
func TestDecide(t *testing.T) {
	silent := func(h *store.RuleHost) {
		h.Connected, h.Ended, h.Heard = false, "unheard", pushed.Add(time.Minute).UnixNano()
	}
	for _, tt := range []struct {
		name string
		do   func(*view)
		want string // "", next, or part of why it is halted
	}{
		{"watched", func(*view) {}, ""},
		{"long enough", func(v *view) { v.now = pushed.Add(11 * time.Minute) }, "next"},
		{"one does not use it yet", func(v *view) { v.now = pushed.Add(11 * time.Minute); v.hosts[3].Held.Version = 1 }, ""},
		{"one never does", func(v *view) { v.now = pushed.Add(20 * time.Minute); v.hosts[3].Held.Version = 1 }, "never said"},
		{"one is away", func(v *view) {
			v.now = pushed.Add(11 * time.Minute)
			v.hosts[3].Connected, v.hosts[3].Ended = false, "stopped"
		}, "next"},
		{"an older sensor", func(v *view) {
			v.now = pushed.Add(11 * time.Minute)
			v.hosts[3].Told, v.hosts[3].Held = false, &sensorv1.RulesHeld{}
		}, "next"},
		{"nobody is there", func(v *view) {
			v.now = pushed.Add(11 * time.Minute)
			for i := range v.hosts {
				v.hosts[i].Connected, v.hosts[i].Ended = false, "stopped"
			}
		}, ""},
		{"refused as a whole", func(v *view) {
			v.hosts[1].Held = &sensorv1.RulesHeld{Version: 1, FailedVersion: 2, Failure: "too much"}
		}, "too much"},
		{"refused an older one", func(v *view) { v.hosts[1].Held.FailedVersion, v.hosts[1].Held.Failure = 1, "too much" }, ""},
		{"refused a rule", func(v *view) {
			v.hosts[1].Held.Refused = []*sensorv1.RefusedRule{{Path: "a.yml", Line: 3, Reason: "odd"}}
		}, "a.yml:3: odd"},
		{"lacks a field", func(v *view) { v.hosts[1].Held.Refused = []*sensorv1.RefusedRule{{Path: "a.yml", Unsupported: true}} }, ""},
		{"over budget", func(v *view) { v.hosts[1].Over = 1 }, "beyond its limits"},
		{"fell silent", func(v *view) { silent(&v.hosts[1]); silent(&v.hosts[2]) }, "fell silent"},
		{"said goodbye", func(v *view) { silent(&v.hosts[1]); v.hosts[1].Ended = "stopped" }, ""},
		{"was away before", func(v *view) { silent(&v.hosts[1]); v.hosts[1].Heard = pushed.Add(-time.Hour).UnixNano() }, ""},
		{"away a moment", func(v *view) {
			silent(&v.hosts[1])
			silent(&v.hosts[2])
			v.hosts[1].Heard, v.hosts[2].Heard = later.UnixNano(), later.UnixNano()
		}, ""},
		{"a new leader", func(v *view) { silent(&v.hosts[1]); silent(&v.hosts[2]); v.led = later.Add(-time.Second) }, ""},
		{"started again", func(v *view) { v.hosts[1].Restarted, v.hosts[2].Restarted = later.UnixNano(), later.UnixNano() }, "start again"},
		{"started before", func(v *view) { v.hosts[1].Restarted = pushed.Add(-time.Hour).UnixNano() }, ""},
		{"a flood", func(v *view) { v.findings["host-1"] = 60 }, "60 findings"},
		{"some findings", func(v *view) { v.findings["host-1"] = 4 }, ""},
		{"as many as before", func(v *view) { v.findings["host-1"] = 60; v.before = 100 }, ""},
		{"all have it", func(v *view) {
			v.set.State, v.set.Ring, v.now = store.RulesComplete, store.AllRings, pushed.Add(time.Hour)
		}, ""},
		{"all have it, and a flood", func(v *view) {
			v.set.State, v.set.Ring = store.RulesComplete, store.AllRings
			v.findings["host-1"] = 60
		}, "60 findings"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := fleet()
			tt.do(&v)
			d := decide(v)
			got := d.why
			if d.next {
				got = "next"
			}
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("decided %q (waits: %q), want %q", got, d.waits, tt.want)
			}
		})
	}
}

// Ensure a ring in which no sensor takes rules is passed when its time is over, while there
// are some beyond it to give the set to, and not by a leader that hosts have yet to come to.
func TestRingWithoutSensors(t *testing.T) {
	v := fleet().of(2)
	v.now = pushed.Add(11 * time.Minute)
	for i := range v.hosts {
		if inRing(v, v.hosts[i].ID) {
			v.hosts[i].Told, v.hosts[i].Held = false, &sensorv1.RulesHeld{}
		}
	}
	if d := decide(v); !d.next {
		t.Errorf("after its time: waits, %s", d.waits)
	}
	v.now = later
	if d := decide(v); d.next {
		t.Error("passed before its time")
	}
	v.now = pushed.Add(11 * time.Minute)
	v.led = v.now.Add(-time.Second)
	if d := decide(v); d.next {
		t.Error("passed by a new leader")
	}
	v.led = pushed
	for i := range v.hosts {
		v.hosts[i].Connected = false
	}
	if d := decide(v); d.next || d.halt {
		t.Error("passed while nobody is there")
	}
}

// Ensure what befalls hosts without the set as well is not its doing.
func TestPeers(t *testing.T) {
	restart := func(v *view, in bool, n int) {
		for i := range v.hosts {
			if inRing(*v, v.hosts[i].ID) == in && n > 0 {
				v.hosts[i].Restarted = later.UnixNano()
				n--
			}
		}
	}
	v := fleet().of(2)
	count := len(members(v))
	if count == 0 || count == len(v.hosts) {
		t.Fatalf("%d of %d hosts are in the ring: choose other names", count, len(v.hosts))
	}
	restart(&v, true, 1)
	if d := decide(v); !d.halt {
		t.Error("one start in the ring, none outside: not halted")
	}
	restart(&v, false, len(v.hosts)) // an upgrade of all sensors
	if d := decide(v); d.halt {
		t.Errorf("all start again: halted, %s", d.why)
	}
}
