package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// push is the command line of a new set of rules.
type push struct {
	reason      string
	key         string
	soak        time.Duration
	maxFindings uint32
	dryRun, yes bool
	// allowShrink: also when more than a fifth of the rules goes. Who rolls back names the version
	// that they want, and means it.
	allowShrink bool
}

func (ps *push) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&ps.reason, "reason", "", "why, for the record")
	f.BoolVar(&ps.dryRun, "dry-run", false, "check and say what would be done, and do nothing")
	f.BoolVarP(&ps.yes, "yes", "y", false, "do not ask")
	f.StringVar(&ps.key, "idempotency-key", "", "a repeated command with the same key makes no second version; for another set it is an error")
}

func (a *app) rulePushCommand() *cobra.Command {
	ps := new(push)
	c := &cobra.Command{
		Use:   "push FILE|DIR… --reason TEXT",
		Short: "sign rules and give them to the fleet",
		Long: `Checks the rules as lint does, signs them as one set with your key on this machine, and gives
it to 1, 5, 25 and then all of 100 hosts; each ring is watched for --soak before the next.
One with the files of a set that all hosts had goes to all at once.
The set replaces the one before: rules that are not in it are taken away, and what is added,
changed and removed is named before you are asked; more than a fifth of the rules goes only
with --allow-shrink. Sensors' built-in rules, and those of a host's own rules_dir, stay.

It is halted, and all its hosts get the set before back, when a sensor refuses it, had
findings beyond its limits, falls silent or starts again more often than others do, or when
its rules make more findings for each host and day than --max-findings beyond what the set
before made. vedette rule list says so. It takes an admin: rules make the findings that the
intent acts on.`,
		Example:           "  vedette rule push rules/ --reason \"web servers\"\n  vedette rule push rules/ --reason \"web servers\" --soak 1h --max-findings 2 --dry-run",
		Args:              atLeast("FILE"),
		ValidArgsFunction: completeFiles,
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			if strings.TrimSpace(ps.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			if ps.soak < time.Second || ps.soak > ruleset.MaxSoak {
				return usage("--soak %s: want 1s to %s", ps.soak, ruleset.MaxSoak)
			}
			files, err := readRules(s.stdin, args, true)
			if err != nil {
				return err
			}
			set := &sensorv1.RuleSet{Reason: ps.reason, SoakSeconds: uint32(ps.soak / time.Second), MaxFindingsPerDay: ps.maxFindings} //nolint:gosec // bounded above
			for _, f := range files {
				set.Files = append(set.Files, &sensorv1.RuleFile{Path: f.Path, Text: f.Raw})
			}
			return ps.push(ctx, s, set)
		}),
	}
	ps.flags(c)
	c.Flags().BoolVar(&ps.allowShrink, "allow-shrink", false, "also when more than a fifth of the rules in force is taken away")
	c.Flags().DurationVar(&ps.soak, "soak", ruleset.DefaultSoak, "how long each ring is watched before the next")
	c.Flags().Uint32Var(&ps.maxFindings, "max-findings", ruleset.DefaultFindings, "findings for each host and day, beyond those of the set before, that halt it")
	return c
}

func (a *app) ruleRollbackCommand() *cobra.Command {
	ps := new(push)
	c := &cobra.Command{
		Use:   "rollback VERSION --reason TEXT",
		Short: "bring an older set of rules back, as a new version",
		Long: `Signs the rules of an older version as a new one, and names first what that adds, changes and
removes. One that all hosts had goes to all at once; another goes ring by ring. 0 takes all
pushed rules away, at once. To stop a set that is on its way, halt is quicker.`,
		Example: "  vedette rule rollback 3 --reason \"version 4 told of backups\"\n  vedette rule rollback 0 --reason \"start anew\" --yes",
		Args:    exactly("VERSION"),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			if strings.TrimSpace(ps.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			next := &sensorv1.RuleSet{Reason: ps.reason}
			ps.allowShrink = true
			if args[0] != "0" {
				version, ok := versionOf(args[0])
				if !ok {
					return usage("%q is no version: they are counted from 1", args[0])
				}
				looking, looked := s.limit(ctx)
				defer looked()
				old, _, err := s.api.Rules(looking, version)
				if err != nil {
					return err
				}
				next = proto.CloneOf(old.Content)
				next.Reason, next.Restores = ps.reason, version
			}
			return ps.push(ctx, s, next)
		}),
	}
	ps.flags(c)
	return c
}

