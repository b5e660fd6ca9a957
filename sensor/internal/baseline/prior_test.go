package baseline

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// still is a prior that answers all the same.
type still struct{ group, fleet event.Share }

func (s still) Group(event.Behaviour) event.Share { return s.group }
func (s still) Fleet(event.Behaviour) event.Share { return s.fleet }

// Ensure that what the peers do is less surprising, in the order of how near they are
// and how many, and that one of them alone says nothing.
func TestBackOff(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	n := 0
	surprise := func(p Prior) float64 {
		t.Helper()
		b.SetPrior(p)
		n++
		v := b.Observe(exec(c.now, "/usr/sbin/web", "/opt/x-"+string(rune('a'+n))))
		if p != nil && (v.Group != p.Group(v.Behaviour) || v.Fleet != p.Fleet(v.Behaviour)) {
			t.Errorf("the verdict says %v and %v of the peers", v.Group, v.Fleet)
		}
		if want := v.HostBits; p == nil && v.Surprise != want {
			t.Errorf("without a prior: %.2f bits, by this host alone %.2f", v.Surprise, want)
		}
		return v.Surprise
	}
	for range 50 {
		b.Observe(exec(c.now, "/usr/sbin/web", "/usr/sbin/web"))
		c.now = c.now.Add(config(c).Window)
	}
	alone := surprise(nil)
	most := surprise(still{event.Share{Have: 9, Of: 10}, event.Share{Have: 9, Of: 100}})
	some := surprise(still{event.Share{Have: 3, Of: 10}, event.Share{Have: 3, Of: 100}})
	fleet := surprise(still{fleet: event.Share{Have: 60, Of: 100}})
	nobody := surprise(still{event.Share{Of: 10}, event.Share{Of: 100}})
	one := surprise(still{event.Share{Have: 1, Of: 10}, event.Share{Have: 1, Of: 100}})
	if !(most < some && some < alone && fleet < alone && most < fleet && nobody > alone) {
		t.Errorf("alone %.1f, most of the group %.1f, some %.1f, most of the fleet %.1f, nobody %.1f", alone, most, some, fleet, nobody)
	}
	if math.Abs(one-nobody) > 0.3 || nobody-alone > 2 {
		t.Errorf("one other host %.1f, nobody %.1f, alone %.1f", one, nobody, alone)
	}
}
