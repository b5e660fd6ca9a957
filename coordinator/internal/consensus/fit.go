package consensus

import (
	"errors"
	"fmt"
)

// ErrUnfit: this node cannot be relied on now; other nodes can.
var ErrUnfit = errors.New("this node is not fit to serve, ask another one")

// Fit says why this node must not be relied on, nil when it may. A node that is not fit
// leads nobody, takes no proposals and answers no reads; it goes on storing what the others
// decide, and voting.
func (n *Node) Fit() error {
	if why := n.unfit(); why != "" {
		return fmt.Errorf("%w: %s", ErrUnfit, why)
	}
	return nil
}

func (n *Node) unfit() string {
	if d := n.differing.Load(); d != nil {
		return "its state differs from that of the other nodes, so it serves nobody and takes theirs over: wait, and look after its disk and memory"
	}
	if err := n.disk.failed(); err != nil {
		return err.Error()
	}
	if n.disk.stalled() {
		return fmt.Sprintf("a write has waited for its disk for more than %s: look after the disk, it goes on by itself", stallAfter)
	}
	return ""
}

// silent says whether this node must not speak as a leader or a candidate.
func (n *Node) silent() bool { return n.unfit() != "" }
