package kernel

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/decode"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Tasks lists the processes that run now, exactly as fork and exec name them:
// those of the scope, and their ancestors. A process that begins while the list
// is made may be missing; its fork and exec are in the rings, since those were
// attached before.
func (s *Source) Tasks(ctx context.Context) ([]Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := iterate(s.collection.Programs[bpf.VedetteProgListTasks])
	if err != nil {
		return nil, fmt.Errorf("listing tasks: %w", err)
	}
	all, err := decode.Tasks(raw)
	if err != nil {
		return nil, fmt.Errorf("listing tasks: %w", err)
	}
	return scopeTasks(addUnlisted(all, s.cfg.Scope.Kind == ScopeHost, nameOf)), nil
}

// addUnlisted adds processes that the iterator did not list although they are the
// parents of listed ones, so that the tree has no hole: one kernel that we run on
// leaves out PID 1. Their children know their exact identity.
func addUnlisted(all []decode.Task, inScope bool, name func(pid uint32) string) []decode.Task {
	listed := make(map[event.ProcessKey]bool, len(all))
	for _, t := range all {
		listed[t.Key] = true
	}
	for _, t := range all {
		if t.Parent.PID == 0 || listed[t.Parent] {
			continue
		}
		listed[t.Parent] = true
		all = append(all, decode.Task{Key: t.Parent, Comm: name(t.Parent.PID), InScope: inScope})
	}
	return all
}

func nameOf(pid uint32) string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "" // it has ended
	}
	return strings.TrimSuffix(string(comm), "\n")
}

// scopeTasks keeps what is in the scope, and its ancestors, in the kernel's order.
func scopeTasks(all []decode.Task) []Task {
	byKey := make(map[event.ProcessKey]decode.Task, len(all))
	for _, t := range all {
		byKey[t.Key] = t
	}
	keep := make(map[event.ProcessKey]bool, len(all))
	for _, t := range all {
		if !t.InScope {
			continue
		}
		for at, ok := t, true; ok && !keep[at.Key]; at, ok = byKey[at.Parent] {
			keep[at.Key] = true
		}
	}
	tasks := make([]Task, 0, len(keep))
	for _, t := range all {
		if keep[t.Key] {
			tasks = append(tasks, Task(t))
		}
	}
	return tasks
}
