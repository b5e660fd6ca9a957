package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// trustEvery is how often a node looks whether there is another list of trusted
	// authorities: beside the entry that brings it, since a snapshot may.
	trustEvery = time.Second
	keyTimeout = 5 * time.Second
)

// keepTrust has this node go by the newest list of trusted authorities, and says so when it
// has the list and all keys on disk, until ctx ends.
func (c *Coordinator) keepTrust(ctx context.Context, logger *slog.Logger, node *consensus.Node, listener *link.Listener) error {
	ticker := time.NewTicker(trustEvery)
	defer ticker.Stop()
	for said := ""; ; {
		err := c.takeTrust(ctx, node, listener)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			logger.Warn("the list of trusted authorities is not taken wholly; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *Coordinator) takeTrust(ctx context.Context, node *consensus.Node, listener *link.Listener) error {
	signed, err := node.DB().Trust(ctx)
	if err != nil || signed == nil {
		return err
	}
	before := c.identity.TrustEpoch()
	err = c.identity.TakeTrust(signed, func(name []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, keyTimeout)
		defer cancel()
		return node.AuthorityKey(ctx, name)
	})
	epoch := c.identity.TrustEpoch()
	if epoch != before {
		// Who came by an authority that went has no place any more.
		listener.Sweep(time.Now())
	}
	if err != nil {
		return err
	}
	noted, err := node.DB().NodeTrust(ctx, c.cfg.ID)
	if err != nil || noted >= epoch {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	res, err := node.Propose(ctx, &raftv1.Command{Time: time.Now().UnixNano(), Actor: "node:" + c.cfg.ID,
		Body: &raftv1.Command_NoteTrust{NoteTrust: &raftv1.NoteTrust{Nodes: []*raftv1.HolderTrust{{Name: c.cfg.ID, Epoch: epoch}}}}})
	if err == nil && res.GetRejected() != "" {
		err = errors.New(res.GetMessage())
	}
	if err != nil {
		return fmt.Errorf("saying that this node has the list: %w", err)
	}
	return nil
}

// trustFromJoin keeps the list that came with an enrolment: the other nodes may show
// certificates by an authority that is in it alone. Keys come later, from members to a member.
func trustFromJoin(n *identity.Node, signed *sensorv1.SignedTrust) error {
	if signed == nil {
		return nil
	}
	err := n.TakeTrust(signed, func([]byte) ([]byte, error) { return nil, identity.ErrNoKey })
	if errors.Is(err, identity.ErrNoKey) {
		return nil
	}
	return err
}
