package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// rehearsal is how far back findings are asked about before an intent is applied.
const rehearsal = 7 * 24 * time.Hour

// maxSaid bounds the lines that are said of a change.
const maxSaid = 40

// change is the command line of a new version of the intent.
type change struct {
	reason      string
	key         string
	from        uint64
	allowShrink bool
	dryRun      bool
	yes         bool
	wait        bool
}

func (ch *change) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&ch.allowShrink, "allow-shrink", false, "also when every policy, or more than a fifth of the policies, groups or protected hosts, is taken out")
	f.BoolVar(&ch.dryRun, "dry-run", false, "check it and say what would change, and do nothing")
	f.BoolVarP(&ch.yes, "yes", "y", false, "do not ask")
	ch.common(c)
}

// common are the flags of whatever makes a version.
func (ch *change) common(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&ch.wait, "wait", false, "wait until every connected host holds it, or --timeout is over")
	f.StringVar(&ch.key, "idempotency-key", "", "a repeated command with the same key makes no second version")
}

func (a *app) intentApplyCommand() *cobra.Command {
	ch := new(change)
	c := &cobra.Command{
		Use:   "apply FILE",
		Short: "sign an intent and put it into force, everywhere",
		Long: `Reads the file (- is stdin), checks it here, says what changes and what it would have done
about the findings of the last seven days, and asks. Then it is signed with your key on this
machine and held by every host within seconds. It takes an admin.

The file says which version it was made from (intent show -o yaml writes it): when somebody
else applied one meanwhile, nothing is done. The reason is --reason, or else the file's.`,
		Example:           "  vedette intent apply intent.yaml --reason \"databases by hand\"\n  vedette intent apply intent.yaml --dry-run\n  vedette intent apply - --yes --wait < intent.yaml",
		Args:              exactly("FILE"),
		ValidArgsFunction: completeFiles,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			next, err := readIntent(s.stdin, args[0])
			if err != nil {
				return err
			}
			if _, err := intent.Compile(next); err != nil {
				return exit(exitUsage, "%s: %w", args[0], err)
			}
			looking, looked := s.limit(ctx)
			defer looked()
			before, spread, err := s.inForce(looking)
			if err != nil {
				return err
			}
			if err := ch.madeFrom(args[0], next, before); err != nil {
				return err
			}
			if ch.reason != "" {
				next.Reason = ch.reason
			} else if before != nil && next.GetReason() == before.Content.GetReason() {
				s.say("note: the reason is still that of version %d, %q; --reason says why this one", before.Version(), next.GetReason())
			}
			return ch.apply(ctx, s, next, before, spread)
		}),
	}
	c.Flags().StringVar(&ch.reason, "reason", "", "why, for the record; the file's reason when not given")
	c.Flags().Uint64Var(&ch.from, "from", 0, "the version that the file was made from, where it does not say so")
	ch.flags(c)
	return c
}

// madeFrom refuses a file that was made from another version than the one in force: it
// would take back what somebody else changed.
func (ch *change) madeFrom(name string, next *sensorv1.Intent, before *client.Intent) error {
	from := next.GetVersion()
	if from == 0 {
		from = ch.from
	}
	switch {
	case ch.from != 0 && next.GetVersion() != 0 && ch.from != next.GetVersion():
		return usage("%s says that it was made from version %d, --from says %d", name, next.GetVersion(), ch.from)
	case from == before.Version():
		return nil
	case from == 0:
		return usage("%s does not say which version it was made from, and version %d is in force: look at 'vedette intent diff %s', then repeat with --from %d",
			name, before.Version(), name, before.Version())
	}
	return exit(exitError, "%s was made from version %d, and version %d is in force: look at 'vedette intent diff %d' for what others changed, and make the change again from 'vedette intent show -o yaml'; "+
		"an old version is put back with 'vedette intent rollback'", name, from, before.Version(), from)
}

