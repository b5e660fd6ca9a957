package world

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// pushTargets is how many hosts one that pushes reaches.
const pushTargets = 20

// Push is a host that brings others what is new there, as it is used to: by the same program to
// the same hosts in every window, and once so that something is found at both ends.
type Push struct {
	N       int
	Hub     int
	Targets []int
	Window  int // in which something is found
}

// Pushes are all of them.
func (w *World) Pushes() []Push { return w.pushes }

func (w *World) planPushes(taken map[int]bool) error {
	candidates := w.order(tagCampaign)
	for i := range w.cfg.Pushes {
		p := Push{N: i, Hub: -1, Window: w.cfg.CampaignStart + i%4}
		for _, n := range candidates {
			if len(p.Targets) == pushTargets {
				break
			}
			if taken[n] || w.hosts[n].Kind != Honest || !w.stays(n, 0, p.Window+1) {
				continue
			}
			taken[n] = true
			if p.Hub < 0 {
				p.Hub = n
			} else {
				p.Targets = append(p.Targets, n)
			}
		}
		if len(p.Targets) < pushTargets {
			return fmt.Errorf("world configuration: push %d of %d finds only %d hosts: want more Hosts", i, w.cfg.Pushes, len(p.Targets))
		}
		w.pushes = append(w.pushes, p)
	}
	return nil
}

// pushHabits adds what who pushes is used to.
func (w *World) pushHabits(s *sensorv1.Summary, h *Host, window int) {
	for i := range w.pushes {
		if w.pushes[i].Hub != h.N {
			continue
		}
		for _, n := range w.pushes[i].Targets {
			w.does(s, h, window, h.Born, 3, &habit{flows, "/usr/bin/ssh", fmt.Sprintf("out tcp %s %d", w.hosts[n].Address, sshPort), 0})
		}
	}
}

// pushRecords are the traces of a push on a host: what is found where it begins, each connection
// with the mark that it carries, and what is new at each third target.
func (w *World) pushRecords(n, window int) (records []*sensorv1.Record) {
	for _, p := range w.pushes {
		if window != p.Window {
			continue
		}
		at := w.At(window).UnixNano() + int64(w.cfg.Window)/4
		found := func(id string, origin *sensorv1.Flow) *sensorv1.Record {
			return &sensorv1.Record{Time: at + 2e9, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: fmt.Sprintf("push-%d-%d-%s", w.cfg.Seed, p.N, id), Time: at + 2e9,
				Kind: "new-exec", Title: "Something new", Severity: "medium", Score: 60, Storyline: fmt.Sprintf("push-%d", p.N), Origin: origin,
				Process: &sensorv1.Process{Pid: 90, Image: []byte("/usr/bin/new"), User: "root"}, Reason: "Never seen here."}}}
		}
		note := func(f *sensorv1.Flow, image, carried string) *sensorv1.Record {
			return &sensorv1.Record{Time: f.GetOpened(), Body: &sensorv1.Record_FlowNote{FlowNote: &sensorv1.FlowNote{Storyline: fmt.Sprintf("push-%d", p.N),
				Process: &sensorv1.Process{Pid: 91, Image: []byte(image)}, Flow: f, Carried: carried}}}
		}
		if n == p.Hub {
			records = append(records, found("hub", nil))
		}
		for i, to := range p.Targets {
			port := uint32(40_000 + i) //nolint:gosec // below pushTargets
			switch n {
			case p.Hub:
				records = append(records, note(w.between(p.Hub, to, port, sshPort, at, false), "/usr/bin/ssh", ""))
			case to:
				in := w.between(p.Hub, to, port, sshPort, at, true)
				records = append(records, note(in, "/usr/sbin/sshd", fmt.Sprintf("%s/push-%d", w.hosts[p.Hub].Name, p.N)))
				if i%3 == 0 {
					records = append(records, found(fmt.Sprint(i), in))
				}
			}
		}
	}
	return records
}
