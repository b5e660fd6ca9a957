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
	waiting chan *sensorv1.Learning
	pack    chan *sensorv1.SignedPack
}

func newLessons() lessons {
	return lessons{make(chan *sensorv1.Learning, maxLessons), make(chan *sensorv1.SignedPack, 1)}
}

// packHeld says which pack this host goes by, and with one zero byte that it would take one.
func (s *session) packHeld() []byte {
	if s.u.cfg.Pack != nil {
		if sum := s.u.cfg.Pack(); len(sum) > 0 {
			return sum
		}
	}
	return []byte{0}
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
	select { // the newest counts; this is the only one that puts one there
	case <-s.lessons.pack:
	default:
	}
	s.lessons.pack <- signed
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
		packs, due := s.lessons.pack, (<-chan time.Time)(nil)
		if wait := packEvery - time.Since(s.u.packAt); wait > 0 {
			packs, due = nil, time.After(wait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-due:
		case signed := <-packs:
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
