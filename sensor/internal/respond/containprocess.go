package respond

import (
	"context"
	"errors"
	"fmt"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond/process"
)

// addProcess brings freeze and kill.
func (c *containments) addProcess() {
	host := process.Open(c.cfg.Process)
	act := func(one *containment, state *process.State, save func()) (process.Act, error) {
		tree, err := c.tree(one.target())
		return process.Act{
			Operation: one.ID, Tree: tree, State: state,
			Save: func() { one.remember(state); save() },
		}, err
	}
	check := func(what string) func(context.Context, *sensorv1.Target) (string, error) {
		return func(_ context.Context, t *sensorv1.Target) (string, error) {
			tree, err := c.tree(t)
			if err != nil {
				return "", err
			}
			plan, err := host.Plan(tree)
			if err != nil {
				return "", err
			}
			text := what + " " + plan.String()
			if plan.Stopped > 0 {
				text += fmt.Sprintf("; %d of them are stopped already and stay so after an undo", plan.Stopped)
			}
			if plan.BySignal != "" {
				text += "; by signal only: " + plan.BySignal
			}
			return text, nil
		}
	}
	c.remedies[sensorv1.Action_ACTION_KILL] = &remedy{
		final: true, check: check("kill"),
		apply: func(ctx context.Context, one *containment, save func()) (string, error) {
			var state process.State
			if err := one.recall(&state); err != nil {
				return "", err
			}
			a, err := act(one, &state, save)
			if err != nil {
				return "", err
			}
			host.Recover(&state)
			killed, err := host.Kill(ctx, a)
			return killed.String(), err
		},
	}
	c.remedies[sensorv1.Action_ACTION_FREEZE] = &remedy{
		transient: true, check: check("freeze"),
		apply: func(ctx context.Context, one *containment, save func()) (string, error) {
			var state process.State
			if err := one.recall(&state); err != nil {
				return "", err
			}
			a, err := act(one, &state, save)
			if err != nil {
				return "", err
			}
			host.Recover(&state)
			frozen, err := host.Freeze(ctx, a)
			one.remember(state)
			return frozen.String(), err
		},
		undo: func(_ context.Context, one *containment) (string, error) {
			var state process.State
			if err := one.recall(&state); err != nil {
				return "", err
			}
			err := host.Thaw(process.Act{Operation: one.ID, State: &state})
			if err == nil {
				one.State = nil
			}
			return "", err
		},
		keep: func(ctx context.Context, one *containment, save func()) (string, error) {
			var state process.State
			if err := one.recall(&state); err != nil {
				return "", err
			}
			a, err := act(one, &state, save)
			if err != nil {
				// An adopted one has no target: what was found is what is kept.
				a.Tree = process.Tree{Members: func() []process.Member { return nil }}
			}
			if len(state.Paused) > 0 {
				host.Recover(&state)
				a.Save()
			}
			again, err := host.Keep(ctx, a)
			if again {
				one.remember(state)
				return "frozen processes were thawed or joined by others", err
			}
			return "", err
		},
		recover: func() []*containment {
			var found []*containment
			for id, origins := range host.Leftovers(nil) {
				one := &containment{ID: id}
				one.remember(process.State{Origins: origins})
				found = append(found, one)
			}
			return found
		},
	}
}

// tree is what a target names, asked anew each time.
func (c *containments) tree(t *sensorv1.Target) (process.Tree, error) {
	switch p := t.GetProcess(); {
	case t.GetStoryline() != "" && p != nil:
		return process.Tree{}, fmt.Errorf("%w: a storyline or a process, not both", ErrNoTarget)
	case t.GetStoryline() != "":
		if c.cfg.Storyline == nil {
			return process.Tree{}, errors.New("this sensor keeps no storylines: name a process")
		}
		id := t.GetStoryline()
		return process.Tree{Members: func() []process.Member { return c.cfg.Storyline(id) }}, nil
	case p.GetPid() != 0 && p.GetStart() != 0:
		root := process.Member{Key: event.ProcessKey{PID: p.GetPid(), Start: p.GetStart()}}
		return process.Tree{Descend: true, Members: func() []process.Member {
			if c.cfg.Descendants == nil {
				return []process.Member{root}
			}
			return append(c.cfg.Descendants(root), root)
		}}, nil
	}
	return process.Tree{}, fmt.Errorf("%w: name a storyline, or a process by pid and start", ErrNoTarget)
}
