package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/coordinator/client"
)

// contextRow is a row of `config get-contexts`. It shows no key.
type contextRow struct {
	Name      string   `json:"name"`
	Current   bool     `json:"current"`
	ClusterID string   `json:"cluster_id"`
	Operator  string   `json:"operator"`
	Role      string   `json:"role"`
	Nodes     []string `json:"nodes"`
}

func (a *app) configCommand() *cobra.Command {
	return noun("config", "contexts: which cluster, and as whom",
		"  vedette config import admin.context.yaml\n  vedette config get-contexts\n  vedette config use-context prod\n  vedette config update-nodes",
		a.configGetCommand(), a.configUseCommand(), a.configImportCommand(), a.configUpdateCommand())
}

func (a *app) load() (string, *client.Config, error) {
	path, err := a.path()
	if err != nil {
		return "", nil, err
	}
	config, err := client.LoadConfig(path)
	return path, config, err
}

func (a *app) configGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get-contexts",
		Short:   "list contexts",
		Example: "  vedette config get-contexts",
		Args:    none,
		RunE: bare(func(context.Context, []string) error {
			p, err := a.printer("")
			if err != nil {
				return err
			}
			_, config, err := a.load()
			if errors.Is(err, client.ErrNoContext) {
				config, err = &client.Config{}, nil
			}
			if err != nil {
				return err
			}
			current := first(a.contextName, env("CONTEXT"), config.Current)
			rows := make([]contextRow, len(config.Contexts))
			for i, c := range config.Contexts {
				rows[i] = contextRow{c.Name, c.Name == current, c.ClusterID, c.Operator, c.Role, append([]string{}, c.Nodes...)}
			}
			n, err := output.Print(p, contextTable(), output.Rows(rows))
			if err == nil && n == 0 && p.Human() {
				a.say("no contexts: run 'vedette config import FILE' with the admin.context.yaml that a node wrote")
			}
			return err
		}),
	}
}

func contextTable() output.List[contextRow] {
	return output.List[contextRow]{
		Name:  func(c contextRow) string { return c.Name },
		Value: func(c contextRow) any { return c },
		Columns: []output.Column[contextRow]{
			{Head: "CURRENT", Cell: func(c contextRow) string { return map[bool]string{true: "*", false: " "}[c.Current] }},
			{Head: "NAME", Cell: func(c contextRow) string { return c.Name }},
			{Head: "CLUSTER", Cell: func(c contextRow) string { return c.ClusterID }},
			{Head: "OPERATOR", Cell: func(c contextRow) string { return c.Operator }},
			{Head: "ROLE", Cell: func(c contextRow) string { return c.Role }},
			{Head: "NODES", Cell: func(c contextRow) string { return strings.Join(c.Nodes, ",") }},
		},
	}
}

func (a *app) configUseCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "use-context NAME",
		Short:   "make a context the current one",
		Example: "  vedette config use-context prod",
		Args:    exactly("NAME"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			_, config, err := a.load()
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return config.Names(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: bare(func(_ context.Context, args []string) error {
			path, err := a.path()
			if err != nil {
				return err
			}
			err = client.Update(path, func(config *client.Config) error {
				if config.Context(args[0]) == nil {
					return exit(exitNotFound, "no context named %q in %s, only: %s", args[0], path, strings.Join(config.Names(), ", "))
				}
				config.Current = args[0]
				return nil
			})
			if err != nil {
				return err
			}
			a.say("the current context is %s now", args[0])
			return nil
		}),
	}
}

