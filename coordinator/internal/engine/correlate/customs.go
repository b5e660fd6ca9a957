package correlate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
)

// Bounds of what is remembered of the fleet's customs: reading a host's is some milliseconds.
const (
	maxCustomHosts = 512
	maxCustomKinds = 4096
	customFor      = 10 * time.Minute
)

// customs answers from the behaviours in the store, and remembers the answers for a while.
type customs struct {
	db  *store.DB
	now func() time.Time

	ctx   context.Context //nolint:containedctx // of the plan that asks: begin sets it
	err   error
	read  time.Time
	fleet int
	hosts map[string][]store.Reach
	kinds map[indicator]int
}

func newCustoms(db *store.DB, now func() time.Time) *customs {
	return &customs{db: db, now: now, hosts: make(map[string][]store.Reach), kinds: make(map[indicator]int)}
}

// begin is called before a plan.
func (c *customs) begin(ctx context.Context) {
	c.ctx, c.err = ctx, nil
	if age := c.now().Sub(c.read); age >= 0 && age < customFor && len(c.hosts) <= maxCustomHosts && len(c.kinds) <= maxCustomKinds {
		return
	}
	c.read = c.now()
	clear(c.hosts)
	clear(c.kinds)
	if c.fleet, c.err = c.db.HostCount(ctx); c.err != nil {
		c.err = fmt.Errorf("counting hosts: %w", c.err)
	}
}

// failed is what went wrong since begin: a plan that does not know what is usual is none.
func (c *customs) failed() error { return c.err }

func (c *customs) Fleet() int { return c.fleet }

func (c *customs) Hosts(i indicator) int {
	if n, known := c.kinds[i]; known || i.usual == "" {
		return n
	}
	n, err := c.db.Usual(c.ctx, i.kindOf(), i.usual)
	if err != nil {
		c.err = errors.Join(c.err, fmt.Errorf("reading how usual %s is: %w", i.kind, err))
		return 0
	}
	c.kinds[i] = int(min(n, 1<<31))
	return c.kinds[i]
}

func (c *customs) Edge(host, image string, flow tuple, name string, before int64) (h habit) {
	reaches, known := c.hosts[host]
	if !known {
		var err error
		if reaches, err = c.db.Reaches(c.ctx, host); err != nil {
			c.err = errors.Join(c.err, fmt.Errorf("reading what %s is used to: %w", host, err))
			return habit{}
		}
		c.hosts[host] = reaches
	}
	return habitOf(reaches, image, flow, name, before)
}

// habitOf finds a connection among those that a host is used to. Programs run by an
// interpreter stand there as "interpreter script".
func habitOf(reaches []store.Reach, image string, flow tuple, name string, before int64) (h habit) {
	address := flow.server.Addr()
	peers := []string{address.String(), name}
	if !address.IsPrivate() {
		peers = []string{routed(address), registered(name), name}
	}
	head, tail := "out "+protocolName(flow.protocol)+" ", " "+service(uint32(flow.server.Port()))
	for _, r := range reaches {
		program, _, _ := strings.Cut(r.Subject, " ")
		peer, ok := strings.CutPrefix(r.Object, head)
		if !ok || program != image || r.First >= before {
			continue
		}
		if peer, ok = strings.CutSuffix(peer, tail); !ok || peer == "" {
			continue
		}
		h.Peers++
		if slices.Contains(peers, peer) {
			h.Count += r.Count
			if h.Since == 0 || r.First < h.Since {
				h.Since = r.First
			}
		}
	}
	return h
}
