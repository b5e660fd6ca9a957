package respond

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// actionName is the action as people write it.
func actionName(a sensorv1.Action) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(a.String(), "ACTION_")), "_", " ")
}

// restBetween is at least between two looks.
const restBetween = 25 * time.Millisecond

// run looks after what is in force, until ctx ends. While nothing is it only waits.
func (c *containments) run(ctx context.Context) {
	var owned sync.WaitGroup
	defer owned.Wait()
	if c.images != nil {
		owned.Go(func() { c.images.run(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		}
		c.watch(ctx)
	}
}

// watch runs while something is in force.
func (c *containments) watch(ctx context.Context) {
	if len(c.list()) == 0 {
		return // who begins to watch is told to look, which would bring us here again
	}
	ctx, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	defer owned.Wait()
	defer cancel()
	if c.network != nil {
		owned.Go(func() { c.network.followNodes(ctx) })
		owned.Go(func() {
			if err := c.network.table.Watch(ctx, c.wake); err != nil && ctx.Err() == nil {
				c.r.cfg.Logger.Warn("blocks are watched by looking only", "every", c.r.cfg.Tick, "error", err)
			}
		})
	}
	ticker := time.NewTicker(c.r.cfg.Tick)
	defer ticker.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for len(c.list()) > 0 {
		// Whoever writes nftables in a loop must not keep the sensor busy.
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		c.tick(ctx)
		rest.Reset(restBetween)
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		case <-ticker.C:
		}
	}
}

// tick ends what is over, goes on with what a restart interrupted, and repairs.
func (c *containments) tick(ctx context.Context) {
	c.acting.Lock()
	defer c.acting.Unlock()
	c.ticks++
	ctx, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	for _, one := range c.list() {
		remedy := c.remedies[one.Action]
		switch {
		case ctx.Err() != nil:
			return
		case remedy == nil:
			c.failed(one, "no part of this sensor can look after it", ErrNoContainment)
		case one.Phase == phaseEnding:
			_ = c.end(one, one.Ending, one.Why) // reported there
		case one.remaining(c.r.cfg.Clock) <= 0:
			if c.end(one, sensorv1.IsolationState_ISOLATION_STATE_EXPIRED, "the lease ended") == nil {
				c.count(func(n *Counters) { n.Expired++ })
			}
		case one.Phase == phaseTesting:
			c.resume(ctx, remedy, one)
		default:
			c.look(ctx, remedy, one)
		}
	}
}

func (c *containments) look(ctx context.Context, remedy *remedy, one *containment) {
	if remedy.keep == nil {
		return
	}
	found := c.r.cfg.Clock.Boot()
	drift, err := remedy.keep(ctx, one, func() { _ = c.save() })
	if err != nil {
		if ctx.Err() == nil {
			c.failed(one, "it could not be put back and is tried again", err)
		}
		return
	}
	one.lastFailure = ""
	if drift == "" {
		return
	}
	c.count(func(n *Counters) { n.Reapplied++ })
	c.r.cfg.Logger.Warn("containment was changed and is put back", "operation", one.Operation, "action", one.Action, "drift", drift)
	if times := one.tampers.note(found); times > 0 {
		c.report(one.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, fmt.Sprintf("%s; it was put back (%d times since the last report)", drift, times)))
	}
}

// resume finishes what a stop of the sensor left half done.
func (c *containments) resume(ctx context.Context, remedy *remedy, one *containment) {
	proof, err := remedy.apply(ctx, one, func() { _ = c.save() })
	switch {
	case err != nil && ctx.Err() != nil:
	case err != nil:
		c.report(c.revert(remedy, one, err))
	case remedy.final:
		c.change(func(*containRecord) { one.SelfTest = proof })
		c.report(c.final(one, "finished after a restart"))
	default:
		c.change(func(*containRecord) { one.SelfTest, one.Phase = proof, phaseApplied })
		_ = c.save() // logged there; it is proved again at the next start
		c.report(one.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, "proved after a restart"))
	}
}