func (a *app) intentRollbackCommand() *cobra.Command {
	ch := new(change)
	c := &cobra.Command{
		Use:   "rollback VERSION --reason TEXT",
		Short: "put the content of an older version back into force, as a new one",
		Long: `Makes a new version with the content of an old one: nothing is taken out of the record. It
is checked, shown and asked about as apply does; it takes an admin. Mind that the kill
switch is content, too: it is put back as it stood then.`,
		Example: "  vedette intent rollback 3 --reason \"version 4 was too eager\"",
		Args:    exactly("VERSION"),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			version, ok := versionOf(args[0])
			if !ok {
				return usage("%q is no version: they are counted from 1", args[0])
			}
			if strings.TrimSpace(ch.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			looking, looked := s.limit(ctx)
			defer looked()
			before, spread, err := s.inForce(looking)
			if err != nil {
				return err
			}
			if version >= before.Version() {
				return usage("version %d is in force; an older one can be put back: see vedette intent history", before.Version())
			}
			old, _, err := s.api.IntentVersion(looking, version)
			if err != nil {
				return err
			}
			next := proto.CloneOf(old.Content)
			next.Reason, next.Restores = ch.reason, version
			return ch.apply(ctx, s, next, before, spread)
		}),
	}
	c.Flags().StringVar(&ch.reason, "reason", "", "why, for the record")
	ch.flags(c)
	return c
}

// apply checks and shows what next changes, asks, signs it and sends it.
func (ch *change) apply(ctx context.Context, s *session, next *sensorv1.Intent, before *client.Intent, spread client.Spread) error {
	_, warnings, err := intent.Check(next)
	if err != nil {
		return exit(exitUsage, "%w", err)
	}
	if before != nil && intent.SameContent(next, before.Content) {
		s.say("nothing changes: version %d says the same already; nothing was done", before.Version())
		return s.showIntent(before, spread)
	}
	changes, err := intent.Diff(before.Effective(), next)
	if err != nil {
		return exit(exitError, "%w", err)
	}
	version := before.Version() + 1
	s.say("version %d would change:", version)
	s.sayAll(changes)
	for _, warning := range warnings {
		s.say("warning: %s", warning)
	}
	ch.rehearse(ctx, s, next)
	lost := intent.Shrinks(before.Effective(), next)
	if len(lost) > 0 {
		s.say("it takes much away:")
		s.sayAll(lost)
		if !ch.allowShrink {
			return usage("so much may have been lost by accident (an empty file, a cut pipe); nothing was done: repeat with --allow-shrink when it is meant")
		}
		next.Shrinks = true // the coordinators ask as well
	}
	if ch.dryRun {
		s.say("dry run: nothing was done")
		return nil
	}
	if !ch.yes {
		tty, ok := s.terminal()
		if !ok {
			return usage("nobody can be asked here (no terminal): repeat with --yes to apply version %d, or look first with --dry-run", version)
		}
		defer func() { _ = tty.Close() }()
		question := fmt.Sprintf("About to put version %d of the intent into force for %s. Type %d to go on: ", version, plural(int(spread.Hosts), "host"), version)
		if err := ask(ctx, tty, question, fmt.Sprint(version)); err != nil {
			return err
		}
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	applied, err := s.api.ApplyIntent(ctx, next, before, ch.key)
	if errors.Is(err, client.ErrIntentStale) {
		return exit(exitError, "%w; nothing was done", err)
	}
	if err != nil {
		return err
	}
	return ch.applied(ctx, s, applied)
}

// applied says what is in force, and waits for the hosts when that was asked for.
func (ch *change) applied(ctx context.Context, s *session, i *client.Intent) error {
	markIntent(s.context.ClusterID, i)
	s.say("version %d of the intent is in force", i.Version())
	var late error
	if ch.wait {
		late = s.waitIntent(ctx, i.Version())
		if errors.Is(late, context.Canceled) {
			return exit(exitInterrupted, "stopped waiting; version %d is in force: vedette intent show says how many hosts hold it", i.Version())
		}
	}
	var spread client.Spread
	if ctx.Err() == nil {
		if _, now, err := s.api.IntentVersion(ctx, i.Version()); err == nil {
			spread = now
		}
	}
	if err := s.showIntent(i, spread); err != nil {
		return err
	}
	return late
}

// waitIntent waits for every connected host, and names those that it waited for in vain.
func (s *session) waitIntent(ctx context.Context, version uint64) error {
	said := -1
	behind, err := s.api.WaitIntent(ctx, version, func(holding, online int) {
		if holding != said {
			said = holding
			s.say("version %d: held by %d of %d connected hosts", version, holding, online)
		}
	})
	if err == nil || !errors.Is(err, client.ErrTimeout) {
		return err
	}
	if len(behind) == 0 {
		return exit(exitTimeout, "timed out before it was known who holds version %d; it stands: vedette intent show says how many do", version)
	}
	const shown = 10
	var names []string
	for _, host := range behind[:min(len(behind), shown)] {
		names = append(names, handle(host.GetId(), host.GetName()))
	}
	return exit(exitTimeout, "timed out: of those that are connected %s did not say that they hold version %d: %s%s; it stands, and comes to them as soon as they read",
		plural(len(behind), "host"), version, strings.Join(names, ", "), more(len(behind), shown))
}

// sayAll says each on a line of its own.
func (s *session) sayAll(lines []string) {
	for n, line := range lines {
		if n == maxSaid {
			s.say("  … and %d more: see vedette intent diff", len(lines)-maxSaid)
			return
		}
		s.say("  %s", line)
	}
}

// rehearse says what an intent would have done about what was found lately. That it
// cannot be said keeps nobody from applying it.
func (ch *change) rehearse(ctx context.Context, s *session, next *sensorv1.Intent) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	res, err := s.api.TestIntent(ctx, next, s.now().Add(-rehearsal).UnixNano(), 0)
	if err != nil {
		s.say("what it would have done about the findings of the last 7 days is not known: %v", err)
		return
	}
	then, held := done(res.GetVerdicts())
	now, judged := make(outcomes), make(map[string]int)
	for _, v := range leading(res.GetVerdicts()) {
		if v.GetLevel() >= intent.Veto && v.GetHeld() == "" {
			judged[v.GetDisposition()]++
		}
	}
	for _, v := range leadingNow(res.GetVerdicts()) {
		now.add(v.GetLevelNow(), v.GetHost())
	}
	s.say("of %s of the last 7 days%s it would have: %s%s", plural(int(res.GetFindings()), "finding"), cutShort(res), then, heldText(held))
	s.say("what is in force, not counting what holds it back: %s", now)
	if n := judged[intent.Malicious] + judged[intent.Benign]; n > 0 {
		s.say("of what it would have done without being asked, people judged %d malicious and %d benign", judged[intent.Malicious], judged[intent.Benign])
	}
}

