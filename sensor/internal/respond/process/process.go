// Package process stops and ends process trees of this host, whatever they do
// meanwhile, and lets stopped ones go on where they were.
//
// A tree is not a list: its processes fork while they are looked at. So nothing
// here trusts one look. The cgroups that members live in are paused (cgroup.freeze,
// which a child is born into), the tree is asked for until it says the same twice,
// and only then is acted on; after that it is asked for again until nobody is left
// over. A pause lasts some milliseconds, is on disk before it begins, and is taken
// back by a restart.
//
// Frozen processes are moved into a cgroup of their own inside the one that they
// were in, and back from it: their unit, their limits and who accounts for them
// stay the same, a process that was stopped before stays stopped after, and the
// place to go back to is the folder above, so that even a lost record leaves
// nobody frozen for ever.
//
// Where there is no cgroup v2, or a process cannot be moved, it is stopped by
// signal, which its parent can see and its owner can undo; that is said.
//
// Never touched: the sensor, its ancestors, PID 1 and kernel threads.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

var (
	// ErrProtected: acting would end or stop what must go on.
	ErrProtected = errors.New("refused")
	// ErrNobody: nothing of the tree lives.
	ErrNobody = errors.New("no living process belongs to the target")
	// ErrSurvivors: something of the tree still lives or runs.
	ErrSurvivors = errors.New("not every process of the target could be stopped or ended")
	// ErrOperation: the name cannot be part of a cgroup's.
	ErrOperation = errors.New("an operation's id is 1 to 64 of a-z, A-Z, 0-9 and -")
)

// Bounds.
const (
	// MaxMembers is what one containment acts on at most: beyond, the target is
	// the host, and isolation is the answer.
	MaxMembers = 1 << 15
	// maxPasses bounds the rounds against a tree that grows as it is worked on.
	maxPasses = 400
	// maxOrigins bounds the cgroups of one tree.
	maxOrigins = 256
)

// Member is a process that belongs to a tree.
type Member struct {
	Key event.ProcessKey
	// Cgroup is where it was seen last, a path below the v2 mount; may be empty. It
	// lets a line of processes that each live for microseconds be paused.
	Cgroup string
}

// Tree says who is of a target now, whatever became of their parents. It is asked
// until it repeats itself; it may leave out processes that were forked some
// milliseconds ago, and may name dead ones.
type Tree struct {
	Members func() []Member
	// Descend adds whoever descends from a member by /proc's word.
	Descend bool
}

// Config is what a Host needs; all has a default.
type Config struct {
	// Proc is where proc is mounted, default /proc.
	Proc string
	// Cgroup is where cgroup v2 is mounted, default what mountinfo says. "none" is
	// for a host without.
	Cgroup string
	// Self is the sensor's PID, default this process's.
	Self int
	// Settle is how long the tree must say the same, default 20 ms: longer than a
	// fork takes to be told.
	Settle time.Duration
	// Wait bounds the wait for a process to stop or to end, default 5 s.
	Wait time.Duration
}

// Host acts on the processes of this host.
type Host struct{ cfg Config }

// Open changes nothing.
func Open(cfg Config) *Host {
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	switch cfg.Cgroup {
	case "":
		cfg.Cgroup = findCgroup2(cfg.Proc)
	case "none":
		cfg.Cgroup = ""
	}
	if cfg.Self == 0 {
		cfg.Self = os.Getpid()
	}
	if cfg.Settle <= 0 {
		cfg.Settle = 20 * time.Millisecond
	}
	if cfg.Wait <= 0 {
		cfg.Wait = 5 * time.Second
	}
	return &Host{cfg}
}

// State is what must be on disk before something is done, to be undone after.
type State struct {
	// Paused are cgroups that this package froze for a moment.
	Paused []string `json:"paused,omitempty"`
	// Origins are cgroups that processes were taken out of.
	Origins []string `json:"origins,omitempty"`
	// Stopped are those that were stopped by signal and ran before.
	Stopped []event.ProcessKey `json:"stopped,omitempty"`
	// Before are those that were stopped by somebody else and could not be moved:
	// they stay as they are, now and after.
	Before []event.ProcessKey `json:"before,omitempty"`
}

