package correlate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure planning what changed, as it comes, leaves nothing for a plan of everything.
func TestChangedIsEnough(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 5))
		w, l := newWindow(), newLedger(nil)
		var flows []*sensorv1.Flow
		for step := range 60 {
			host, storyline := fmt.Sprint(r.IntN(8)), fmt.Sprint(r.IntN(3))
			var options []option
			if r.IntN(4) == 0 {
				options = append(options, severity("high"))
			}
			if len(flows) > 0 && r.IntN(3) == 0 {
				f := flows[r.IntN(len(flows))]
				options = append(options, cameBy(tcp(true, "10.0.0.2", f.GetRemotePort(), "10.0.0.1", f.GetLocalPort(), step)))
			}
			if r.IntN(3) == 0 {
				f := tcp(false, "10.0.0.1", uint32(4000+r.IntN(20)), "10.0.0.2", 22, step)
				flows = append(flows, f)
				options = append(options, sends(f))
			}
			if r.IntN(6) == 0 {
				note := &sensorv1.FlowNote{Storyline: storyline, Flow: tcp(r.IntN(2) == 0, "10.0.0.2", 22, "10.0.0.1", uint32(4000+r.IntN(20)), step)}
				w.addNote("h-"+host, t0.Add(time.Duration(step)*time.Minute).UnixNano(), note)
			} else {
				w.addFinding(row(host, storyline, step, options...))
			}
			if r.IntN(2) == 0 {
				continue // several at once are one plan
			}
			keep(l, plan(w.components(l, 120), l, facts{}))
			clear(w.changed)
		}
		keep(l, plan(w.components(l, 120), l, facts{}))
		var open []*raftv1.Incident
		for _, in := range l.byID {
			open = append(open, in)
		}
		if left := planned(w, open, facts{}); len(left) != 0 {
			t.Fatalf("seed %d: a plan of everything still proposes %v", seed, left)
		}
	}
}

func keep(l *ledger, puts []*raftv1.PutIncident) {
	for _, put := range puts {
		for _, merged := range put.GetMerged() {
			l.remove(merged)
		}
		l.put(put.GetIncident())
	}
}

// Ensure an incident stays one when the storyline that joined its ends has left the window.
func TestMiddleForgotten(t *testing.T) {
	w, l := newWindow(), newLedger(nil)
	addCampaign(w, 0)
	keep(l, plan(w.components(l, 120), l, facts{}))
	if len(l.byID) != 1 {
		t.Fatalf("got %d incidents, want 1", len(l.byID))
	}
	for _, hop := range []int{0, 3} {
		w.addFinding(row(fmt.Sprintf("c0-%d", hop), "s", 600, severity("high")))
	}
	forgetAll(w, t0.Add(300*time.Minute))
	if len(w.stories) != 2 {
		t.Fatalf("the window holds %d storylines, want the two ends", len(w.stories))
	}
	puts := plan(w.components(l, 120), l, facts{})
	if len(puts) != 1 || len(puts[0].GetIncident().GetHosts()) != 4 || len(puts[0].GetIncident().GetFindings()) != 6 {
		t.Errorf("got %v, want one incident of four hosts and six findings", puts)
	}
}

// Ensure what became of a host is told in its incident, and nobody else's is looked at.
func TestTouchHosts(t *testing.T) {
	w, l := newWindow(), newLedger(nil)
	addCampaign(w, 0)
	addCampaign(w, 1)
	keep(l, plan(w.components(l, 120), l, facts{}))
	clear(w.changed)
	w.touchHosts(map[string]bool{"h-c1-2": true})
	components := w.components(l, 120)
	if len(components) != 1 || len(components[0].stories) != 4 {
		t.Fatalf("got %d components, want the one of four storylines", len(components))
	}
	known := facts{hosts: map[string]*operatorv1.Host{"h-c1-2": {Isolation: "applied"}}}
	if puts := plan(components, l, known); len(puts) != 1 {
		t.Errorf("got %d changes, want one: that host needs no isolation any more", len(puts))
	}
}
