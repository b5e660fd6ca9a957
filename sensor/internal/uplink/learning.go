package uplink

import (
	"context"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// maxLessons wait in a session; beyond it one is dropped.
	maxLessons = 16
	// packEvery separates two packs, whatever a node sends.
	packEvery = 10 * time.Second
)

// lessons are what a session's node said of learning and is not done yet.
type lessons struct {
	waiting     chan *sensorv1.Learning
	pack, fleet chan *sensorv1.SignedPack
}

func newLessons() lessons {
	return lessons{make(chan *sensorv1.Learning, maxLessons), make(chan *sensorv1.SignedPack, 1), make(chan *sensorv1.SignedPack, 1)}
}

// packsHeld say which packs this host goes by, of its role and of the fleet, and with one zero byte that
// it would take one.
func (s *session) packsHeld() (role, fleet []byte) {
	if s.u.cfg.Packs != nil {
		role, fleet = s.u.cfg.Packs()
	}
	none := func(sum []byte) []byte {
		if len(sum) == 0 {
			return []byte{0}
		}
		return sum
	}
	return none(role), none(fleet)
}

// packPart takes a part of a pack, and hands the pack on with the last one.
func (s *session) packPart(part *sensorv1.PackPart) error {
	signed, err := s.pack.Add(part)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	if signed == nil || s.u.cfg.OnPack == nil {
		return nil
	}
	slot := s.lessons.pack
	if part.GetFleet() {
		slot = s.lessons.fleet
	}
	select { // the newest counts; this is the only one that puts one there
	case <-slot:
	default:
	}
	slot <- signed
	return nil
}

// learning does not wait: the session's reader calls it.
func (s *session) learning(l *sensorv1.Learning) {
	if s.u.cfg.OnLearning == nil {
		return
	}
	select {
	case s.lessons.waiting <- l:
	default:
		s.u.cfg.Logger.Warn("too many orders to forget wait; some are dropped, the coordinator sends them again with the next session")
	}
}

// learn does what the node says of learning, beside the reader: it takes a disk's time, and
// grants would wait behind it. What waits ends with the session; the next one's node says it again.
func (s *session) learn(ctx context.Context) error {
	for {
		packs, fleets, due := s.lessons.pack, s.lessons.fleet, (<-chan time.Time)(nil)
		if wait := packEvery - time.Since(s.u.packAt); wait > 0 {
			packs, fleets, due = nil, nil, time.After(wait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-due:
		case signed := <-packs:
			s.u.packAt = time.Now()
			s.u.cfg.OnPack(signed)
		case signed := <-fleets:
			s.u.packAt = time.Now()
			s.u.cfg.OnPack(signed)
		case l := <-s.lessons.waiting:
			for _, answer := range s.u.cfg.OnLearning(l) {
				if err := s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Unlearnt{Unlearnt: answer}}); err != nil {
					return err
				}
			}
		}
	}
}
