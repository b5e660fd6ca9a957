package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/ruleset"
)

// maxRuleFile is what a sensor takes of one file, and one byte more is refused.
const maxRuleFile = 256 << 10

func (a *app) ruleCommand() *cobra.Command {
	c := noun("rule", "detection rules in the Sigma format: check, try, hand out",
		"  vedette rule lint rules/\n  vedette rule test rules/odd_shell.yml\n  vedette rule push rules/ --reason \"web servers\"",
		a.ruleLintCommand(), a.ruleTestCommand(), a.ruleListCommand(), a.rulePushCommand(), a.ruleRollbackCommand(), a.ruleHaltCommand())
	c.Long = `Rules are written as docs/rules.md says. lint and test need no cluster: they parse and compile
as a sensor does. push signs a set of rules with your key and gives it to 1, 5, 25 and then
all of 100 hosts, each part watched for a while; what hurts is halted, and taken back.`
	return c
}

// readRules reads rule files: of a folder all *.yml and *.yaml below it, by their paths
// under it when relative is wanted.
func readRules(stdin io.Reader, names []string, relative bool) (files []ruleset.File, err error) {
	add := func(name, path string) error {
		raw, err := readRule(stdin, name)
		if err == nil {
			files = append(files, ruleset.File{Path: filepath.ToSlash(path), Raw: raw})
		}
		return err
	}
	for _, name := range names {
		info, err := os.Stat(name)
		switch {
		case name == "-":
			err = add("-", "stdin.yml")
		case err == nil && info.IsDir():
			err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
				if ext := filepath.Ext(path); err != nil || !d.Type().IsRegular() || ext != ".yml" && ext != ".yaml" {
					return err
				}
				if len(files) >= ruleset.MaxFiles {
					return fmt.Errorf("%s holds more than %d rules", name, ruleset.MaxFiles)
				}
				shown := path
				if relative {
					if shown, err = filepath.Rel(name, path); err != nil {
						return err
					}
				}
				return add(path, shown)
			})
		case err == nil:
			shown := name
			if relative {
				shown = filepath.Base(name)
			}
			err = add(name, shown)
		}
		if err != nil {
			return nil, usage("reading rules: %w", err)
		}
	}
	if len(files) == 0 {
		return nil, usage("%s: no rules (*.yml, *.yaml) are there", strings.Join(names, ", "))
	}
	return files, nil
}

func readRule(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxRuleFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return raw, nil
}

func (a *app) ruleLintCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "lint FILE|DIR…",
		Short: "say what is wrong with rules, and what they will not see",
		Long: `Parses and compiles the rules as a sensor does (- is stdin), and says of each, with file and
line, what is refused (malformed: no sensor takes it), unsupported (well formed, but about
what sensors do not supply), a warning (taken, but somebody will miss something) or a hint
(what it costs). Exit code 1 when anything is refused. Rules that are built into sensors are
not known here: that an id is taken, or a correlation refers to one, a sensor says.`,
		Example:           "  vedette rule lint rules/\n  vedette rule lint rules/ -o json | jq '.[] | select(.weight == \"refused\")'",
		Args:              atLeast("FILE"),
		ValidArgsFunction: completeFiles,
		RunE: bare(func(_ context.Context, args []string) error {
			p, err := a.printer("")
			if err != nil {
				return err
			}
			files, err := readRules(a.stdin, args, false)
			if err != nil {
				return err
			}
			report := ruleset.Lint(files)
			if _, err := output.Print(p, noteTable(), output.Rows(report.Notes)); err != nil {
				return err
			}
			count := report.Worst()
			a.say("%s: %s used, %d refused, %d unsupported, %s, %s", plural(len(files), "file"), plural(len(report.Rules), "rule"),
				count[ruleset.Refused], count[ruleset.Unsupported], plural(count[ruleset.Warning], "warning"), plural(count[ruleset.Hint], "hint"))
			if count[ruleset.Refused] > 0 {
				return exit(exitError, "%s refused", plural(count[ruleset.Refused], "thing"))
			}
			return nil
		}),
	}
	return c
}

// notePlace is file:line, as editors and terminals follow it.
func notePlace(n ruleset.Note) string {
	if n.Line == 0 {
		return n.Path
	}
	return fmt.Sprintf("%s:%d", n.Path, n.Line)
}

func noteTable() output.List[ruleset.Note] {
	type row = ruleset.Note
	return output.List[row]{
		Name:  notePlace,
		Value: func(n row) any { return shape.FromRuleNote(n) },
		Columns: []output.Column[row]{
			{Head: "PLACE", Cell: notePlace},
			{Head: "WEIGHT", Cell: func(n row) string { return string(n.Weight) }, Paint: func(n row) output.Colour {
				switch n.Weight {
				case ruleset.Refused:
					return output.Red
				case ruleset.Unsupported, ruleset.Warning:
					return output.Yellow
				}
				return output.Dim
			}},
			{Head: "RULE", Max: 40, Cell: func(n row) string { return n.Rule }},
			{Head: "WHAT", Cell: func(n row) string { return n.What }},
			{Head: "DO", Cell: func(n row) string { return n.Advice }},
		},
	}
}

var errNoRules = errors.New("no rule is left to try")
