package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

func (a *app) intentTestCommand() *cobra.Command {
	var since string
	var limit uint32
	c := &cobra.Command{
		Use:   "test FILE",
		Short: "ask what an intent would have done about recorded findings",
		Long: `Puts the findings that are recorded to the intent in the file (- is stdin) and to the one in
force, with the governor's caps as they would have stood. A row is a finding and an action on
which either says more or less than recommend. HELD says why it would not be done after
all; JUDGED what people said when they closed the incident. Nothing is applied.`,
		Example:           "  vedette intent test intent.yaml\n  vedette intent test intent.yaml --since 30d -o json | jq 'map(select(.level == 4 and .disposition == \"benign\"))'",
		Args:              exactly("FILE"),
		ValidArgsFunction: completeFiles,
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			from, err := a.instant(days(since))
			if err != nil {
				return err
			}
			in, err := readIntent(s.stdin, args[0])
			if err != nil {
				return err
			}
			_, warnings, err := intent.Check(in)
			if err != nil {
				return exit(exitUsage, "%s: %w", args[0], err)
			}
			for _, warning := range warnings {
				s.say("warning: %s", warning)
			}
			res, err := s.api.TestIntent(ctx, in, from, limit)
			if err != nil {
				return err
			}
			if _, err = output.Print(s.Printer, verdictTable(), output.Rows(res.GetVerdicts())); err != nil {
				return err
			}
			would, held := done(res.GetVerdicts())
			s.say("%s replayed%s; it would have: %s%s", plural(int(res.GetFindings()), "finding"), cutShort(res), would, heldText(held))
			return nil
		}),
	}
	c.Flags().StringVar(&since, "since", "7d", "findings since: a duration such as 7d or 90m, or a time as 2026-01-31T09:00:00Z")
	c.Flags().Uint32Var(&limit, "limit", 0, "at most so many findings, the newest; 0 for as many as the coordinator replays")
	return c
}

// days lets a duration be written in days, which time.ParseDuration does not know.
func days(text string) string {
	if n, err := strconv.ParseUint(strings.TrimSuffix(text, "d"), 10, 16); err == nil && strings.HasSuffix(text, "d") {
		return fmt.Sprintf("%dh", 24*n)
	}
	return text
}

func levelWord(level uint32) string {
	return fmt.Sprintf("%d %s", level, intent.LevelText(int(level)))
}

func verdictTable() output.List[*operatorv1.Verdict] {
	type row = *operatorv1.Verdict
	return output.List[row]{
		Name:  row.GetFinding,
		Value: func(v row) any { return shape.FromVerdict(v) },
		Columns: []output.Column[row]{
			{Head: "TIME", Cell: func(v row) string { return clock(v.GetTime()) }},
			{Head: "HOST", Max: 32, Cell: func(v row) string { return first(v.GetHostName(), v.GetHost()) }},
			{Head: "FINDING", Max: 50, Cell: row.GetTitle},
			{Head: "ACTION", Cell: row.GetAction},
			{Head: "NOW", Cell: func(v row) string { return levelWord(v.GetLevelNow()) }},
			{Head: "WOULD BE", Cell: func(v row) string { return levelWord(v.GetLevel()) }, Paint: levelColour},
			{Head: "JUDGED", Cell: row.GetDisposition, Paint: func(v row) output.Colour { return judgedColour(v.GetDisposition()) }},
			{Head: "HELD", Max: 60, Cell: row.GetHeld},
			{Head: "POLICIES", Wide: true, Cell: func(v row) string { return strings.Join(v.GetPolicies(), ",") }},
			{Head: "FINDING ID", Wide: true, Cell: row.GetFinding},
		},
	}
}

func levelColour(v *operatorv1.Verdict) output.Colour {
	switch {
	case v.GetHeld() != "":
		return output.Dim
	case v.GetLevel() == intent.Act:
		return output.Red
	case v.GetLevel() > intent.Recommend:
		return output.Yellow
	default:
		return output.Plain
	}
}

func judgedColour(disposition string) output.Colour {
	switch disposition {
	case intent.Malicious:
		return output.Red
	case intent.Benign:
		return output.Green
	default:
		return output.Plain
	}
}

func (a *app) intentScorecardCommand() *cobra.Command {
	var since string
	c := &cobra.Command{
		Use:   "scorecard",
		Short: "say how far people agreed with what automation would have done",
		Long: `Every level runs in shadow: for each action, group and confidence it says how many findings
there were, what people judged them to be when they closed the incidents, what would have
been done, the level in force and the one that the figures support. docs/intent.md says how
that is reckoned. A finding counts once for each action that would answer it.`,
		Example: "  vedette intent scorecard\n  vedette intent scorecard --since 90d -o json | jq '.[] | select(.supported_level > .level)'",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			from, err := a.instant(days(since))
			if err != nil {
				return err
			}
			scores, err := s.api.Scorecard(ctx, from)
			if err != nil {
				return err
			}
			n, err := output.Print(s.Printer, scoreTable(), output.Rows(scores))
			if err == nil && n == 0 && s.Human() {
				s.say("no findings since then: nothing supports a level above 1")
			}
			return err
		}),
	}
	c.Flags().StringVar(&since, "since", "30d", "findings since: a duration such as 30d or 90m, or a time as 2026-01-31T09:00:00Z")
	return c
}

func scoreTable() output.List[*operatorv1.Score] {
	type row = *operatorv1.Score
	number := func(head string, of func(row) uint64) output.Column[row] {
		return output.Column[row]{Head: head, Right: true, Cell: func(s row) string { return strconv.FormatUint(of(s), 10) }}
	}
	return output.List[row]{
		Name: func(s row) string {
			return fmt.Sprintf("%s/%s/%d-%d", s.GetAction(), s.GetGroup(), s.GetConfidenceFrom(), s.GetConfidenceTo())
		},
		Value: func(s row) any { return shape.FromScore(s) },
		Columns: []output.Column[row]{
			{Head: "ACTION", Cell: row.GetAction},
			{Head: "GROUP", Cell: func(s row) string { return first(s.GetGroup(), "(none)") }},
			{Head: "CONFIDENCE", Right: true, Cell: func(s row) string { return fmt.Sprintf("%d–%d%%", s.GetConfidenceFrom(), s.GetConfidenceTo()) }},
			number("FINDINGS", row.GetFindings), number("AGREED", row.GetAgreed), number("DISAGREED", row.GetDisagreed), number("UNJUDGED", row.GetUnjudged),
			number("RECOMMEND", row.GetWouldRecommend), number("ASK", row.GetWouldAsk), number("ACT", row.GetWouldAct),
			{Head: "LEVEL", Right: true, Cell: func(s row) string { return fmt.Sprint(s.GetLevel()) }},
			{Head: "SUPPORTED", Right: true, Cell: func(s row) string { return fmt.Sprint(s.GetSupportedLevel()) }, Paint: supportColour},
			{Head: "WHY", Max: 80, Cell: row.GetSupports},
		},
	}
}

// supportColour marks a level that the figures do not carry, and one that they would.
func supportColour(s *operatorv1.Score) output.Colour {
	switch {
	case s.GetLevel() > s.GetSupportedLevel() && s.GetLevel() > intent.Recommend:
		return output.Red
	case s.GetSupportedLevel() > s.GetLevel():
		return output.Green
	default:
		return output.Plain
	}
}