func (a *app) configImportCommand() *cobra.Command {
	var name string
	var use bool
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "take over the context file that a node wrote",
		Long: `Copies the contexts of FILE into the CLI's own file (mode 0600), and makes the first
one current if none is. A context of the same name is replaced, if it is of the same
cluster. FILE holds a private key: one that others may read is refused. Remove it
afterwards.`,
		Example: "  vedette config import /var/lib/vedette-coordinator/admin.context.yaml\n  vedette config import admin.context.yaml --name prod --use",
		Args:    exactly("FILE"),
		RunE: bare(func(_ context.Context, args []string) error {
			in, err := client.LoadConfig(args[0])
			if err != nil {
				if errors.Is(err, client.ErrNoContext) {
					return exit(exitNotFound, "%w", err)
				}
				return err
			}
			if name != "" {
				if len(in.Contexts) != 1 {
					return usage("--name is for a file with one context; %s has %d", args[0], len(in.Contexts))
				}
				in.Contexts[0].Name = name
			}
			path, err := a.path()
			if err != nil {
				return err
			}
			config, err := client.LoadConfig(path)
			if errors.Is(err, client.ErrNoContext) || errors.Is(err, fs.ErrNotExist) {
				config, err = &client.Config{}, nil
			}
			if err != nil {
				return err
			}
			return a.merge(config, in, path, use)
		}),
	}
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	c.Flags().StringVar(&name, "name", "", "call it so here")
	c.Flags().BoolVar(&use, "use", false, "make it the current context")
	return c
}

func (a *app) configUpdateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "update-nodes",
		Short: "learn the addresses of all nodes of the cluster",
		Long: `Asks the cluster for its nodes and writes their operator addresses into the context in
effect, so that any of them may be away. 'vedette status' and 'vedette cluster members'
remember them by themselves, but only for this user and in a cache
(~/.cache/vedette/nodes-CLUSTER). No trust comes with an address: a node still has to
prove that it is one.`,
		Example: "  vedette config update-nodes",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			members, err := s.api.Members(ctx)
			if err != nil {
				return err
			}
			var nodes []string
			for _, m := range members {
				if m.GetOperatorAddress() != "" {
					nodes = append(nodes, m.GetOperatorAddress())
				}
			}
			if len(nodes) == 0 {
				return exit(exitNotFound, "the cluster names no operator address; the context stays as it is")
			}
			path, err := a.path()
			if err != nil {
				return err
			}
			err = client.Update(path, func(config *client.Config) error {
				c := config.Context(s.context.Name)
				if c == nil {
					return fmt.Errorf("%s holds no context named %q any more", path, s.context.Name)
				}
				c.Nodes = nodes
				return nil
			})
			if err != nil {
				return err
			}
			s.say("context %s knows %s now: %s", s.context.Name, plural(len(nodes), "node"), strings.Join(nodes, ", "))
			return nil
		}),
	}
}

func (a *app) merge(config, in *client.Config, path string, use bool) error {
	if names := losesRoot(config, in); len(names) > 0 {
		return usage("context %s here holds the root's key, and the one in the file does not: it would be lost; run 'vedette cluster root take-offline' first, or import this one with --name OTHER", strings.Join(names, ", "))
	}
	var lines []string
	for _, c := range in.Contexts {
		if err := c.Validate(a.now()); err != nil {
			return err
		}
		if old := config.Context(c.Name); old != nil && old.ClusterID != c.ClusterID {
			return usage("a context %q of another cluster (%s) is here already: import this one with --name OTHER", c.Name, old.ClusterID)
		}
		verb := "imported"
		if config.Merge(c) {
			verb = "replaced"
		}
		lines = append(lines, fmt.Sprintf("%s context %s (%s %s at %s)", verb, c.Name, c.Role, c.Operator, strings.Join(c.Nodes, ", ")))
	}
	if len(in.Contexts) == 0 {
		return exit(exitNotFound, "the file holds no context")
	}
	if use {
		config.Current = in.Contexts[0].Name
	}
	if err := config.Save(path); err != nil {
		return err
	}
	for _, line := range lines {
		a.say("%s", line)
	}
	a.say("current context: %s, in %s", config.Current, path)
	if os.Getenv("VEDETTE_CONTEXT_FILE") == "" && a.contextFile == "" {
		a.say("try: vedette status")
	}
	return nil
}