// push checks and shows a set, asks, signs it and sends it.
func (ps *push) push(ctx context.Context, s *session, next *sensorv1.RuleSet) error {
	files := ruleset.Files(next)
	if err := ruleset.CheckFiles(files); err != nil {
		return exit(exitUsage, "%w", err)
	}
	report := ruleset.Lint(files)
	count := report.Worst()
	for _, n := range report.Notes {
		if n.Weight == ruleset.Refused || n.Weight == ruleset.Unsupported {
			s.say("%s: %s: %s; %s", notePlace(n), n.Weight, n.What, n.Advice)
		}
	}
	if count[ruleset.Refused] > 0 {
		return exit(exitUsage, "%s refused: mend that, or leave it out; nothing was done", plural(count[ruleset.Refused], "thing"))
	}
	looking, looked := s.limit(ctx)
	defer looked()
	newest, base, goes, err := s.api.NextRules(looking, next)
	if err != nil {
		return err
	}
	version := newest.Version() + 1
	s.say("version %d: %s in %s (%s), %d unsupported, %s; it replaces version %d and goes back to version %d when it is halted",
		version, plural(len(report.Rules), "rule"), plural(len(files), "file"), sizeOf(files), count[ruleset.Unsupported],
		plural(count[ruleset.Warning], "warning"), newest.Version(), base.Version())
	if newest != nil && newest.Status.GetState() == ruleset.Rolling {
		s.say("note: version %d is on its way to %d %% of the hosts, and ends there", newest.Version(), newest.Status.GetPercent())
	}
	if newest != nil && ruleset.Content(newest.Content) == ruleset.Content(next) && newest.Status.GetState() != ruleset.Halted {
		s.say("nothing changes: version %d holds the same rules; nothing was done", newest.Version())
		return nil
	}
	if err := ps.compare(s, inForce(newest, base), files); err != nil {
		return err
	}
	to := whereTo(next, goes)
	s.say("it would go to %s", to)
	if ps.dryRun {
		s.say("dry run: nothing was done")
		return nil
	}
	if !ps.yes {
		tty, ok := s.terminal()
		if !ok {
			return usage("nobody can be asked here (no terminal): repeat with --yes to push version %d, or look first with --dry-run", version)
		}
		defer func() { _ = tty.Close() }()
		if err := ask(ctx, tty, fmt.Sprintf("About to give version %d of the rules to %s. Type %d to go on: ", version, to, version), fmt.Sprint(version)); err != nil {
			return err
		}
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	pushed, err := s.api.PushRules(ctx, next, newest, base, ps.key)
	if errors.Is(err, client.ErrRulesStale) {
		return exit(exitError, "%w; nothing was done", err)
	}
	if err != nil {
		return err
	}
	return s.pushed(ctx, pushed, next)
}

// compare names what a set changes, and refuses one that takes much away unless that is meant.
func (ps *push) compare(s *session, now *client.Rules, files []ruleset.File) error {
	var were []ruleset.File
	if now != nil {
		were = ruleset.Files(now.Content)
	}
	d := ruleset.Compare(were, files)
	s.sayDifference(d)
	if d.Shrinks() && !ps.allowShrink {
		return usage("%d of the %s of version %d would go, which is more than a fifth: a part of a folder looks like that; nothing was done: name all that is to stay, or repeat with --allow-shrink when it is meant",
			len(d.Removed), plural(d.Was, "rule"), now.Version())
	}
	return nil
}

func sizeOf(files []ruleset.File) string {
	total := 0
	for _, f := range files {
		total += len(f.Raw)
	}
	return fmt.Sprintf("%d KiB", (total+1023)/1024)
}

func (a *app) ruleHaltCommand() *cobra.Command {
	reason, yes := "", false
	c := &cobra.Command{
		Use:   "halt VERSION --reason TEXT",
		Short: "take the newest set of rules back from everybody",
		Long: `The version goes no further, and every host that has it goes back to the one that it was
pushed over. It takes a responder: what comes back was tried.`,
		Example: "  vedette rule halt 4 --reason \"tells of backups\"\n  vedette rule halt 4 --reason \"tells of backups\" --yes",
		Args:    exactly("VERSION"),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			version, ok := versionOf(args[0])
			if !ok {
				return usage("%q is no version: they are counted from 1", args[0])
			}
			if strings.TrimSpace(reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			if !yes {
				if err := s.askHalt(ctx, version); err != nil {
					return err
				}
			}
			ctx, cancel := s.limit(ctx)
			defer cancel()
			if err := s.api.HaltRules(ctx, version, reason); err != nil {
				return err
			}
			s.say("version %d of the rules is halted", version)
			return s.showRules(ctx)
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// askHalt asks whether a version is to be taken back, and says what hosts then use.
func (s *session) askHalt(ctx context.Context, version uint64) error {
	tty, ok := s.terminal()
	if !ok {
		return usage("nobody can be asked here (no terminal): repeat with --yes to halt version %d", version)
	}
	defer func() { _ = tty.Close() }()
	looking, looked := s.limit(ctx)
	defer looked()
	set, _, err := s.api.Rules(looking, version)
	if err != nil {
		return err
	}
	return ask(ctx, tty, fmt.Sprintf("About to take version %d of the rules from all hosts that have it; they go back to version %d. Type %d to go on: ",
		version, set.Content.GetBase(), version), fmt.Sprint(version))
}

func (a *app) ruleListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the sets of rules, how far each has gone, and what stopped it",
		Long: `Lists the sets that were pushed, newest first: what part of the fleet is to have each and how
many hosts use it, what its rules found there since, and why it was halted. Hosts that do
not use what they should, or refused a rule, are named on stderr.`,
		Example: "  vedette rule list\n  vedette rule list -o json | jq '.[0].state'",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			return s.showRules(ctx)
		}),
	}
}

