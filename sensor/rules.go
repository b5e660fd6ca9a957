package sensor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
)

// lookEvery is how often rules_dir is looked at. What changed is read when it is the same
// in two looks, so that a file that is being written is not read in its middle.
const lookEvery = 2 * time.Second

// obeyEvery separates two orders that change rules, whatever a node sends: making rules ready
// takes a processor's time.
const obeyEvery = 10 * time.Second

// useRules makes the built-in rules, a set of the cluster's and those of rules_dir ready
// beside the ones in use, and puts them in their place between two events. On an error
// nothing changed.
func (s *Sensor) useRules(set detect.Set) (refused []error, cost time.Duration, err error) {
	prepared, err := s.detector.Prepare(set)
	if err != nil {
		if prepared != nil {
			cost = prepared.Cost
		}
		return nil, cost, err
	}
	s.keeper.deciding.Lock()
	defer s.keeper.deciding.Unlock()
	changed := s.detector.Use(prepared)
	if err := s.tellAgain(changed); err != nil {
		s.log.Error("having the kernel tell again what other rules could match", "error", err)
	}
	return prepared.Refused(), prepared.Cost, nil
}

// keptAs is what the kernel keeps back of the records of a kind.
var keptAs = map[string]event.BehaviourKind{
	"process_creation": event.BehaviourExec, "network_connection": event.BehaviourFlow, "dns_query": event.BehaviourLookup,
	"file_event": event.BehaviourFile, "file_delete": event.BehaviourFile, "image_load": event.BehaviourFile,
	"privilege": event.BehaviourPrivilege,
}

// tellAgain takes back from the kernel what it keeps back of these kinds of records. Each
// is asked about again when it comes next.
func (s *Sensor) tellAgain(changed []string) error {
	var kinds []event.BehaviourKind
	for _, of := range changed {
		if kind, kept := keptAs[of]; kept {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) == 0 || !s.cfg.KernelBaseline {
		return nil
	}
	if err := s.source.Unknow(s.baseline.KeptOf(kinds...)...); err != nil && !errors.Is(err, kernel.ErrClosed) {
		return err
	}
	return nil
}

// begin puts the set in use that was in use when the sensor ended. One that cannot be is
// left for the one that it goes back to, and said.
func (b *ruleBook) begin(use func(detect.Set) ([]error, time.Duration, error)) {
	b.mu.Lock()
	wanted, newest := b.stored.Use, b.newest
	b.mu.Unlock()
	if wanted == 0 {
		return
	}
	first := b.tried()
	if first != nil {
		b.log.Error("a set of rules is not used", "version", wanted, "error", first)
	}
	try := []uint64{wanted}
	if wanted == newest.GetVersion() {
		try = append(try, newest.GetBase())
	}
	for _, version := range try {
		b.mu.Lock()
		set, gaveUp := b.set(version), b.gaveUp(version)
		b.mu.Unlock()
		if set.Version == 0 || gaveUp != nil { // none, or not here: those that sensors have are in use
			continue
		}
		refused, cost, err := use(set)
		if err == nil {
			b.used(version, refused, cost, nil)
			break
		}
		b.log.Error("a set of rules is not used", "version", version, "error", err)
		first = errors.Join(first, err)
	}
	if first != nil {
		b.mu.Lock()
		b.failure, b.failed = first.Error(), wanted
		b.mu.Unlock()
	}
}

// watchRules puts other rules in use as they come: the cluster's, and those of rules_dir.
func (s *Sensor) watchRules(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	settle := time.NewTimer(trialTime)
	defer settle.Stop()
	inUse, err := s.detector.Stamp()
	if err != nil {
		s.log.Warn("rules_dir cannot be looked at; its rules stay as they are", "error", err)
	}
	last := inUse
	var obeyed time.Time
	var due <-chan time.Time // when the newest order is obeyed; nil: none waits
	obey := func() {
		due = nil
		if s.obeyRules() {
			obeyed = time.Now()
		}
		settle.Reset(trialTime)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.rules.wake:
			if wait := obeyEvery - time.Since(obeyed); wait <= 0 {
				obey()
			} else if due == nil {
				due = time.After(wait)
			}
		case <-due:
			obey()
		case <-settle.C:
			s.rules.settled()
		case <-tick.C:
			now, err := s.detector.Stamp()
			if err != nil {
				if last != "" {
					s.log.Warn("rules_dir cannot be looked at; its rules stay as they are", "error", err)
				}
				last = ""
				continue
			}
			if now != inUse && now == last {
				s.reloadDir()
				inUse = now
			}
			last = now
		}
	}
}

// obeyRules does what the newest order says, and tells the cluster what came of it. It says
// whether that was work.
func (s *Sensor) obeyRules() (worked bool) {
	set, due, err := s.rules.next()
	if err != nil {
		s.log.Error("rules from the cluster are not taken; those in use stay", "error", err)
		s.rules.used(set.Version, nil, 0, err)
		s.uplink.TellRules()
		return true
	}
	if due {
		refused, cost, err := s.useRules(set)
		if err != nil {
			s.log.Error("a set of rules is not used; the one in use stays", "version", set.Version, "error", err)
			err = fmt.Errorf("version %d of the rules: %w", set.Version, err)
		} else {
			s.log.Info("rules are in use", "version", set.Version, "files", len(set.Files), "refused", len(refused), "cost", cost)
		}
		s.rules.used(set.Version, refused, cost, err)
	}
	s.uplink.TellRules()
	return due
}

// reloadDir reads rules_dir anew, beside the set in use.
func (s *Sensor) reloadDir() {
	set := s.rules.current()
	refused, cost, err := s.useRules(set)
	if err != nil {
		s.log.Error("the rules of rules_dir are not taken; those in use stay", "error", err)
		return
	}
	s.rules.used(set.Version, refused, cost, nil)
	s.log.Info("rules_dir was read again", "cost", cost)
}
