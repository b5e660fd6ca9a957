package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// switchTries is how often the kill switch is signed anew when others apply intents at
// the same time: it must not lose to somebody's edit.
const switchTries = 5

func (a *app) automationCommand() *cobra.Command {
	return noun("automation", "the kill switch of everything that is done without a person",
		"  vedette automation off --reason \"it cuts off the wrong hosts\"\n  vedette automation on --reason \"the rule is mended\"",
		a.automationOffCommand(), a.automationOnCommand())
}

func (a *app) automationOffCommand() *cobra.Command {
	ch := new(change)
	c := &cobra.Command{
		Use:   "off --reason TEXT",
		Short: "stop all automation on all hosts, now",
		Long: `Makes a new version of the intent that differs in one thing: automation is off. Hosts and
coordinators that hold it do nothing without a person, whatever the policies say; what is
contained stays contained until its lease ends or somebody releases it. Nothing is asked,
because it is the safe direction. It takes an admin, and seconds: --wait shows them.`,
		Example: "  vedette automation off --reason \"it cuts off the wrong hosts\"\n  vedette automation off --reason \"drill\" --wait",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			if strings.TrimSpace(ch.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			return ch.flip(ctx, s, true)
		}),
	}
	c.Flags().StringVar(&ch.reason, "reason", "", "why, for the record")
	ch.common(c)
	return c
}

func (a *app) automationOnCommand() *cobra.Command {
	ch := new(change)
	c := &cobra.Command{
		Use:   "on --reason TEXT",
		Short: "let automation do again what the policies permit",
		Long: `Makes a new version of the intent that differs in one thing: automation is on. It takes an
admin, and is asked about.`,
		Example: "  vedette automation on --reason \"the rule is mended\"",
		Args:    none,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			if strings.TrimSpace(ch.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			return ch.turnOn(ctx, s)
		}),
	}
	c.Flags().StringVar(&ch.reason, "reason", "", "why, for the record")
	c.Flags().BoolVarP(&ch.yes, "yes", "y", false, "do not ask")
	ch.common(c)
	return c
}

func (ch *change) turnOn(ctx context.Context, s *session) error {
	looking, looked := s.limit(ctx)
	before, spread, err := s.inForce(looking)
	looked()
	if err != nil {
		return err
	}
	if before.Effective().GetAutomationOff() && !ch.yes {
		tty, ok := s.terminal()
		if !ok {
			return usage("nobody can be asked here (no terminal): look at vedette intent show, then repeat with --yes")
		}
		defer func() { _ = tty.Close() }()
		s.say("automation is off since %s, by %s: %s", clock(before.Content.GetIssuedAt()), before.Signer, before.Content.GetReason())
		question := fmt.Sprintf("About to switch automation on for %s. Type %d, the new version, to go on: ", plural(int(spread.Hosts), "host"), before.Version()+1)
		if err := ask(ctx, tty, question, fmt.Sprint(before.Version()+1)); err != nil {
			return err
		}
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	return ch.flip(ctx, s, false)
}

// flip makes the version in force again with the switch turned, and nothing else.
func (ch *change) flip(ctx context.Context, s *session, off bool) error {
	if ch.key == "" {
		ch.key = client.NewID("key")
	}
	for try := 1; ; try++ {
		before, spread, err := s.inForce(ctx)
		if errors.Is(err, client.ErrIntentChain) && off {
			// The version itself is signed by an admin, and off is the safe direction.
			s.say("warning: %v", err)
			err = nil
		}
		if err != nil {
			return err
		}
		if before.Effective().GetAutomationOff() == off {
			return ch.already(ctx, s, before, spread)
		}
		next := &sensorv1.Intent{}
		if before != nil {
			next = proto.CloneOf(before.Content)
		}
		next.AutomationOff, next.Reason, next.Restores = off, ch.reason, 0
		applied, err := s.api.ApplyIntent(ctx, next, before, ch.key)
		switch {
		case err == nil:
			s.say("automation is %s", automationWord(applied))
			return ch.applied(ctx, s, applied)
		case !errors.Is(err, client.ErrIntentStale) || try == switchTries:
			return err
		}
		s.say("somebody else applied an intent meanwhile; signing it again on top of that")
	}
}

// already says that nothing had to be done.
func (ch *change) already(ctx context.Context, s *session, i *client.Intent, spread client.Spread) error {
	if i == nil {
		s.say("automation is on, and nothing is permitted to it: no intent was ever applied; nothing was done")
		return nil
	}
	s.say("automation is %s already, by version %d of %s at %s: %s", automationWord(i), i.Version(), i.Signer, clock(i.Content.GetIssuedAt()), i.Content.GetReason())
	if ch.wait {
		if err := s.waitIntent(ctx, i.Version()); err != nil {
			return err
		}
	}
	return s.showIntent(i, spread)
}