// done counts what an intent would have done, and for how many findings something holds
// it back.
func done(verdicts []*operatorv1.Verdict) (would outcomes, held int) {
	would = make(outcomes)
	for _, v := range leading(verdicts) {
		if v.GetHeld() != "" && v.GetLevel() > intent.Recommend {
			held++
		} else {
			would.add(v.GetLevel(), v.GetHost())
		}
	}
	return would, held
}

func heldText(held int) string {
	if held == 0 {
		return ""
	}
	return fmt.Sprintf("; for %d it is held back by protection, a cap or the kill switch (vedette intent test says which)", held)
}

func cutShort(res *operatorv1.TestIntentResponse) string {
	if res.GetMore() {
		return " (the newest; there are more)"
	}
	return ""
}

// outcomes counts findings and hosts by level.
type outcomes map[uint32]map[string]int

func (o outcomes) add(level uint32, host string) {
	if o[level] == nil {
		o[level] = make(map[string]int)
	}
	o[level][host]++
}

// String is one clause a level that does something.
func (o outcomes) String() string {
	var parts []string
	for _, level := range []struct {
		level uint32
		text  string
	}{{intent.Act, "acted at once on"}, {intent.Veto, "acted unless vetoed on"}, {intent.Approve, "asked about"}, {intent.Observe, "hidden"}} {
		if n := 0; len(o[level.level]) > 0 {
			for _, findings := range o[level.level] {
				n += findings
			}
			parts = append(parts, fmt.Sprintf("%s %d (%s)", level.text, n, plural(len(o[level.level]), "host")))
		}
	}
	if len(parts) == 0 {
		return "recommended, and nothing more"
	}
	return strings.Join(parts, ", ")
}

// leading is the action that would be taken for each finding: of those with the highest
// level the first, which disturbs least.
func leading(verdicts []*operatorv1.Verdict) []*operatorv1.Verdict {
	return leads(verdicts, (*operatorv1.Verdict).GetLevel)
}

func leadingNow(verdicts []*operatorv1.Verdict) []*operatorv1.Verdict {
	return leads(verdicts, (*operatorv1.Verdict).GetLevelNow)
}

func leads(verdicts []*operatorv1.Verdict, level func(*operatorv1.Verdict) uint32) []*operatorv1.Verdict {
	at := make(map[string]int)
	var all []*operatorv1.Verdict
	for _, v := range verdicts {
		switch n, there := at[v.GetFinding()]; {
		case !there:
			at[v.GetFinding()] = len(all)
			all = append(all, v)
		case level(v) > level(all[n]):
			all[n] = v
		}
	}
	return all
}
