package ingest

import (
	"context"
	"sync"

	"github.com/vedette-edr/vedette/proto/grant"
)

// maxHostSets bounds the trees that are kept: a node that ten thousand hosts come
// back to would otherwise make the same one ten thousand times.
const maxHostSets = 64

// hostSets keeps the host sets of the newest operations. Its zero value, with
// read set, is empty.
type hostSets struct {
	read func(ctx context.Context, operation string) ([]string, error)

	mu    sync.Mutex
	order []string // oldest first
	sets  map[string]*grant.HostSet
}

// of returns the operation's host set.
func (h *hostSets) of(ctx context.Context, operation string) (*grant.HostSet, error) {
	h.mu.Lock()
	set := h.sets[operation]
	h.mu.Unlock()
	if set != nil {
		return set, nil
	}
	hosts, err := h.read(ctx, operation)
	if err != nil {
		return nil, err
	}
	return h.remember(operation, hosts)
}

// remember keeps the set of an operation whose hosts are at hand.
func (h *hostSets) remember(operation string, hosts []string) (*grant.HostSet, error) {
	set, err := grant.NewHostSet(hosts)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sets == nil {
		h.sets = make(map[string]*grant.HostSet)
	}
	if h.sets[operation] == nil {
		h.order = append(h.order, operation)
	}
	h.sets[operation] = set
	if len(h.order) > maxHostSets {
		delete(h.sets, h.order[0])
		h.order = h.order[1:]
	}
	return set, nil
}
