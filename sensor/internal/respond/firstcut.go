package respond

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// FirstCut is the quick layer beside the isolation's table: armed beforehand, it
// cuts by a store to memory, and goes with the process. It also stops what no hook
// of a device sees. Its methods may be called from any goroutine.
type FirstCut interface {
	// Cut cuts at once. Nodes stay open; a level that it does not know (jump) it leaves
	// to the table.
	Cut(level isolation.Level, nodes []netip.AddrPort) error
	// Deepen stops the processes that could send past every device's hook. Lasting, it also
	// cuts what outlives the sensor and what comes in before every other hook. It can be
	// called again, and always names all that it stopped.
	Deepen(lasting bool) (stopped []StoppedProcess, err error)
	// Lift undoes both. stopped are those of a sensor that was killed meanwhile.
	Lift(stopped []StoppedProcess) error
	// NotCut says, for people, what passes by it and the table now.
	NotCut() []string
}

// StoppedProcess names a process that stands still for the time of an isolation.
type StoppedProcess struct {
	PID   uint32 `json:"pid"`
	Start uint64 `json:"start"` // ns since boot: (PID, Start) is the identity
	Comm  string `json:"comm"`
}

// cutFirst is the first thing that an isolation does. What fails is told with the
// outcome, since the table cuts the same a moment later.
func (r *Responder) cutFirst(spec isolation.Spec) string {
	if r.cfg.First == nil {
		return ""
	}
	err := r.cfg.First.Cut(spec.Level, spec.Nodes)
	r.firstFailed = err != nil
	if err != nil {
		r.cfg.Logger.Error("the first cut failed; the isolation's table follows", "error", err)
		return fmt.Sprintf("the first cut failed (%v); ", err)
	}
	return ""
}

// hold cuts everything for as long as this process lives: the word, who sends past every
// hook, the table. Nothing of it waits for the disk, which may take its time or stand
// still; what fails here is tried again when it is made to last. mu is held.
func (r *Responder) hold(lease *lease, spec isolation.Spec) (note string) {
	note = r.cutFirst(spec)
	if r.cfg.First != nil && lease.Level != isolation.Jump {
		stopped, err := r.cfg.First.Deepen(false)
		lease.stop(stopped) // told when it is made to last
		if err != nil {
			r.cfg.Logger.Warn("stopping who sends past every filter is tried again", "error", err)
		}
	}
	if err := r.barrier.Hold(spec); err != nil {
		r.cfg.Logger.Warn("the isolation's table follows later", "error", err)
	}
	return note
}

// deepen stops what the table cannot cut, and tells what stays. mu is held.
func (r *Responder) deepen(lease *lease) (note string) {
	if r.cfg.First == nil || lease.Level == isolation.Jump {
		return ""
	}
	stopped, err := r.cfg.First.Deepen(true)
	if r.shallow = err != nil; r.shallow {
		r.cfg.Logger.Error("the first cut is not whole; the isolation's table is", "error", err)
		note = fmt.Sprintf("the first cut is not whole (%v); ", err)
	}
	lease.stop(stopped)
	for _, process := range stopped {
		note += fmt.Sprintf("%s (process %d) is stopped until the release, since it can send past every filter; ", process.Comm, process.PID)
	}
	return note
}

// stop remembers who stands still, to be let go on at the end.
func (l *lease) stop(stopped []StoppedProcess) {
	for _, process := range stopped {
		if !slices.Contains(l.Stopped, process) {
			l.Stopped = append(l.Stopped, process)
		}
	}
}

// leftOpen is told with every isolation that is applied: what either layer leaves open on
// purpose, and what passes by both. mu is held, or nothing is in force.
func (r *Responder) leftOpen(spec isolation.Spec) string {
	beside := r.cfg.First != nil && spec.Level != isolation.Jump && !r.firstFailed && !r.shallow
	notCut := isolation.NotCut(beside)
	if beside {
		notCut = append(notCut, r.cfg.First.NotCut()...)
	}
	return "left open: " + strings.Join(spec.LeftOpen(), "; ") + ". Not cut: " + strings.Join(notCut, "; ")
}

// lift ends both layers. mu is held.
func (r *Responder) lift(lease *lease) error {
	if err := r.barrier.Remove(); err != nil {
		return err
	}
	if r.cfg.First == nil {
		return nil
	}
	var stopped []StoppedProcess
	if lease != nil {
		stopped = lease.Stopped
	}
	if err := r.cfg.First.Lift(stopped); err != nil {
		return fmt.Errorf("the table is removed, the first cut not: %w", err)
	}
	return nil
}
