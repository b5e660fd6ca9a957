package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// maxHeld bounds the descriptors of one round: the rest of the sensor needs some.
const maxHeld = 2048

// Killed is what came of Kill.
type Killed struct {
	PIDs   []int // ended by it
	Rounds int   // in which somebody was found
}

// String is for a report.
func (k Killed) String() string {
	return fmt.Sprintf("%d processes were killed in %d rounds; none of the target was left in two looks after that", len(k.PIDs), k.Rounds)
}

// Kill ends the tree and proves that nothing of it is left. There is no undo. The
// act's State is empty again when it returns.
func (h *Host) Kill(ctx context.Context, a Act) (Killed, error) {
	if err := a.check(); err != nil {
		return Killed{}, err
	}
	killed := map[int]bool{}
	var result Killed
	quiet := 0
	for range maxPasses {
		members, origins, err := h.members(a.Tree)
		if err != nil {
			return result, err
		}
		if len(members) == 0 && (len(origins) == 0 || quiet > 0) {
			if quiet++; quiet > 1 {
				result.PIDs = slices.Sorted(maps.Keys(killed))
				return result, nil
			}
			if err := pause(ctx, h.cfg.Settle); err != nil {
				return result, err
			}
			continue
		}
		met, err := h.killRound(ctx, a, killed)
		if err != nil {
			return result, err
		}
		if met == 0 {
			// Only dead ones were told; the look that counts is after a pause.
			quiet = max(quiet, 1)
			if err := pause(ctx, h.cfg.Settle); err != nil {
				return result, err
			}
			continue
		}
		quiet = 0
		result.Rounds++
	}
	members, _, err := h.members(a.Tree)
	if err != nil {
		return result, err
	}
	return result, fmt.Errorf("%w: after %d rounds there are still %d, such as %s", ErrSurvivors, maxPasses, len(members), some(members))
}

// killRound ends who is of the tree while it cannot grow, and says how many.
func (h *Host) killRound(ctx context.Context, a Act, killed map[int]bool) (int, error) {
	s, err := h.holdStill(ctx, a)
	if err != nil {
		return 0, err
	}
	defer s.release()
	held := map[int]pidfd{}
	defer func() {
		for _, p := range held {
			p.close()
		}
	}()
	if s.loose {
		// Who cannot be paused is stopped one by one, until a look finds no other.
		h.chase(a, s.members, held)
	}
	for _, t := range sorted(s.members) {
		p, have := held[t.pid]
		if !have {
			if len(held) >= maxHeld {
				break // the next round goes on with the others
			}
			if p, have = h.hold(t); !have {
				continue
			}
			held[t.pid] = p
		}
		switch err := p.signal(unix.SIGKILL); {
		case err == nil:
			killed[t.pid] = true
		case errors.Is(err, unix.EPERM):
			return 0, fmt.Errorf("killing process %s (the sensor needs CAP_KILL): %w", t, err)
		}
	}
	s.release()
	return len(s.members), h.awaitEnd(ctx, s.members, held)
}

// chase stops by signal, and looks again for who was forked meanwhile. It bounds
// its looks: what escapes is met in the next round.
func (h *Host) chase(a Act, members map[int]task, held map[int]pidfd) {
	for range 32 {
		stopped := 0
		for _, t := range sorted(members) {
			if _, have := held[t.pid]; have {
				continue
			}
			if len(held) >= maxHeld {
				return
			}
			p, ok := h.hold(t)
			if !ok {
				delete(members, t.pid)
				continue
			}
			held[t.pid] = p
			if p.signal(unix.SIGSTOP) == nil {
				stopped++
			}
		}
		if stopped == 0 {
			return
		}
		more, _, err := h.members(a.Tree)
		if err != nil {
			return // the next round's first look says it
		}
		maps.Copy(members, more)
	}
}

// awaitEnd waits until the killed are dead; their parents may never reap them.
func (h *Host) awaitEnd(ctx context.Context, members map[int]task, held map[int]pidfd) error {
	deadline := time.Now().Add(h.cfg.Wait)
	for {
		left := map[int]task{}
		for pid, p := range held {
			// A pidfd is readable once the process is a zombie.
			fds := []unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}
			if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
				continue
			}
			if now, ok := h.look(pid); ok && now.start == members[pid].start && !now.dead() {
				left[pid] = now
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %d did not end within %s of SIGKILL, such as %s: they wait in the kernel for a disk or a network file system", ErrSurvivors, len(left), h.cfg.Wait, some(left))
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// some names a few.
func some(tasks map[int]task) string {
	const most = 5
	var names []string
	for _, t := range sorted(tasks) {
		if names = append(names, t.String()); len(names) == most {
			break
		}
	}
	return strings.Join(names, ", ")
}

// End kills one process, whoever it descends from and whatever it started; false:
// it is gone already, or another has its PID.
func (h *Host) End(key event.ProcessKey) (bool, error) {
	t, ok := h.look(int(key.PID))
	if !ok || !t.is(key) || t.dead() {
		return false, nil
	}
	if why, bad := h.protected()[t.pid]; bad || t.flags&kernelThread != 0 {
		return false, fmt.Errorf("%w: process %s: %s", ErrProtected, t, why)
	}
	p, ok := h.hold(t)
	if !ok {
		return false, nil
	}
	defer p.close()
	if err := p.signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("killing process %s: %w", t, err)
	}
	return true, nil
}
