package respond

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// EndContainmentsLocally undoes every containment without a grant and without the
// sensor, and returns the operations that it ended: a host whose sensor is taken
// away must not be left with frozen processes and locked accounts. What cannot be
// undone stays on record, and is an error. The sensor that starts next reports it.
func EndContainmentsLocally(ctx context.Context, e LocalEnd, cfg ContainConfig) ([]string, error) {
	if e.Logger == nil {
		e.Logger = slog.Default()
	}
	if e.Clock == nil {
		e.Clock = systemClock{}
	}
	if e.Reason == "" || len(e.Reason) > maxLocalReason || strings.ContainsFunc(e.Reason, unicode.IsControl) || !utf8.ValidString(e.Reason) {
		return nil, ErrBadReason
	}
	lock, err := lockState(e.StateDir)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &Responder{ctx: ctx, cancel: cancel, cfg: Config{
		StateDir: e.StateDir, HostID: e.HostID, NetNS: e.NetNS, Logger: e.Logger, Clock: e.Clock, Contain: &cfg,
		NodeAddresses: func() []netip.AddrPort { return nil },
		Report:        func(*sensorv1.IsolationStatus) {}, // what is to be told is told by the next sensor
	}}
	c, err := newContainments(r)
	r.contain = c
	defer func() { _ = c.close() }()
	if err != nil {
		return nil, err
	}
	return c.endAll(e)
}

func (c *containments) endAll(e LocalEnd) (ended []string, err error) {
	record, damaged, lost := c.file.load()
	c.record = record
	if problem := firstError(damaged, lost); problem != nil {
		e.Logger.Error("containment state is damaged", "error", problem, "lost", lost != nil)
	}
	c.adopt()
	var problems []error
	present, _ := c.network.table.Present() // a kernel that cannot be asked has none
	if present {
		problems = append(problems, c.network.table.Remove())
	}
	why := fmt.Sprintf("ended by %s, without a grant, at %s: %s", e.By, e.Clock.Now().UTC().Format(time.RFC3339), e.Reason)
	for _, one := range c.list() {
		remedy := c.remedies[one.Action]
		if remedy == nil || remedy.final {
			c.drop(one)
			continue
		}
		if err := c.undone(remedy, one); err != nil {
			problems = append(problems, fmt.Errorf("%s of %s: %w", actionName(one.Action), one.Operation, err))
			continue
		}
		ended = append(ended, one.Operation)
		status := one.status(sensorv1.IsolationState_ISOLATION_STATE_RELEASED, why)
		c.drop(one)
		c.remember(one, status)
		c.change(func(r *containRecord) { r.LocalEnds = append(r.LocalEnds, status) })
	}
	if len(ended) > 0 || lost != nil || damaged != nil {
		problems = append(problems, c.save())
	}
	if err := errors.Join(problems...); err != nil {
		return ended, fmt.Errorf("ending containments: %w", err)
	}
	return ended, nil
}