// Act is one containment at work.
type Act struct {
	Operation string
	Tree      Tree
	State     *State
	// Save is called before each thing that State says is done. An error of it
	// stops nothing: what could not be saved is told by whoever saves.
	Save func()
}

var operationName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

func (a Act) check() error {
	if !operationName.MatchString(a.Operation) {
		return fmt.Errorf("%w, not %q", ErrOperation, a.Operation)
	}
	if a.Tree.Members == nil {
		return errors.New("no tree to act on")
	}
	return nil
}

func (a Act) group(origin string) string {
	return strings.TrimSuffix(origin, "/") + "/" + groupPrefix + a.Operation
}

// protected are the PIDs that must go on, with why.
func (h *Host) protected() map[int]string {
	why := map[int]string{1: "it is PID 1", 2: "it is the parent of kernel threads"}
	for pid, depth := h.cfg.Self, 0; pid > 1 && depth < 256; depth++ {
		t, ok := h.look(pid)
		if !ok {
			break
		}
		if pid != h.cfg.Self {
			why[pid] = "the sensor descends from it"
		}
		pid = t.parent
	}
	why[h.cfg.Self] = "it is the sensor"
	return why
}

// members are the tree's living processes and the cgroups that they live or lived
// in. What must not be touched is an error, and nothing was done yet.
func (h *Host) members(tree Tree) (map[int]task, map[string]bool, error) {
	told := tree.Members()
	if len(told) > MaxMembers {
		return nil, nil, fmt.Errorf("%w: %d processes belong to the target, more than %d", ErrProtected, len(told), MaxMembers)
	}
	members, origins := map[int]task{}, map[string]bool{}
	for _, m := range told {
		if m.Cgroup != "" && m.Cgroup[0] == '/' && !strings.Contains(m.Cgroup, "/..") {
			origins[m.Cgroup] = true
		}
		if t, ok := h.look(int(m.Key.PID)); ok && t.is(m.Key) && !t.dead() {
			members[t.pid] = t
		}
	}
	if tree.Descend && len(members) > 0 {
		tasks, err := h.all()
		if err != nil {
			return nil, nil, err
		}
		below(tasks, members)
	}
	protected := h.protected()
	for pid, t := range members {
		why, bad := protected[pid]
		if !bad && t.flags&kernelThread != 0 {
			why, bad = "it is a kernel thread", true
		}
		if bad {
			return nil, nil, fmt.Errorf("%w: process %s belongs to the target, and %s", ErrProtected, t, why)
		}
		if t.dead() {
			delete(members, pid)
			continue
		}
		if cgroup, ok := h.cgroupOf(pid); ok {
			origins[cgroup] = true
		}
	}
	return members, origins, nil
}

// Plan is what an action would meet now.
type Plan struct {
	PIDs    []int
	Stopped int // stopped before
	Groups  []string
	// BySignal says why cgroups are of no use here; empty: they are.
	BySignal string
	names    []string
}

// Plan says who would be met and does nothing.
func (h *Host) Plan(tree Tree) (Plan, error) {
	members, origins, err := h.members(tree)
	if err != nil {
		return Plan{}, err
	}
	if len(members) == 0 {
		return Plan{}, ErrNobody
	}
	var plan Plan
	for _, t := range sorted(members) {
		plan.PIDs = append(plan.PIDs, t.pid)
		plan.names = append(plan.names, t.String())
		if t.stopped() {
			plan.Stopped++
		}
	}
	for origin := range origins {
		plan.Groups = append(plan.Groups, origin)
	}
	if h.cfg.Cgroup == "" {
		plan.BySignal = "cgroup v2 is not mounted"
	}
	return plan, nil
}

// String names at most twenty of them.
func (p Plan) String() string {
	const most = 20
	names := p.names
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return fmt.Sprintf("%d processes: %s%s", len(p.PIDs), strings.Join(names, ", "), more)
}

// pause waits without being deaf.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Protected are the PIDs that are never touched, with why.
func (h *Host) Protected() map[int]string { return h.protected() }

// Look is the member that has a PID now; false when nobody living has.
func (h *Host) Look(pid int) (Member, bool) {
	t, ok := h.look(pid)
	if !ok || t.dead() {
		return Member{}, false
	}
	cgroup, _ := h.cgroupOf(pid)
	return Member{Key: t.key(), Cgroup: cgroup}, true
}