func (s *session) showRules(ctx context.Context) error {
	res, err := s.api.RuleSets(ctx)
	if err != nil {
		return err
	}
	return s.listRules(res)
}

func (s *session) listRules(res *operatorv1.ListRulesResponse) error {
	n, err := output.Print(s.Printer, ruleSetTable(), output.Rows(res.GetSets()))
	if err != nil {
		return err
	}
	if n == 0 && s.Human() {
		s.say("no rules were ever pushed: hosts use those that sensors have, and their own rules_dir")
	}
	if missing := res.GetHosts() - res.GetHostsAble(); n > 0 && missing > 0 {
		s.say("%d of %d hosts have not said that they take rules: their sensors are older, or were not connected since", missing, res.GetHosts())
	}
	for _, h := range res.GetTroubled() {
		s.say("%s uses version %d%s", handle(h.GetId(), h.GetName()), h.GetHeld().GetVersion(), troubleOf(h))
	}
	return nil
}

func troubleOf(h *operatorv1.RuleHost) string {
	held := h.GetHeld()
	switch {
	case held.GetFailure() != "":
		return fmt.Sprintf(", not version %d: %s", held.GetFailedVersion(), held.GetFailure())
	case held.GetRefusedCount() > 0:
		r := &sensorv1.RefusedRule{}
		if len(held.GetRefused()) > 0 {
			r = held.GetRefused()[0]
		}
		return fmt.Sprintf(", but for %s: %s:%d: %s", plural(int(held.GetRefusedCount()), "rule"), r.GetPath(), r.GetLine(), r.GetReason())
	}
	return " as yet"
}

func ruleSetTable() output.List[*operatorv1.RuleSetStatus] {
	type row = *operatorv1.RuleSetStatus
	number := func(head string, of func(row) uint64) output.Column[row] {
		return output.Column[row]{Head: head, Right: true, Cell: func(r row) string { return strconv.FormatUint(of(r), 10) }}
	}
	return output.List[row]{
		Name:  func(r row) string { return strconv.FormatUint(r.GetVersion(), 10) },
		Value: func(r row) any { return shape.FromRuleSet(r) },
		Columns: []output.Column[row]{
			number("VERSION", row.GetVersion),
			{Head: "STATE", Cell: row.GetState, Paint: func(r row) output.Colour {
				switch r.GetState() {
				case ruleset.Halted:
					return output.Red
				case ruleset.Rolling:
					return output.Yellow
				case ruleset.Complete:
					return output.Green
				}
				return output.Dim
			}},
			{Head: "RING", Right: true, Cell: func(r row) string {
				if r.GetPercent() == 0 {
					return ""
				}
				return fmt.Sprintf("%d%%", r.GetPercent())
			}},
			{Head: "USED BY", Right: true, Cell: func(r row) string { return fmt.Sprintf("%d of %d", r.GetHostsUsing(), r.GetHosts()) }},
			{Head: "MATCHES", Right: true, Cell: func(r row) string {
				if r.GetMatchesCut() {
					return strconv.FormatUint(r.GetMatches(), 10) + "+"
				}
				return strconv.FormatUint(r.GetMatches(), 10)
			}},
			{Head: "RULES", Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetRules()) }},
			{Head: "PUSHED", Cell: func(r row) string { return clock(r.GetPushedAt()) }},
			{Head: "BY", Max: 24, Cell: row.GetAuthor},
			{Head: "REASON", Max: 50, Cell: row.GetReason},
			{Head: "STOPPED BY", Max: 100, Cell: row.GetWhy},
			{Head: "HOST", Wide: true, Cell: row.GetWhyHost},
			{Head: "GOES BACK TO", Wide: true, Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetBase()) }},
			{Head: "RESTORES", Wide: true, Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetRestores()) }},
			{Head: "COST", Wide: true, Right: true, Cell: func(r row) string { return time.Duration(min(r.GetMostCostNs(), 1<<40)).String() }}, //nolint:gosec // bounded
		},
	}
}
