package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Frozen is what came of Freeze.
type Frozen struct {
	PIDs     []int
	Groups   int // cgroups that they are in
	BySignal int // of them only stopped by signal
}

// String is for a report.
func (f Frozen) String() string {
	text := fmt.Sprintf("%d processes stand still in %d cgroups of their own, as the kernel says", len(f.PIDs), f.Groups)
	if f.BySignal > 0 {
		text += fmt.Sprintf("; %d of them could only be stopped by signal, which their owner can take back", f.BySignal)
	}
	return text
}

// Freeze stops the tree where it is. It may be called again to take in who was
// missed.
func (h *Host) Freeze(ctx context.Context, a Act) (Frozen, error) {
	if err := a.check(); err != nil {
		return Frozen{}, err
	}
	met, quiet := map[int]task{}, 0
	for range maxPasses {
		members, origins, err := h.members(a.Tree)
		if err != nil {
			return Frozen{}, err
		}
		if h.allHeld(a, members) && (len(met) > 0 || len(origins) == 0 || quiet > 0) {
			if quiet++; quiet > 1 {
				return h.proveFrozen(ctx, a, members)
			}
			if err := pause(ctx, h.cfg.Settle); err != nil {
				return Frozen{}, err
			}
			continue
		}
		if quiet, err = h.freezeRound(ctx, a, met); err != nil {
			return Frozen{}, err
		}
	}
	return Frozen{}, fmt.Errorf("%w: the target still grew after %d rounds", ErrSurvivors, maxPasses)
}

func (h *Host) allHeld(a Act, members map[int]task) bool {
	for pid, t := range members {
		if !h.isHeld(a, pid, t) {
			return false
		}
	}
	return true
}

// isHeld: in a frozen cgroup, be it another act's, or stopped by this one. When
// that other act ends, Keep takes over.
func (h *Host) isHeld(a Act, pid int, t task) bool {
	if at, ok := h.cgroupOf(pid); ok && strings.HasPrefix(filepath.Base(at), groupPrefix) {
		if frozen, err := h.wantsFrozen(at); err == nil && frozen {
			return true
		}
	}
	return t.stopped() && (slices.ContainsFunc(a.State.Stopped, t.is) || slices.ContainsFunc(a.State.Before, t.is))
}

// freezeRound moves who is of the tree while it cannot grow. It returns 1 when
// there was nobody to move, which Freeze counts as a quiet look.
func (h *Host) freezeRound(ctx context.Context, a Act, met map[int]task) (int, error) {
	s, err := h.holdStill(ctx, a)
	if err != nil {
		return 0, err
	}
	defer s.release()
	fresh := 0
	for _, t := range sorted(s.members) {
		if h.isHeld(a, t.pid, t) {
			met[t.pid] = t
			continue
		}
		fresh++
		p, ok := h.hold(t)
		if !ok {
			continue
		}
		err := h.freezeOne(a, p, t)
		p.close()
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, err
		}
		met[t.pid] = t
	}
	if fresh == 0 {
		return 1, nil
	}
	return 0, nil
}

