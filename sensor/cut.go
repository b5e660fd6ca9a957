package sensor

import (
	"errors"
	"net/netip"

	"github.com/vedette-edr/vedette/sensor/internal/kernel"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// firstCut is the kernel stage's pre-armed cut as the responder uses it.
type firstCut struct{ cut *kernel.Cut }

// Cut implements respond.FirstCut.
func (f firstCut) Cut(level isolation.Level, nodes []netip.AddrPort) error {
	if level == isolation.Jump {
		f.cut.Set(kernel.CutNone)
		return nil
	}
	// The nodes first: a host that cut off its own coordinator could not be released.
	if err := f.cut.SetNodes(nodes); err != nil {
		return err
	}
	if level == isolation.EgressOnly {
		f.cut.Set(kernel.CutEgress)
	} else {
		f.cut.Set(kernel.CutAll)
	}
	return nil
}

// Deepen implements respond.FirstCut.
func (f firstCut) Deepen(lasting bool) ([]respond.StoppedProcess, error) {
	report, err := f.cut.CutXDP()
	if lasting {
		err = errors.Join(err, f.cut.Keep())
	}
	var stopped []respond.StoppedProcess
	for _, p := range report.Frozen() {
		stopped = append(stopped, respond.StoppedProcess(p))
	}
	return stopped, err
}

// NotCut implements respond.FirstCut.
func (f firstCut) NotCut() []string { return f.cut.NotCut() }

// Lift implements respond.FirstCut.
func (f firstCut) Lift(stopped []respond.StoppedProcess) error {
	f.cut.Set(kernel.CutNone)
	return errors.Join(f.cut.Unkeep(), f.cut.ReleaseXDP(), thaw(stopped), f.cut.Reconcile())
}

func thaw(stopped []respond.StoppedProcess) error {
	processes := make([]kernel.FrozenProcess, 0, len(stopped))
	for _, p := range stopped {
		processes = append(processes, kernel.FrozenProcess(p))
	}
	return kernel.ThawXDP(processes)
}

// liftLeft ends what a sensor left that is gone.
func liftLeft(netns string, stopped []respond.StoppedProcess) error {
	return errors.Join(kernel.RemoveKept(netns), thaw(stopped))
}

// openCut arms the namespace that this sensor may cut. A host where that cannot be is
// isolated by the table alone, a moment later.
func (s *Sensor) openCut() respond.FirstCut {
	if s.cfg.Scope.Kind == "cgroup" {
		return nil
	}
	// Without a cut, nobody would take out what an earlier sensor left.
	left := func() {
		if err := kernel.RemoveKept(s.isolationNamespace()); err != nil {
			s.log.Warn("what an earlier sensor's cut left in the kernel cannot be taken out", "error", err)
		}
	}
	if !s.cfg.Isolation.Enabled {
		left()
		return nil
	}
	cut, err := kernel.OpenCut(kernel.CutConfig{NetNS: s.isolationNamespace(), Logger: s.log})
	if err != nil {
		s.log.Warn("the first cut is not armed; an isolation is the table alone", "error", err)
		left()
		return nil
	}
	s.cut = cut
	s.onClose(cut.Close)
	if err := kernel.GoBeforeOthers(); err != nil {
		s.log.Debug("the sensor has no priority over other processes; its unit may give it (CPUWeight)", "error", err)
	}
	return firstCut{cut}
}
