package respond

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/pulse"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation"
)

// reachablePause is between two questions to a coordinator that does not answer.
const reachablePause = 200 * time.Millisecond

// Run keeps an isolation in force and ends it in time, until ctx ends. While
// nothing is isolated it only waits.
func (r *Responder) Run(ctx context.Context) error {
	var owned sync.WaitGroup
	defer owned.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A self-test that is under way holds what resume waits for.
	defer context.AfterFunc(ctx, r.cancel)()
	owned.Go(func() { r.resume(ctx) })
	owned.Go(func() { r.followNodes(ctx) })
	owned.Go(func() { r.contain.run(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.kick:
		}
		if r.State() != StateNone {
			r.keep(ctx)
		}
	}
}

// followNodes asks for the nodes, and whether those of a new signed list can be
// reached. It is alone with that, since both take their time when nothing answers.
// While nothing is isolated it asks seldom, for CutNow, which has no time to ask.
func (r *Responder) followNodes(ctx context.Context) {
	const seldom = 20
	tick := -1
	for range pulse.Ticks(ctx, r.cfg.Tick) {
		if tick++; r.State() == StateNone && tick%seldom != 0 {
			continue
		}
		nodes := r.cfg.NodeAddresses()
		r.mu.Lock()
		r.known = nodes
		next := r.follow()
		r.unlockAndReport()
		if next != nil && tick%reachEvery == 0 {
			r.reach(ctx, next)
		}
	}
}

// keep runs while a lease is in force.
func (r *Responder) keep(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	defer owned.Wait()
	defer cancel()
	owned.Go(func() {
		if err := r.barrier.Watch(ctx, r.wake); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("isolation is watched by looking only", "every", r.cfg.Tick, "error", err)
		}
	})
	ticker := time.NewTicker(r.cfg.Tick)
	defer ticker.Stop()
	for r.State() != StateNone {
		r.tick()
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
		case <-ticker.C:
		}
	}
}

// tick ends what is over and repairs what was changed.
func (r *Responder) tick() {
	r.mu.Lock()
	defer r.unlockAndReport()
	lease := r.record.Lease
	if lease == nil {
		return
	}
	if lease.remaining(r.cfg.Clock) <= 0 {
		r.expire()
		return
	}
	spec, found := r.spec(lease), r.cfg.Clock.Boot()
	r.cutFirst(spec)
	drift, err := r.barrier.Reconcile(spec)
	if errors.Is(err, isolation.ErrNotApplied) {
		err = r.barrier.Apply(spec)
	}
	if err != nil {
		r.failed("isolation could not be put back and is tried again", err)
		return
	}
	r.lastFailure = ""
	switch drift {
	case isolation.Unchanged:
	case isolation.Surroundings:
		r.cfg.Logger.Info("isolation follows the host's devices and the nodes that were signed", "operation", lease.Operation)
	case isolation.Tampered:
		r.counters.Reapplied++
		took := r.cfg.Clock.Boot() - found
		r.cfg.Logger.Warn("isolation was changed by another program and is put back", "operation", lease.Operation, "took", took)
		if times := r.tampers.note(found); times > 0 {
			r.report(r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_APPLIED,
				fmt.Sprintf("another program changed or removed the isolation in the kernel, %d times since the last report; it was put back %s after it was noticed", times, took.Round(time.Microsecond))))
		}
	}
}

// tamperLog joins repairs that come in a row: whoever removes the table in a
// loop must not fill the spool.
type tamperLog struct {
	reported time.Duration
	pending  int
	ever     bool
}

const tamperReportEvery = 5 * time.Second

// note counts one repair and returns how many to report now, 0 for none.
func (t *tamperLog) note(now time.Duration) int {
	t.pending++
	if t.ever && now-t.reported < tamperReportEvery {
		return 0
	}
	times := t.pending
	t.ever, t.reported, t.pending = true, now, 0
	return times
}

// expire ends a lease in time. mu is held.
func (r *Responder) expire() {
	if r.end(sensorv1.IsolationState_ISOLATION_STATE_EXPIRED, "the lease ended") {
		r.counters.Expired++
	}
}