// freezeOne moves a process into its frozen cgroup, or stops it by signal where
// that is not possible.
func (h *Host) freezeOne(a Act, p pidfd, t task) error {
	origin, ok := h.cgroupOf(t.pid)
	if ok {
		err := h.openGroup(a, origin)
		if err == nil {
			err = h.move(p, t, origin, a.group(origin))
		}
		if err == nil || errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	if t.stopped() {
		a.State.Before = append(a.State.Before, t.key())
		return nil
	}
	if !slices.ContainsFunc(a.State.Stopped, t.is) {
		a.State.Stopped = append(a.State.Stopped, t.key())
		a.Save()
	}
	if err := p.signal(unix.SIGSTOP); err != nil {
		return fmt.Errorf("stopping process %s: %w", t, err)
	}
	return nil
}

// openGroup makes the frozen cgroup inside origin. It is frozen before anybody is
// in it, so that who comes stands still on arrival and his children are born so.
func (h *Host) openGroup(a Act, origin string) error {
	group := a.group(origin)
	if !slices.Contains(a.State.Origins, origin) {
		if len(a.State.Origins) >= maxOrigins {
			return fmt.Errorf("the target is in more than %d cgroups", maxOrigins)
		}
		a.State.Origins = append(a.State.Origins, origin)
		a.Save()
	}
	if err := os.Mkdir(h.file(group, ""), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	frozen, err := h.wantsFrozen(group)
	if err != nil || frozen {
		return err
	}
	return h.setFrozen(group, true)
}

// proveFrozen reads back what the kernel says of each cgroup and each member.
func (h *Host) proveFrozen(ctx context.Context, a Act, members map[int]task) (Frozen, error) {
	var result Frozen
	groups := map[string]bool{}
	for _, origin := range a.State.Origins {
		if _, err := os.Stat(h.file(a.group(origin), "")); err == nil {
			groups[a.group(origin)] = true
		}
	}
	for pid, t := range members {
		at, ok := h.cgroupOf(pid)
		if ok && strings.HasPrefix(filepath.Base(at), groupPrefix) {
			groups[at] = true
			continue
		}
		if now, ok := h.look(pid); ok && now.start == t.start && !now.dead() {
			if !now.stopped() {
				return result, fmt.Errorf("%w: process %s runs", ErrSurvivors, now)
			}
			result.PIDs = append(result.PIDs, pid)
			result.BySignal++
		}
	}
	for group := range groups {
		if err := h.awaitFrozen(ctx, group, h.cfg.Wait); err != nil {
			return result, fmt.Errorf("%w: %w", ErrSurvivors, err)
		}
		pids, err := h.pids(group)
		if err != nil {
			return result, fmt.Errorf("reading who is frozen: %w", err)
		}
		result.PIDs = append(result.PIDs, pids...)
		result.Groups++
	}
	slices.Sort(result.PIDs)
	if len(result.PIDs) == 0 {
		return result, ErrNobody
	}
	return result, nil
}

// Thaw puts everybody back where he was and lets him go on.
func (h *Host) Thaw(a Act) error {
	h.Recover(a.State)
	var problems []error
	for _, origin := range a.State.Origins {
		problems = append(problems, h.dissolve(origin, a.group(origin)))
	}
	for _, key := range a.State.Stopped {
		t, ok := h.look(int(key.PID))
		if !ok || !t.is(key) {
			continue
		}
		if p, ok := h.hold(t); ok {
			problems = append(problems, p.signal(unix.SIGCONT))
			p.close()
		}
	}
	err := errors.Join(problems...)
	if err == nil {
		*a.State = State{}
	}
	return err
}

// dissolve moves everybody from group back to origin and removes it. A frozen
// process runs on as it arrives in a cgroup that is not.
func (h *Host) dissolve(origin, group string) error {
	for range maxPasses {
		pids, err := h.pids(group)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("thawing %s: %w", group, err)
		}
		var stuck error
		for _, pid := range pids {
			if err := write(h.file(origin, "cgroup.procs"), fmt.Sprint(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
				stuck = err
			}
		}
		if stuck != nil {
			// Somebody gave the origin controllers meanwhile, so that it may hold no
			// process of its own: they run on where they are.
			if err := h.setFrozen(group, false); err != nil {
				return fmt.Errorf("thawing %s: %w", group, err)
			}
			return nil
		}
		err = os.Remove(h.file(group, ""))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("removing cgroup %s: %w", group, err)
		}
	}
	// Zombies that nobody reaps hold a cgroup; a thawed one harms nobody.
	return h.setFrozen(group, false)
}

// Keep freezes again what somebody thawed or what was forked out of sight; true
// when it had to.
func (h *Host) Keep(ctx context.Context, a Act) (bool, error) {
	again := false
	for _, origin := range a.State.Origins {
		group := a.group(origin)
		frozen, err := h.wantsFrozen(group)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return again, fmt.Errorf("looking at cgroup %s: %w", group, err)
		}
		if !frozen {
			again = true
			if err := h.setFrozen(group, true); err != nil {
				return again, fmt.Errorf("freezing %s again: %w", group, err)
			}
		}
	}
	members, _, err := h.members(Tree{Members: a.Tree.Members})
	if err != nil {
		return again, err
	}
	if h.allHeld(a, members) {
		return again, nil
	}
	_, err = h.Freeze(ctx, a)
	return true, err
}

// Anybody says whether something is left of a freeze that could be thawed.
func (h *Host) Anybody(a Act) bool {
	for _, origin := range a.State.Origins {
		if pids, err := h.pids(a.group(origin)); err == nil && len(pids) > 0 {
			return true
		}
	}
	for _, key := range a.State.Stopped {
		if t, ok := h.look(int(key.PID)); ok && t.is(key) && !t.dead() {
			return true
		}
	}
	return false
}

// Leftovers are the origins of frozen cgroups of any operation that keep does not
// name: what a lost record would leave frozen.
func (h *Host) Leftovers(keep map[string]bool) map[string][]string {
	left := map[string][]string{}
	if h.cfg.Cgroup == "" {
		return left
	}
	_ = filepath.WalkDir(h.cfg.Cgroup, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil //nolint:nilerr // one that vanished as it was listed
		}
		operation, ours := strings.CutPrefix(entry.Name(), groupPrefix)
		if !ours || keep[operation] || !operationName.MatchString(operation) {
			return nil
		}
		relative := "/" + strings.TrimPrefix(strings.TrimPrefix(path, h.cfg.Cgroup), "/")
		if frozen, err := h.wantsFrozen(relative); err == nil && frozen {
			left[operation] = append(left[operation], filepath.Dir(relative))
		}
		return filepath.SkipDir
	})
	return left
}
