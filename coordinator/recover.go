package coordinator

import (
	"context"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Survey is what a node that does not run has on disk.
type Survey = consensus.Survey

// Look says what a node that does not run has, so that the one that has most can be chosen.
func Look(ctx context.Context, cfg Config) (string, Survey, error) {
	c, err := New(cfg)
	if err != nil {
		return "", Survey{}, err
	}
	lock, err := lockData(c.cfg.Data)
	if err != nil {
		return "", Survey{}, err
	}
	defer func() { _ = lock.Close() }()
	s, err := consensus.Look(ctx, c.cfg.Data, c.cfg.Logger)
	return c.cfg.ID, s, err
}

// Recover makes a node that does not run the only one of its cluster, which has lost its
// quorum for good. The other nodes must never start again with what they have: their
// machines join anew. It may be repeated after an interruption.
func Recover(ctx context.Context, cfg Config) (Survey, error) {
	c, err := New(cfg)
	if err != nil {
		return Survey{}, err
	}
	lock, err := lockData(c.cfg.Data)
	if err != nil {
		return Survey{}, err
	}
	defer func() { _ = lock.Close() }()
	self := &sensorv1.Node{Id: c.cfg.ID, Address: c.cfg.Advertise, OperatorAddress: c.cfg.OperatorAdvertise}
	s, err := consensus.Recover(ctx, c.cfg.Data, self, time.Now().UnixNano(), c.cfg.Logger)
	if err != nil {
		return s, err
	}
	if err := identity.ForgetPeers(c.cfg.Data); err != nil {
		return s, fmt.Errorf("the cluster is recovered, but the node still knows the others: %w", err)
	}
	return s, nil
}
