package ingest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Packs is what ingest reads of baseline packs.
type Packs interface {
	// RoleOf is a host's role group, "" for none.
	RoleOf(ctx context.Context, host string) (string, error)
	RoleHosts(ctx context.Context, role string) ([]string, error)
	// RolePack is the one that an operator signed, nil for none.
	RolePack(ctx context.Context, role string, now int64) (*sensorv1.SignedPack, error)
	// MadePack is one of what most hosts of a role do now, unsigned; nil when there are too few.
	MadePack(ctx context.Context, role string) (*sensorv1.Pack, error)
}

const (
	// madeFor is how long a pack that this node made is given out, maxMade how many are kept.
	madeFor = time.Hour
	maxMade = 64
	// partTime is the most that a pack waits for a sensor that does not read.
	partTime = 2 * time.Second
)

// madePacks are those that this node made.
type madePacks struct {
	mu   sync.Mutex
	made map[string]madePack
}

type madePack struct {
	signed *sensorv1.SignedPack
	at     time.Time
}

// packFor is an operator's pack for the host's role, or for a host that knows little yet what its
// peers do; nil when there is none that it lacks.
func (s *Server) packFor(ctx context.Context, n *session) (*sensorv1.SignedPack, error) {
	role, err := s.cfg.Packs.RoleOf(ctx, n.host)
	if err != nil || role == "" {
		return nil, err
	}
	signed, err := s.cfg.Packs.RolePack(ctx, role, s.cfg.Now().UnixNano())
	if err != nil {
		return nil, err
	}
	if signed == nil && n.learns.isFresh() {
		signed, err = s.made(ctx, role)
	}
	if err != nil || !n.learns.lacks(signed, false) {
		return nil, err
	}
	return signed, nil
}

// made makes a role's pack, one at a time.
func (s *Server) made(ctx context.Context, role string) (*sensorv1.SignedPack, error) {
	m := &s.packs
	m.mu.Lock()
	defer m.mu.Unlock()
	now := s.cfg.Now()
	if kept, ok := m.made[role]; ok && now.Sub(kept.at) < madeFor {
		return kept.signed, nil
	}
	p, err := s.cfg.Packs.MadePack(ctx, role)
	if err != nil {
		return nil, fmt.Errorf("making a pack of role %s: %w", role, err)
	}
	var signed *sensorv1.SignedPack
	if p != nil {
		p.ClusterId, p.Role, p.MadeAt = s.cfg.Authority.Cluster(), role, now.UnixNano()
		payload, err := pack.Encode(p)
		if err != nil {
			return nil, fmt.Errorf("making a pack of role %s: %w", role, err)
		}
		signed = &sensorv1.SignedPack{Payload: payload}
	}
	if m.made == nil || len(m.made) >= maxMade {
		m.made = make(map[string]madePack)
	}
	m.made[role] = madePack{signed, now}
	return signed, nil
}

// sendPack waits until the sensor has it, or does not read: a pack is large, and one for
// thousands of hosts is not to lie before each of them at once.
func (s *Server) sendPack(ctx context.Context, n *session, signed *sensorv1.SignedPack, fleet bool) error {
	parts, err := pack.Parts(signed)
	if err != nil {
		return err
	}
	n.learns.sending.Lock()
	defer n.learns.sending.Unlock()
	wrote := make(chan struct{}, len(parts))
	for _, part := range parts {
		part.Fleet = fleet
		n.queue(outgoing{&sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Pack{Pack: part}}, wrote})
	}
	timer := time.NewTimer(partTime)
	defer timer.Stop()
	for range parts {
		select {
		case <-wrote:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	n.learns.sent(signed, fleet)
	return nil
}

// pushPack gives a pack that was just committed to the role's hosts that are connected here.
func (s *Server) pushPack(signed *sensorv1.SignedPack) {
	p, err := pack.Decode(signed.GetPayload())
	if err != nil || s.cfg.Packs == nil {
		return
	}
	if p.GetRole() == pack.Fleet {
		for _, n := range s.open() {
			if n.learns.takes && n.learns.fleets && s.sendPack(s.running, n, signed, true) != nil {
				return
			}
		}
		return
	}
	hosts, err := s.cfg.Packs.RoleHosts(s.running, p.GetRole())
	if err != nil {
		s.cfg.Logger.Warn("pack not pushed to the sensors; they get it when they connect", "role", p.GetRole(), "error", err)
		return
	}
	for _, host := range hosts {
		n := s.session(host)
		if n == nil || !n.learns.takes {
			continue
		}
		if err := s.sendPack(s.running, n, signed, false); err != nil {
			return
		}
	}
}
