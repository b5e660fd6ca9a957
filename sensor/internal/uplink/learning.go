package uplink

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

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
	if signed != nil && s.u.cfg.OnPack != nil {
		s.u.cfg.OnPack(signed)
	}
	return nil
}

// learning does what it says, and answers each order.
func (s *session) learning(l *sensorv1.Learning) error {
	if s.u.cfg.OnLearning == nil {
		return nil
	}
	for _, answer := range s.u.cfg.OnLearning(l) {
		if err := s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Unlearnt{Unlearnt: answer}}); err != nil {
			return err
		}
	}
	return nil
}
