// Package roles finds which hosts do the same, on the leader, so that what is usual for one of
// them can be told to the others.
//
// Its one idea: a behaviour's key is a hash, so that the smallest keys of a host are a fair
// sample of what it does and the same ones on hosts that do the same. A host is compared by
// 128 of them with the groups that there are, never with every other host.
//
// Invariant: a role group says what is usual, never what is allowed. The governor counts by
// hosts.grp, which nothing here writes; no host is placed by its own label. What a host
// claims to do can bring it into a group all the same, where it is one voice among all.
package roles

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
}

const (
	// page is how many hosts are read at once.
	page = 200
	// perEntry bounds the hosts of a command: about 64 KiB.
	perEntry = 1000
	// groupsPerEntry bounds its groups: a sketch is 1 KiB.
	groupsPerEntry = 64
	// MaxHosts bounds what is looked at: 1 KiB of memory each while it is.
	MaxHosts = 50_000
)

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Every is how long after a look the next one begins (default 10 min), and Pause how long
	// the engine rests after a page of hosts (default 50 ms): 50,000 take a quarter of a minute.
	Every, Pause time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine looks while this node leads.
type Engine struct{ cfg Config }

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("roles configuration: Log and DB must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Every <= 0 {
		cfg.Every = 10 * time.Minute
	}
	if cfg.Pause <= 0 {
		cfg.Pause = 50 * time.Millisecond
	}
	return &Engine{cfg: cfg}, nil
}

// Run looks whenever this node leads, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	for failed := false; rest(ctx, e.cfg.Every); {
		if !e.cfg.Log.IsLeader() {
			continue
		}
		err := e.Look(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			e.cfg.Logger.Warn("role groups were not looked for; trying again", "error", err)
		}
		failed = err != nil
	}
	return nil
}

// rest waits, and says whether there is time for more.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Look reads the fleet once and proposes what is to change.
func (e *Engine) Look(ctx context.Context) error {
	var hosts []store.HostSketch
	for after := int64(-1); after != 0 && len(hosts) < MaxHosts; {
		some, next, err := e.cfg.DB.Sketches(ctx, after, page)
		if err != nil {
			return fmt.Errorf("reading what hosts do: %w", err)
		}
		hosts = append(hosts, some...)
		if after = next; after != 0 && !rest(ctx, e.cfg.Pause) {
			return ctx.Err()
		}
	}
	have, err := e.cfg.DB.RoleGroups(ctx)
	if err != nil {
		return fmt.Errorf("reading role groups: %w", err)
	}
	for _, change := range parts(plan(hosts, have)) {
		res, err := e.cfg.Log.Propose(ctx, &raftv1.Command{Time: e.cfg.Now().UnixNano(), Actor: "engine:roles", Body: &raftv1.Command_SetRoles{SetRoles: change}})
		if err == nil && res.GetRejected() != "" {
			err = fmt.Errorf("%s: %s", res.GetRejected(), res.GetMessage())
		}
		if err != nil {
			return fmt.Errorf("proposing role groups: %w", err)
		}
	}
	return nil
}

// parts cuts changes into entries: groups come before their hosts, and go after them.
func parts(all *raftv1.SetRoles) (out []*raftv1.SetRoles) {
	for groups := all.GetGroups(); len(groups) > 0; {
		n := min(len(groups), groupsPerEntry)
		out = append(out, &raftv1.SetRoles{Groups: groups[:n]})
		groups = groups[n:]
	}
	for hosts := all.GetHosts(); len(hosts) > 0; {
		n := min(len(hosts), perEntry)
		out = append(out, &raftv1.SetRoles{Hosts: hosts[:n]})
		hosts = hosts[n:]
	}
	for gone := all.GetDissolved(); len(gone) > 0; {
		n := min(len(gone), groupsPerEntry)
		out = append(out, &raftv1.SetRoles{Dissolved: gone[:n]})
		gone = gone[n:]
	}
	return out
}
