package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (a *app) intentCommand() *cobra.Command {
	c := noun("intent", "what automation may do by itself, and how much of the fleet anybody may",
		"  vedette intent show -o yaml > intent.yaml\n  vedette intent test intent.yaml\n  vedette intent apply intent.yaml --reason \"web servers may be cut off at once\"",
		a.intentShowCommand(), a.intentHistoryCommand(), a.intentDiffCommand(), a.intentTestCommand(), a.intentApplyCommand(), a.intentRollbackCommand(), a.intentScorecardCommand())
	c.Long = `The intent is one file, in versions, each signed by an admin and held by every host. How it
is written stands in docs/intent.md. vedette automation off stops all automation.

Every version that is shown was verified here by its signature. The newest one that was
seen is remembered in the cache of this user: a node that tells an older one afterwards,
or one that does not follow it, is reported.`
	return c
}

// inForce is the version in force, held against the newest that was verified here before.
func (s *session) inForce(ctx context.Context) (*client.Intent, client.Spread, error) {
	i, spread, err := s.api.IntentInForce(ctx, seenIntent(s.context.ClusterID))
	if errors.Is(err, client.ErrIntentChain) {
		return i, spread, fmt.Errorf("%w; when a backup was restored on purpose, remove %s", err, intentFile(s.context.ClusterID))
	}
	if err == nil && i != nil {
		markIntent(s.context.ClusterID, i)
	}
	return i, spread, err
}

// versionOf reads a version as a command line names it.
func versionOf(text string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "v"), 10, 63)
	return n, err == nil && n > 0
}

func (a *app) intentShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show [VERSION]",
		Short: "show the intent in force, or another version",
		Long: `Shows the intent, who signed it and how many hosts hold it. -o yaml is the file that intent
apply takes: show it, edit it, apply it.`,
		Example: "  vedette intent show\n  vedette intent show -o yaml > intent.yaml\n  vedette intent show 3 -o json | jq .policy",
		Args:    atMost(1, "VERSION"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			i, spread, err := s.inForce(ctx)
			if err == nil && len(args) == 1 {
				want, ok := versionOf(args[0])
				if !ok {
					return usage("%q is no version: they are counted from 1", args[0])
				}
				if i.Version() != want {
					i, spread, err = s.api.IntentVersion(ctx, want)
				}
			}
			if err != nil {
				return err
			}
			return s.showIntent(i, spread)
		}),
	}
}

func (s *session) showIntent(i *client.Intent, spread client.Spread) error {
	if s.Format == output.YAML {
		_, err := s.Out.Write(intent.Format(i.Effective()))
		return err
	}
	return s.Show(output.Shown{
		Name: strconv.FormatUint(i.Version(), 10), Value: shape.FromIntent(i, spread),
		Page: func(g *output.Page) { intentPage(g, i, spread) },
	})
}