// end removes the cut without a grant. What cannot be removed stays in force on
// paper too, and is tried again. mu is held.
func (r *Responder) end(state sensorv1.IsolationState, why string) bool {
	lease := r.record.Lease
	if err := r.lift(lease); err != nil {
		r.failed("isolation could not be ended and is tried again", err)
		return false
	}
	r.record.Lease = nil
	_ = r.save() // logged there; an unsaved end is an ended lease at the next start
	r.report(r.status(lease, state, why))
	r.cfg.Logger.Info("isolation is ended", "operation", lease.Operation, "why", why)
	return true
}

type selfTest struct {
	text   string
	silent bool // no coordinator answered
	err    error
}

// ErrUnreachable says that no coordinator answered through the cut.
var ErrUnreachable = errors.New("no coordinator answered while isolated")

// localPatience is how long a host that isolates itself waits for a coordinator.
const localPatience = 2 * time.Second

// selfTest proves both sides of a cut: an ordinary packet is dropped, the
// coordinator answers. A host that isolated itself asks as well, and stays cut when
// nobody answers: it may be in a partition, and whoever could make the coordinator
// unreachable could else undo every isolation.
func (r *Responder) selfTest(ctx context.Context, limit time.Duration, local bool, nodes []netip.AddrPort) selfTest {
	probe, err := r.barrier.Probe()
	if err != nil {
		return selfTest{text: err.Error(), err: err}
	}
	if local {
		limit = min(limit, localPatience)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	started := time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	last := errors.New("not asked")
	for {
		select {
		case <-ctx.Done():
			text := fmt.Sprintf("%s; coordinator did not answer in %s: %v", probe, limit, last)
			if local {
				return selfTest{silent: true, text: text + "; the host isolated itself and stays so until the lease ends, a release, or a release token"}
			}
			return selfTest{silent: true, text: text, err: fmt.Errorf("%w (within %s: %w)", ErrUnreachable, limit, last)}
		case <-pause.C:
		}
		if last = r.cfg.Reachable(ctx, nodes); last == nil {
			return selfTest{text: fmt.Sprintf("%s; coordinator answered after %s", probe, time.Since(started).Round(time.Millisecond))}
		}
		pause.Reset(reachablePause)
	}
}

// testWider repeats a self-test in which no node of a signed list answered, with those
// that the cluster names open as well. What was tried before stands where there are none.
func (r *Responder) testWider(ctx context.Context, limit time.Duration, lease *lease, before selfTest) (selfTest, string) {
	r.mu.Lock()
	if r.record.Lease != lease {
		r.mu.Unlock()
		return before, ""
	}
	note := r.widen(lease)
	if note == "" {
		r.mu.Unlock()
		return before, ""
	}
	spec := r.spec(lease)
	note += r.cutFirst(spec)
	err := r.barrier.Apply(spec)
	r.unlockAndReport()
	if err != nil {
		return selfTest{err: err}, note
	}
	return r.selfTest(ctx, limit, lease.Local, spec.Nodes), note
}

// resume goes on with a self-test that a restart interrupted.
func (r *Responder) resume(ctx context.Context) {
	r.granting.Lock()
	defer r.granting.Unlock()
	r.mu.Lock()
	lease := r.record.Lease
	if lease == nil || lease.Phase != phaseTesting || ctx.Err() != nil {
		r.mu.Unlock()
		return
	}
	nodes := lease.open()
	r.mu.Unlock()
	test, note := r.selfTest(ctx, r.cfg.ResumeTimeout, lease.Local, nodes), ""
	if test.silent && ctx.Err() == nil {
		test, note = r.testWider(ctx, r.cfg.ResumeTimeout, lease, test)
	}
	r.mu.Lock()
	defer r.unlockAndReport()
	if r.record.Lease != lease || ctx.Err() != nil {
		return
	}
	lease.SelfTest = test.text
	if test.err != nil {
		r.report(r.revert(lease, nil, test.err))
		return
	}
	lease.Phase = phaseApplied
	_ = r.save() // logged there; the test is repeated at the next start
	r.counters.Honoured++
	r.report(r.status(lease, sensorv1.IsolationState_ISOLATION_STATE_APPLIED, "proved after a restart; "+note+r.leftOpen(r.spec(lease))))
}
