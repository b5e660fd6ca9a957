package process

import (
	"context"
	"slices"
	"time"
)

// pauseLimit is how long a pause waits for the last task of a cgroup; what did
// not stop by then is chased as if there were no cgroup.
const pauseLimit = 300 * time.Millisecond

// still is a moment in which the tree cannot grow.
type still struct {
	host    *Host
	act     Act
	paused  []string
	members map[int]task
	origins map[string]bool
	// loose: some member lives where nothing can be paused.
	loose bool
}

// hold pauses the cgroups of the tree and asks for it until it says the same
// twice. release must be called whatever comes.
func (h *Host) holdStill(ctx context.Context, a Act) (s *still, err error) {
	s = &still{host: h, act: a}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	last := -1
	for range maxPasses {
		if s.members, s.origins, err = h.members(a.Tree); err != nil {
			return s, err
		}
		grew := s.pauseAll(ctx)
		if !grew && len(s.members) == last {
			return s, nil
		}
		last = len(s.members)
		// What was forked before the pause is told within a moment.
		if err = pause(ctx, h.cfg.Settle/4); err != nil {
			return s, err
		}
	}
	return s, nil
}

// pauseAll freezes the origins that may be and are not yet; true when it froze one.
func (s *still) pauseAll(ctx context.Context) (grew bool) {
	h := s.host
	s.loose = h.cfg.Cgroup == ""
	var fresh []string
	for origin := range s.origins {
		if slices.Contains(s.paused, origin) || slices.ContainsFunc(s.paused, func(p string) bool { return inside(origin, p) }) {
			continue
		}
		if !h.mayPause(origin) || len(s.paused)+len(fresh) >= maxOrigins {
			s.loose = true
			continue
		}
		// One that somebody else froze is still already, and not ours to thaw.
		if frozen, err := h.wantsFrozen(origin); err != nil || frozen {
			continue
		}
		fresh = append(fresh, origin)
	}
	if len(fresh) == 0 {
		return false
	}
	slices.Sort(fresh)
	s.act.State.Paused = append(s.act.State.Paused, fresh...)
	s.act.Save()
	for _, origin := range fresh {
		s.paused = append(s.paused, origin)
		if h.setFrozen(origin, true) != nil || h.awaitFrozen(ctx, origin, pauseLimit) != nil {
			s.loose = true
		}
	}
	return true
}

// mayPause: not the root, and nothing in it that must go on.
func (h *Host) mayPause(origin string) bool {
	if origin == "/" || h.cfg.Cgroup == "" {
		return false
	}
	for pid := range h.protected() {
		if at, ok := h.cgroupOf(pid); ok && inside(at, origin) {
			return false
		}
	}
	return true
}

// release lets everybody go on who was only paused.
func (s *still) release() {
	for _, origin := range s.paused {
		_ = s.host.setFrozen(origin, false) // gone with its last process: nothing to thaw
	}
	s.act.State.Paused = slices.DeleteFunc(s.act.State.Paused, func(p string) bool { return slices.Contains(s.paused, p) })
	s.paused = nil
}

// Recover takes back pauses that a killed sensor left.
func (h *Host) Recover(state *State) {
	if h.cfg.Cgroup == "" {
		return
	}
	for _, origin := range state.Paused {
		_ = h.setFrozen(origin, false)
	}
	state.Paused = nil
}
