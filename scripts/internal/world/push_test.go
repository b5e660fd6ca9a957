package world

import (
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure campaigns of each kind and pushes leave what they should at both ends of each
// connection, and that who pushes was used to it for more than a day.
func TestCampaignKinds(t *testing.T) {
	w := mustNew(t, Config{Seed: 3, Hosts: 120, Window: 2 * time.Hour, Campaigns: 12, CampaignStart: 16, Kinds: true, Pushes: 2})
	records := func(n, window int, storyline string) (out, in []*sensorv1.Flow, found, carried int) {
		for _, r := range w.Records(n, window) {
			note := r.GetFlowNote()
			if r.GetFinding().GetStoryline() == storyline {
				found++
			}
			if note.GetStoryline() != storyline {
				continue
			}
			if note.GetCarried() != "" {
				carried++
			}
			if note.GetFlow().GetInbound() {
				in = append(in, note.GetFlow())
			} else {
				out = append(out, note.GetFlow())
			}
		}
		return out, in, found, carried
	}
	seen := make(map[string]int)
	for _, c := range w.Campaigns() {
		seen[c.Kind]++
		for place := 1; place < len(c.Path); place++ {
			_, in, found, carried := records(c.Path[place], c.at(place), c.storyline(place))
			out, _, _, _ := records(c.Path[c.from(place)], c.at(place), c.storyline(c.from(place)))
			silent := c.Kind == marksOnly && place < len(c.Path)-1
			if len(in) != 1 || carried != 1 || (found == 0) != silent {
				t.Fatalf("%s, place %d: %d flows in, %d carried, %d findings", c.Kind, place, len(in), carried, found)
			}
			if !slices.ContainsFunc(out, func(f *sensorv1.Flow) bool {
				return slices.Equal(f.GetLocal(), in[0].GetRemote()) && f.GetLocalPort() == in[0].GetRemotePort() && slices.Equal(f.GetRemote(), in[0].GetLocal()) && f.GetRemotePort() == in[0].GetLocalPort()
			}) {
				t.Errorf("%s, place %d: no other end of %v", c.Kind, place, in[0])
			}
		}
	}
	if len(seen) != len(campaignKinds) {
		t.Errorf("kinds: %v", seen)
	}
	for _, p := range w.Pushes() {
		out, _, found, _ := records(p.Hub, p.Window, "push-"+string(rune('0'+p.N)))
		if len(out) != pushTargets || found != 1 {
			t.Errorf("push %d: %d flows, %d findings", p.N, len(out), found)
		}
		habits := 0
		for _, b := range w.Summary(p.Hub, w.hosts[p.Hub].Born).GetNewBehaviours() {
			if string(b.GetSubject()) == "/usr/bin/ssh" && string(b.GetObject()[:8]) == "out tcp " {
				habits++
			}
		}
		if habits < pushTargets || time.Duration(p.Window-w.hosts[p.Hub].Born)*w.cfg.Window <= 24*time.Hour {
			t.Errorf("push %d: %d habits, born in window %d", p.N, habits, w.hosts[p.Hub].Born)
		}
	}
}