func intentPage(g *output.Page, i *client.Intent, spread client.Spread) {
	in := i.Effective()
	switch {
	case i == nil:
		g.Title(output.Plain, "No intent was ever applied: everything is recommended, nothing is done by itself")
	case in.GetAutomationOff():
		g.Title(output.Yellow, fmt.Sprintf("Intent version %d: AUTOMATION IS OFF", i.Version()))
	default:
		g.Title(output.Plain, fmt.Sprintf("Intent version %d", i.Version()))
	}
	if i != nil {
		g.Field("signed by", i.Signer)
		g.Field("signed at", clock(in.GetIssuedAt()))
		g.Field("reason", in.GetReason())
		if in.GetRestores() > 0 {
			g.Field("restores", fmt.Sprintf("version %d", in.GetRestores()))
		}
		if spread.Hosts > 0 {
			g.Field("held by", fmt.Sprintf("%d of %s", spread.Current, plural(int(spread.Hosts), "host")))
		}
	}
	g.Field("people may veto for", (time.Duration(intent.VetoSeconds(in)) * time.Second).String())
	g.Field("what it does lasts", (time.Duration(min(intent.LeaseSeconds(in), 1<<32)) * time.Second).String())
	governorLines(g, in.GetGovernor())
	if len(in.GetGroups()) > 0 {
		g.Section("Groups")
		for _, group := range in.GetGroups() {
			g.Field(group.GetName(), labels(group.GetLabels()))
		}
	}
	if len(in.GetJump()) > 0 {
		g.Section("Isolation level jump leaves open")
		for _, o := range in.GetJump() {
			g.Item(strings.Join(fields(openingText(o), o.GetComment()), "  "))
		}
	}
	g.Section("Policy")
	if strings.TrimSpace(in.GetPolicy()) == "" {
		g.Text("none: everything stays at level 1 (recommend)")
	}
	for line := range strings.Lines(in.GetPolicy()) {
		g.Line(0, output.Plain, strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    "))
	}
}

func openingText(o *sensorv1.Opening) string {
	direction := "to"
	if o.GetInbound() {
		direction = "from"
	}
	protocol := map[uint32]string{6: "tcp", 17: "udp"}[o.GetProtocol()]
	return fmt.Sprintf("%s %s, %s port %d", direction, o.GetPrefix(), protocol, o.GetPort())
}

func governorLines(g *output.Page, governor *sensorv1.Governor) {
	shaped := shape.FromIntent(&client.Intent{Content: &sensorv1.Intent{Governor: governor}}, client.Spread{}).Governor
	g.Section("Governor")
	g.Field("in ten minutes", fmt.Sprintf("%s or %d ‰ of the fleet, and of each %s", plural(shaped.Hosts10m, "host"), shaped.Permille10m, shaped.GroupLabel))
	g.Field("in a day", fmt.Sprintf("%d ‰", shaped.PermilleDay))
	for _, group := range shaped.Protected {
		g.Field("protected", group.Name+": "+labels(group.Labels))
	}
	g.Field("protected hosts", strings.Join(shaped.ProtectedHosts, ", "))
}

func (a *app) intentHistoryCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "history",
		Short: "list the versions, newest first",
		Long: `Lists the versions, newest first. Each is verified by its signature and by the SHA-256 that
the next one names; a history that does not hold together ends with an error.`,
		Example: "  vedette intent history\n  vedette intent history -o json | jq '.[].reason'",
		Args:    none,
		RunE: a.listing(func(ctx context.Context, s *session, _ []string) error {
			if _, _, err := s.inForce(ctx); err != nil {
				return err
			}
			n, err := output.Print(s.Printer, historyTable(), head(s.api.Intents(ctx), limit))
			if err == nil && n == 0 && s.Human() {
				s.say("no intent was ever applied: nothing is done by itself")
			}
			return err
		}),
	}
	limitFlag(c, &limit)
	return c
}

func historyTable() output.List[*client.Intent] {
	type row = *client.Intent
	return output.List[row]{
		Name:  func(i row) string { return strconv.FormatUint(i.Version(), 10) },
		Value: func(i row) any { return shape.FromIntentRow(i) },
		Columns: []output.Column[row]{
			{Head: "VERSION", Right: true, Cell: func(i row) string { return strconv.FormatUint(i.Version(), 10) }},
			{Head: "SIGNED", Cell: func(i row) string { return clock(i.Content.GetIssuedAt()) }},
			{Head: "BY", Max: 24, Cell: func(i row) string { return i.Signer }},
			{Head: "AUTOMATION", Cell: automationWord, Paint: func(i row) output.Colour {
				if i.Content.GetAutomationOff() {
					return output.Yellow
				}
				return output.Plain
			}},
			{Head: "POLICIES", Right: true, Cell: func(i row) string { return strconv.Itoa(shape.FromIntentRow(i).Policies) }},
			{Head: "RESTORES", Right: true, Cell: func(i row) string {
				if i.Content.GetRestores() == 0 {
					return ""
				}
				return strconv.FormatUint(i.Content.GetRestores(), 10)
			}},
			{Head: "REASON", Max: 60, Cell: func(i row) string { return i.Content.GetReason() }},
			{Head: "DIGEST", Wide: true, Cell: func(i row) string { return shape.FromIntentRow(i).Digest }},
		},
	}
}

