package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
)

const rootLong = `Vedette watches every Linux host, learns what is normal there, and contains what is not.

This is the operator's command line. It talks to any node of the coordinator
cluster with the identity in a context file:

  vedette config import admin.context.yaml   once, with the file that a node wrote
  vedette status                             is all well, and what is not
  vedette watch                              what happens now
  vedette incident list                      what a person should judge
  vedette isolate web1 --reason "…"          cut a host off, by a lease that ends

Data goes to stdout, everything else to stderr. Settings: flag, then VEDETTE_*
variable (VEDETTE_CONTEXT_FILE, VEDETTE_CONTEXT, VEDETTE_OUTPUT, VEDETTE_TIMEOUT,
VEDETTE_NO_HEADERS), then the context file, then the default.

Exit codes: 0 ok · 1 error · 2 usage · 3 partly done · 4 not found · 5 denied ·
6 no leader or unreachable · 7 timed out · 130 interrupted.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "vedette",
		Short: "ask the cluster and give it orders",
		Long:  rootLong,
		// The two are run's to say, once.
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(cmd, args[0])
			}
			return cmd.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.contextFile, "context-file", "", "file with the contexts (default ~/.config/vedette/config.yaml)")
	f.StringVar(&a.contextName, "context", "", "context to use, instead of the current one")
	f.StringVarP(&a.output, "output", "o", "", "output format: "+strings.Join(output.Formats(), "|")+" (default table)")
	f.StringVar(&a.timeout, "timeout", "", "how long the command may take, of a list each page of it; 0 for ever (default 30s)")
	f.BoolVar(&a.noHeaders, "no-headers", false, "print tables without their head")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say on stderr which nodes are tried")
	completeWords(root, "output", output.Formats()...)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)

	root.AddGroup(
		&cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "act", Title: "Act:"},
		&cobra.Group{ID: "run", Title: "Run the cluster:"},
		&cobra.Group{ID: "self", Title: "This program:"},
	)
	group := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("look", a.statusCommand(), a.watchCommand(), a.hostCommand(), a.findingCommand(), a.incidentCommand(), a.investigationCommand(), a.campaignCommand(), a.huntCommand(), a.baselineCommand(), a.isolationCommand(), a.operationCommand(), a.intentCommand(), a.ruleCommand(), a.auditCommand(), a.drillCommand())
	group("act", a.isolateCommand(), a.releaseCommand(), a.containCommand(), a.approveCommand(), a.vetoCommand(), a.automationCommand())
	group("run", a.clusterCommand(), a.tokenCommand(), a.operatorCommand(), a.debugCommand())
	group("self", a.configCommand(), a.versionCommand())
	root.AddCommand(docsCommand())
	root.SetHelpCommandGroupID("self")
	root.SetCompletionCommandGroupID("self")
	return root
}

// noun makes a command that only holds others.
func noun(use, short, example string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ArbitraryArgs}
	c.AddCommand(verbs...)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknown(cmd, args[0])
		}
		return &commandError{usage("%s needs a verb: %s\nsee '%s --help'", use, verbList(cmd), cmd.CommandPath())}
	}
	return c
}

// exactly wants one argument.
func exactly(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s needs one %s, %d given", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// atMost wants n arguments or fewer.
func atMost(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("%s takes at most %d %s, %d given", cmd.CommandPath(), n, what, len(args))
		}
		return nil
	}
}

// atLeast wants one argument or more.
func atLeast(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s needs at least one %s", cmd.CommandPath(), what)
		}
		return nil
	}
}

// none wants no argument.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, %q given", cmd.CommandPath(), args[0])
	}
	return nil
}

func unknown(cmd *cobra.Command, word string) error {
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(word); len(s) > 0 {
		hint = ", did you mean " + strings.Join(s, " or ") + "?"
	}
	return &commandError{usage("unknown command %q for %q%s\nsee '%s --help'", word, cmd.CommandPath(), hint, cmd.CommandPath())}
}

func verbList(cmd *cobra.Command) string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	return strings.Join(names, ", ")
}

// completeWords offers fixed values of a flag to the shell.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag is not defined: a mistake in this file
	}
}
