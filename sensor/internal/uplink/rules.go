package uplink

import "github.com/vedette-edr/vedette/proto/sensorv1"

// rulesHeld is nil where nobody takes rules: such a sensor is sent none.
func (u *Uplink) rulesHeld() *sensorv1.RulesHeld {
	if u.cfg.OnRules == nil || u.cfg.RulesHeld == nil {
		return nil
	}
	return u.cfg.RulesHeld()
}

func (s *session) rules(r *sensorv1.Rules) {
	s.mu.Lock()
	s.ruled = true
	s.mu.Unlock()
	if s.u.cfg.OnRules != nil {
		s.u.cfg.OnRules(r)
	}
}

// TellRules tells the node which rules are in use, if there is a session with one that
// knows the message; the next session's Hello says the same.
func (u *Uplink) TellRules() {
	u.mu.Lock()
	s := u.current
	u.mu.Unlock()
	held := u.rulesHeld()
	if s == nil || held == nil {
		return
	}
	s.mu.Lock()
	ruled := s.ruled
	s.mu.Unlock()
	if ruled {
		_ = s.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Rules{Rules: held}}) // fails only with the session
	}
}
