package respond

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond/account"
	"github.com/vedette-edr/vedette/sensor/internal/respond/process"
)

// sessionsEvery is how often a locked account is looked at for new log-ins: each
// look reads something of every process.
const sessionsEvery = 10 * time.Second

// locked is the state of a locked account.
type locked struct {
	account.Entry
	Process process.State `json:"process"`
}

// addAccount brings the lock of accounts.
func (c *containments) addAccount() {
	accounts := account.Open(c.cfg.Root)
	host := process.Open(c.cfg.Process)
	proc := c.cfg.Process.Proc
	if proc == "" {
		proc = "/proc"
	}
	// sessions leave out what must go on: the sensor may have been started by hand.
	sessions := func(uid uint32) (tree process.Tree, spared *int) {
		spared = new(int)
		return process.Tree{Members: func() []process.Member {
			*spared = 0
			protected := host.Protected()
			var members []process.Member
			for _, pid := range account.Owned(proc, uid) {
				if _, keep := protected[pid]; keep {
					*spared++
				} else if m, ok := host.Look(pid); ok {
					members = append(members, m)
				}
			}
			return members
		}}, spared
	}
	// end kills them. What is paused for that is on record before, and goes on after
	// a restart.
	end := func(ctx context.Context, one *containment, state *locked, save func()) (string, error) {
		tree, spared := sessions(state.UID)
		killed, err := host.Kill(ctx, process.Act{
			Operation: one.ID, Tree: tree, State: &state.Process, Save: func() { one.remember(state); save() },
		})
		one.remember(state)
		text := fmt.Sprintf("its sessions are ended: %d processes", len(killed.PIDs))
		if *spared > 0 {
			text += fmt.Sprintf(" (%d were spared: the sensor or what it descends from)", *spared)
		}
		return text, err
	}
	looked := map[string]time.Duration{}
	read := func(one *containment, save func()) (state locked, err error) {
		if err = one.recall(&state); err == nil && len(state.Process.Paused) > 0 {
			host.Recover(&state.Process)
			one.remember(state)
			save()
		}
		return state, err
	}

	c.remedies[sensorv1.Action_ACTION_LOCK_ACCOUNT] = &remedy{
		check: func(_ context.Context, t *sensorv1.Target) (string, error) {
			if t.GetAccount() == "" {
				return "", fmt.Errorf("%w: name an account", ErrNoTarget)
			}
			e, text, err := accounts.Check(t.GetAccount())
			if err != nil {
				return "", err
			}
			tree, _ := sessions(e.UID)
			switch plan, err := host.Plan(tree); {
			case errors.Is(err, process.ErrNobody):
				text += "; it has no process here"
			case err != nil:
				return "", err
			default:
				text += "; its sessions end, which has no undo: kill " + plan.String()
			}
			if e.UID < account.FirstPerson {
				text += "; its services go on (a UID below 1000)"
			}
			return text, nil
		},
		apply: func(ctx context.Context, one *containment, save func()) (string, error) {
			state, err := read(one, save)
			if err != nil {
				return "", err
			}
			_, err = accounts.Lock(ctx, one.ID, one.target().GetAccount(), state.Entry, func(e account.Entry) {
				state.Entry = e
				one.remember(state)
				save()
			})
			if err != nil {
				return "", err
			}
			text, err := end(ctx, one, &state, save)
			if err != nil {
				return "", err
			}
			looked[one.ID] = c.r.cfg.Clock.Boot()
			return "read back as locked; " + text, nil
		},
		undo: func(ctx context.Context, one *containment) (string, error) {
			if len(one.State) == 0 {
				return "", nil // nothing was changed yet
			}
			state, err := read(one, func() {})
			if err != nil {
				return "", err
			}
			return accounts.Unlock(ctx, one.ID, state.Entry)
		},
		keep: func(ctx context.Context, one *containment, save func()) (string, error) {
			state, err := read(one, save)
			if err != nil {
				return "", err
			}
			var drift []string
			open, err := accounts.IsOpen(one.ID, state.Entry)
			if err != nil {
				return "", err
			}
			if open != "" {
				drift = append(drift, "the lock was changed: "+open)
				_, err := accounts.Lock(ctx, one.ID, state.Name, state.Entry, func(e account.Entry) {
					state.Entry = e
					one.remember(state)
					save()
				})
				if err != nil {
					return "", err
				}
			}
			if now := c.r.cfg.Clock.Boot(); now-looked[one.ID] >= sessionsEvery {
				looked[one.ID] = now
				if tree, _ := sessions(state.UID); len(tree.Members()) > 0 {
					text, err := end(ctx, one, &state, save)
					if err != nil {
						return "", err
					}
					drift = append(drift, "the account was used: "+text)
				}
			}
			return strings.Join(drift, "; "), nil
		},
		forget: func(one *containment) { delete(looked, one.ID) },
		recover: func() []*containment {
			all, err := accounts.Locked()
			if err != nil {
				c.r.cfg.Logger.Warn("locked accounts cannot be looked for", "error", err)
			}
			var found []*containment
			for id, e := range all {
				one := &containment{ID: id}
				one.remember(locked{Entry: e})
				one.Target, _ = proto.MarshalOptions{Deterministic: true}.Marshal(&sensorv1.Target{Account: e.Name})
				found = append(found, one)
			}
			return found
		},
	}
}