// failed logs and reports each distinct failure once.
func (c *containments) failed(one *containment, what string, err error) {
	text := fmt.Sprintf("%s: %v", what, err)
	if text == one.lastFailure {
		return
	}
	one.lastFailure = text
	c.r.cfg.Logger.Error("containment", "operation", one.Operation, "action", one.Action, "what", what, "error", err)
	c.report(one.status(sensorv1.IsolationState_ISOLATION_STATE_FAILED, text))
}

// end undoes one and reports it. What cannot be undone stays on record and is
// tried again every tick. acting is held.
func (c *containments) end(one *containment, state sensorv1.IsolationState, why string) error {
	remedy := c.remedies[one.Action]
	ctx, cancel := context.WithTimeout(context.Background(), actLimit)
	defer cancel()
	detail, err := remedy.undo(ctx, one)
	if err != nil {
		c.change(func(*containRecord) { one.Phase, one.Ending, one.Why = phaseEnding, state, why })
		_ = c.save() // logged there
		c.failed(one, "it could not be undone and is tried again", err)
		c.wake()
		return err
	}
	if detail != "" {
		why += "; " + detail
	}
	status := one.status(state, why)
	c.drop(one)
	c.remember(one, status)
	_ = c.save() // logged there; an undo that is done twice finds nothing to do
	c.report(status)
	c.r.cfg.Logger.Info("containment is ended", "operation", one.Operation, "action", one.Action, "why", why)
	return nil
}

// restore reads what was in force. What is to be done about it is done by the
// first tick, so that New does not wait for it.
func (c *containments) restore() {
	record, damaged, err := c.file.load()
	c.record = record
	if problem := firstError(damaged, err); problem != nil {
		c.r.cfg.Logger.Error("containment state is damaged", "error", problem, "lost", err != nil)
	}
	if err != nil {
		c.report(&sensorv1.IsolationStatus{
			Operation: recoveredOperation, State: sensorv1.IsolationState_ISOLATION_STATE_FAILED,
			Detail: fmt.Sprintf("both copies of the containments' state were damaged (%v): blocks of addresses, names and images are lifted; what else is found in force is kept for the longest lease", err),
		})
	}
	for _, status := range c.record.LocalEnds {
		c.report(status)
	}
	c.record.LocalEnds = nil
	boot := c.r.cfg.Clock.BootID()
	for _, one := range c.list() {
		remedy := c.remedies[one.Action]
		rebooted := one.BootID != "" && one.BootID != boot
		one.rebase(c.r.cfg.Clock)
		if rebooted && remedy != nil && remedy.transient {
			status := one.status(sensorv1.IsolationState_ISOLATION_STATE_RELEASED, "the host was rebooted, which ended it")
			c.drop(one)
			c.remember(one, status)
			c.report(status)
		}
	}
	c.adopt()
	if c.cfg != nil && c.cfg.Disabled {
		for _, one := range c.list() {
			one.Phase, one.Ending, one.Why = phaseEnding, sensorv1.IsolationState_ISOLATION_STATE_RELEASED, ErrContainDisabled.Error()
		}
	}
	if c.network != nil {
		c.network.restore()
		c.images.restore()
	}
	if err != nil || damaged != nil || c.record.Serial > 0 {
		_ = c.save() // logged there
	}
	c.wake()
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// adopt gives what is in force without a record the longest lease, so that
// nothing stays blocked for ever and nothing is let go unasked.
func (c *containments) adopt() {
	for action, remedy := range c.remedies {
		if remedy.recover == nil {
			continue
		}
		for _, found := range remedy.recover() {
			operation, ours := strings.CutSuffix(found.ID, c.tag)
			if c.tag == "" || !ours || operation == "" || c.known(found.ID) || len(c.record.Active) >= MaxContainments {
				continue
			}
			found.lease = *newLease(c.r.cfg.Clock, MaxLease)
			found.Operation, found.Action, found.Phase = operation, action, phaseApplied
			c.change(func(r *containRecord) { r.Active = append(r.Active, found) })
			c.report(found.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, "found in force without a record: kept for the longest lease"))
		}
	}
}

func (c *containments) known(id string) bool {
	for _, one := range c.list() {
		if one.ID == id {
			return true
		}
	}
	return false
}