func automationWord(i *client.Intent) string {
	if i.Effective().GetAutomationOff() {
		return "off"
	}
	return "on"
}

func (a *app) intentDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff A [B]",
		Short: "say what changes from one version or file to another",
		Long: `Says what would be decided otherwise, found by asking both the same questions, and what else
was edited. A and B are versions, files, or - for stdin. Without B, A is compared with
what is in force: a file as what would come, a version as what was.`,
		Example: "  vedette intent diff intent.yaml\n  vedette intent diff 3 4\n  vedette intent diff 3 intent.yaml -o json | jq -r '.changes[]'",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return fmt.Errorf("%s needs one or two of VERSION or FILE, %d given", cmd.CommandPath(), len(args))
			}
			return nil
		},
		ValidArgsFunction: completeFiles,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			from, old, err := s.named(ctx, args[0])
			if err != nil {
				return err
			}
			var to string
			var next *sensorv1.Intent
			if len(args) == 2 {
				to, next, err = s.named(ctx, args[1])
			} else {
				to, next, err = s.named(ctx, "")
				if _, isVersion := versionOf(args[0]); !isVersion {
					from, old, to, next = to, next, from, old
				}
			}
			if err != nil {
				return err
			}
			return s.showDifference(from, old, to, next)
		}),
	}
}

func (s *session) showDifference(from string, old *sensorv1.Intent, to string, next *sensorv1.Intent) error {
	changes, err := intent.Diff(old, next)
	if err != nil {
		return exit(exitError, "%w", err)
	}
	d := shape.Difference{From: from, To: to, Changes: changes, Shrinks: intent.Shrinks(old, next)}
	if d.Changes == nil {
		d.Changes = []string{}
	}
	if d.Shrinks == nil {
		d.Shrinks = []string{}
	}
	return s.Show(output.Shown{Name: to, Value: d, Page: func(g *output.Page) {
		g.Title(output.Plain, fmt.Sprintf("From %s to %s", from, to))
		if len(changes) == 0 {
			g.Text("nothing changes")
		}
		for _, change := range changes {
			g.Item(change)
		}
		if len(d.Shrinks) > 0 {
			g.Section("Much is taken away; intent apply wants --allow-shrink for it")
			for _, lost := range d.Shrinks {
				g.Item(lost)
			}
		}
	}})
}

// named reads a version, a file, stdin for "-", or what is in force for "".
func (s *session) named(ctx context.Context, name string) (string, *sensorv1.Intent, error) {
	if name == "" {
		i, _, err := s.inForce(ctx)
		return fmt.Sprintf("version %d, in force", i.Version()), i.Effective(), err
	}
	if version, ok := versionOf(name); ok {
		i, _, err := s.api.IntentVersion(ctx, version)
		if err != nil {
			return "", nil, err
		}
		return fmt.Sprintf("version %d", version), i.Content, nil
	}
	in, err := readIntent(s.stdin, name)
	return name, in, err
}

// readIntent reads an intent file; what is wrong in it is said with its line.
func readIntent(stdin io.Reader, name string) (*sensorv1.Intent, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usage("reading the intent: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, intent.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the intent %s: %w", name, err)
	}
	if strings.TrimSpace(string(raw)) == "" {
		// An empty pipe is a command that failed, never an empty policy.
		return nil, usage("the intent %s is empty", name)
	}
	parsed, err := intent.ParseFile(raw)
	if err != nil {
		return nil, exit(exitUsage, "%s: %w", name, err)
	}
	return parsed, nil
}
