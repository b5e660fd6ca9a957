package sensor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Run works until ctx ends, then sends a last summary to the spool and detaches
// from the kernel. Containment stays: it belongs to the lease, not to the process.
func (s *Sensor) Run(ctx context.Context) (err error) {
	killed := s.begin()
	defer func() {
		if err == nil {
			s.rules.stopped()
		}
		if err = errors.Join(err, s.close()); err == nil {
			err = s.end()
		}
	}()

	// The programs are attached already: what starts meanwhile waits in the ring.
	if err := s.seed(ctx); err != nil {
		return err
	}
	// What loading the programs took is not needed again, and the runtime gives it back so
	// slowly that the sensor would sit on it for minutes.
	debug.FreeOSMemory()
	if killed != nil {
		killed.Header = s.selfHeader()
		s.observe(killed)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return named("reading the kernel's events", s.watch(ctx)) })
	group.Go(func() error { return named("hashing images", s.enricher.Run(ctx)) })
	group.Go(func() error { return named("watching logins", s.sessions.Run(ctx)) })
	group.Go(func() error { s.findings.run(ctx, s.watched); return nil })
	group.Go(func() error { s.recorder.Run(s.watched); return nil })
	group.Go(func() error { return s.summarise(ctx) })
	group.Go(func() error { return s.count(ctx) })
	group.Go(func() error { return s.keepRunning(ctx) })
	group.Go(func() error { return s.keepBudget(ctx) })
	group.Go(func() error { return s.spreadTaints(ctx) })
	group.Go(func() error { return s.carry(ctx) })
	group.Go(func() error { return s.watchLosses(ctx) })
	group.Go(func() error { return named("containment", s.responder.Run(ctx)) })
	group.Go(func() error { return s.contain(ctx) })
	group.Go(func() error { return s.watchRules(ctx) })
	if s.cut != nil {
		group.Go(func() error { return named("following devices", s.cut.Follow(ctx)) })
	}
	if s.door != nil {
		group.Go(func() error { return s.door.run(ctx) })
	}
	group.Go(func() error { return named("talking to the coordinators", s.uplink.Run(ctx)) })
	group.Go(func() error { return s.nodes.run(ctx) })
	group.Go(func() error { return s.watchdog(ctx) })
	s.log.Info("sensor runs", "version", s.version, "host", s.identity.HostID, "scope", s.cfg.Scope.String())
	notify(daemon.SdNotifyReady)
	err = group.Wait()
	notify(daemon.SdNotifyStopping)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// watch takes events until ctx ends, and then what came before that: the first
// reading may have been under way. Only behind it are the last finding and the
// last summary the last ones.
func (s *Sensor) watch(ctx context.Context) error {
	defer close(s.watched)
	if err := s.source.Run(ctx, s.observe); err != nil || ctx.Err() == nil {
		return err
	}
	// Nothing more is counted after this, so that the last counts are.
	return errors.Join(s.source.Detach(), s.source.Run(ctx, s.observe))
}

// selfHeader is the header of an event about this process, now.
func (s *Sensor) selfHeader() event.Header {
	return event.Header{Time: event.BootNow(), Process: s.self, TID: s.self.PID}
}

func named(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// watchdog feeds systemd's watchdog by the canary. A sensor whose scope its own
// children are not in cannot see a canary; it feeds the watchdog by time alone.
func (s *Sensor) watchdog(ctx context.Context) error {
	alive := func() { notify(daemon.SdNotifyWatchdog) }
	if !s.seesItself() {
		return tickle(ctx, alive)
	}
	return s.canary(ctx, alive)
}

// ownNamespace is read before any thread of this process can have entered another
// one. Later, /proc/self tells where the main thread happens to be; taking a foreign
// namespace for one's own would isolate the machine in its place.
var ownNamespace, errOwnNamespace = func() (stat unix.Stat_t, err error) {
	err = unix.Stat("/proc/self/ns/net", &stat)
	return stat, err
}()

// seesItself tells whether the sensor's own children are in its scope.
func (s *Sensor) seesItself() bool {
	switch s.cfg.Scope.Kind {
	case "host":
		return true
	case "netns":
		var scope unix.Stat_t
		return errOwnNamespace == nil && unix.Stat(s.cfg.Scope.Path, &scope) == nil &&
			ownNamespace.Dev == scope.Dev && ownNamespace.Ino == scope.Ino
	}
	return false
}

// notify tells systemd; without systemd there is nobody to tell.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }
