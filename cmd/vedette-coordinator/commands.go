package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/proto/seal"
)

// devData is where --dev keeps its node, below the working directory.
const devData = ".vedette/dev-coordinator"

// options are the flags that all commands which need a Config share.
type options struct {
	file   string
	config coordinator.Config
	print  bool
	dev    bool
}

func root() *cobra.Command {
	o := &options{}
	run := func(cmd *cobra.Command, _ []string) error { return o.run(cmd) }
	c := &cobra.Command{
		Use:     "vedette-coordinator",
		Version: version,
		Short:   "Run one node of a Vedette cluster",
		Long: "Run one node of a Vedette cluster.\n\n" +
			"A cluster is made by 'vedette-coordinator init' on its first node; every other node joins it once\n" +
			"with 'vedette-coordinator join'. After that the program runs with --config or --data alone.",
		Args: cobra.NoArgs, RunE: run, SilenceUsage: true, SilenceErrors: true,
	}
	runFlags := func(c *cobra.Command) {
		o.flags(c)
		c.Flags().StringVarP(&o.file, "config", "c", "", "read the configuration from this YAML `file`; flags win over it")
		c.Flags().BoolVar(&o.print, "print-config", false, "print the effective configuration, every field explained, and leave")
		c.Flags().BoolVar(&o.dev, "dev", false, "run one node with everything defaulted, state in ./"+devData)
	}
	runFlags(c)
	again := &cobra.Command{Use: "run", Short: "Run the node (the default)", Args: cobra.NoArgs, RunE: run}
	runFlags(again)
	c.AddCommand(again, initCommand(), joinCommand(), restoreCommand(), recoverCommand(), operatorCommand(),
		&cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "vedette-coordinator", version)
			return err
		}})
	return c
}

func (o *options) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.config.Data, "data", "", "the node's `directory`")
	f.StringVar(&o.config.ID, "id", "", "the node's `name` in the cluster")
	f.StringVar(&o.config.Listen, "listen", "", "UDP `address` for sensors and nodes (default "+coordinator.DefaultListen+")")
	f.StringVar(&o.config.OperatorListen, "operator-listen", "", "TCP `address` for operators (default "+coordinator.DefaultOperatorListen+")")
	f.StringVar(&o.config.Advertise, "advertise", "", "--listen as others reach it")
	f.StringVar(&o.config.OperatorAdvertise, "operator-advertise", "", "--operator-listen as others reach it")
	f.StringVar(&o.config.MetricsListen, "metrics-listen", "", "TCP `address` for /metrics, /healthz and /readyz without TLS (default none)")
	f.StringVar(&o.config.LogLevel, "log-level", "", "debug, info, warn or error")
	f.StringVar(&o.config.LogFormat, "log-format", "", "text or json")
}

// load joins defaults, file and flags, the later ones winning.
func (o *options) load() (coordinator.Config, error) {
	cfg := coordinator.DefaultConfig()
	if o.dev {
		cfg.Data = devData
	}
	if o.file != "" {
		if err := readConfig(o.file, &cfg); err != nil {
			return cfg, err
		}
	}
	flags := map[string]bool{}
	for key, f := range map[string]struct{ to, from *string }{
		"data": {&cfg.Data, &o.config.Data}, "id": {&cfg.ID, &o.config.ID},
		"listen": {&cfg.Listen, &o.config.Listen}, "operator_listen": {&cfg.OperatorListen, &o.config.OperatorListen},
		"advertise": {&cfg.Advertise, &o.config.Advertise}, "operator_advertise": {&cfg.OperatorAdvertise, &o.config.OperatorAdvertise},
		"metrics_listen": {&cfg.MetricsListen, &o.config.MetricsListen},
		"log_level":      {&cfg.LogLevel, &o.config.LogLevel}, "log_format": {&cfg.LogFormat, &o.config.LogFormat},
	} {
		if *f.from != "" {
			*f.to = *f.from
			flags[key] = true
		}
	}
	if inFile := cfg.Where; inFile != nil {
		cfg.Where = func(key string) string {
			if flags[key] {
				return "" // the file does not say it
			}
			return inFile(key)
		}
	}
	cfg.Version = version
	return cfg, nil
}

func (o *options) run(cmd *cobra.Command) error {
	cfg, err := o.load()
	if err != nil {
		return err
	}
	logger, err := coordinator.NewLogger(cmd.ErrOrStderr(), cfg.LogFormat, cfg.LogLevel)
	if err != nil { // New tells it, with all else that is wrong
		logger = slog.Default()
	}
	if o.print {
		// Where there is a node, what it was made with is part of what is effective.
		if node, err := coordinator.New(cfg); err == nil {
			cfg = node.Config()
		}
		return printConfig(cmd.OutOrStdout(), cfg)
	}
	cfg.Logger = logger
	node, err := coordinator.New(cfg)
	if o.dev && errors.Is(err, coordinator.ErrNotInitialised) {
		if cfg.ID == "" {
			cfg.ID = "dev"
		}
		var path string
		if path, err = coordinator.Init(cfg); err != nil {
			return err
		}
		say(cmd.ErrOrStderr(), "Made a cluster of one node. Use it with:\n  export VEDETTE_CONTEXT_FILE=%s\n", absolute(path))
		node, err = coordinator.New(cfg)
	}
	if err != nil {
		return err
	}
	go keepHeapSmall(cmd.Context())
	return node.Run(cmd.Context())
}

func initCommand() *cobra.Command {
	o := &options{}
	var root coordinator.RootFile
	var passphraseFile string
	c := &cobra.Command{
		Use:   "init --data DIR --id NAME",
		Short: "Make a new cluster, this node being its first",
		Long: "Make a new cluster, this node being its first, and the context file of its first admin.\n\n" +
			"The root of it all is the key of the operators' authority. It is in that file, unless --root-out names\n" +
			"another one: then it is there alone, encrypted (--root-recipient, --root-passphrase-file), and never on a disk\n" +
			"in the clear. The admin has an authority of their own, for a year. 'vedette cluster root' has what is done with it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if root.Path == "" && (len(root.Recipients) > 0 || passphraseFile != "") {
				return errors.New("--root-out says where the root's key goes")
			}
			if root.Path != "" {
				return initOffline(cmd, cfg, root, passphraseFile)
			}
			path, err := coordinator.Init(cfg)
			if err != nil {
				return err
			}
			say(cmd.ErrOrStderr(), "Made a cluster. The first admin's context file:\n  %s\nIt holds the root's key, which makes operators. Move it to the admin's machine, so that no node has it,\n"+
				"and there take that key offline, into an encrypted file: 'vedette cluster root take-offline'. Without it there\n"+
				"will be no new operators. Next:\n"+
				"  vedette-coordinator --data %s\n  VEDETTE_CONTEXT_FILE=%s vedette status\n", absolute(path), cfg.Data, absolute(path))
			return nil
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVarP(&o.file, "config", "c", "", "read the configuration from this YAML `file`; flags win over it")
	f.StringVar(&root.Path, "root-out", "", "write the root's key to this `file`, encrypted, instead of into the context")
	f.StringSliceVar(&root.Recipients, "root-recipient", nil, "encrypt it for this age `recipient` (age1...); repeatable")
	f.StringVar(&passphraseFile, "root-passphrase-file", "", "encrypt it by the passphrase in `file`, - for standard input")
	c.MarkFlagsMutuallyExclusive("root-recipient", "root-passphrase-file")
	return c
}

// initOffline makes a cluster whose root's key is in a file of its own.
func initOffline(cmd *cobra.Command, cfg coordinator.Config, root coordinator.RootFile, passphraseFile string) (err error) {
	switch {
	case passphraseFile != "":
		if root.Passphrase, err = seal.ReadSecret(passphraseFile, cmd.InOrStdin()); err != nil {
			return fmt.Errorf("reading the passphrase: %w", err)
		}
	case len(root.Recipients) == 0:
		return errors.New("--root-out is encrypted: give --root-recipient or --root-passphrase-file")
	}
	path, err := coordinator.InitOffline(cfg, root)
	if err != nil {
		return err
	}
	say(cmd.ErrOrStderr(), "Made a cluster. Its root's key, encrypted:\n  %s\nTake it off this machine, in two copies to two places, and what opens it to a third: nothing replaces that key.\n", absolute(root.Path))
	if len(root.Recipients) > 0 {
		say(cmd.ErrOrStderr(), "It could not be opened here: try that before hosts enrol, with 'vedette cluster root inspect FILE --age-identity KEY'.\n")
	}
	say(cmd.ErrOrStderr(), "The first admin's context file, with an authority that makes operators for a year:\n  %s\nMove it to the admin's machine, so that no node has it. Next:\n"+
		"  vedette-coordinator --data %s\n  VEDETTE_CONTEXT_FILE=%s vedette status\n", absolute(path), cfg.Data, absolute(path))
	return nil
}

func joinCommand() *cobra.Command {
	o := &options{}
	var node, token, file string
	c := &cobra.Command{
		Use:   "join --data DIR --id NAME --coordinator HOST:PORT --token-file FILE",
		Short: "Make this a node of an existing cluster",
		Long: "Make this a node of an existing cluster. The token is of kind node: an admin makes it with\n" +
			"'vedette token create --node'. Arguments are readable by every user of a machine:\n" +
			"--token-file (- for standard input) or VEDETTE_TOKEN keep the token out of them.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			token, err := tokenText(cmd.InOrStdin(), token, file)
			if err != nil {
				return err
			}
			if err := coordinator.Join(cmd.Context(), cfg, node, token); err != nil {
				return err
			}
			say(cmd.ErrOrStderr(), "This is now node %s. Next:\n  vedette-coordinator --data %s\n", cfg.ID, cfg.Data)
			return nil
		},
	}
	o.flags(c)
	c.Flags().StringVarP(&o.file, "config", "c", "", "read the configuration from this YAML `file`; flags win over it")
	c.Flags().StringVar(&node, "coordinator", "", "UDP `address` of a node of the cluster")
	c.Flags().StringVar(&token, "token", "", "join token of kind node")
	c.Flags().StringVar(&file, "token-file", "", "read the join token from `file`, - for standard input")
	c.MarkFlagsMutuallyExclusive("token", "token-file")
	_ = c.MarkFlagRequired("coordinator")
	return c
}

// tokenText is the token from where the person put it: flag, file or environment.
func tokenText(stdin io.Reader, token, file string) (string, error) {
	const most = 1 << 10
	from := stdin
	switch {
	case token != "":
		return token, nil
	case file == "":
		token = os.Getenv("VEDETTE_TOKEN")
		if token == "" {
			return "", errors.New("no join token: give --token-file, --token or VEDETTE_TOKEN; an admin makes one with: vedette token create --node")
		}
		return token, nil
	case file != "-":
		opened, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		defer opened.Close()
		from = opened
	}
	text, err := io.ReadAll(io.LimitReader(from, most))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// operatorCommand tells who knows it from older releases where it went: a node has
// no key that makes operators.
func operatorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "operator", Hidden: true, DisableFlagParsing: true,
		Short: "Moved: vedette operator create",
		RunE: func(*cobra.Command, []string) error {
			return errors.New("no node can make operators, so that a stolen one cannot: an admin does, on their own machine: vedette operator create NAME --role ROLE")
		},
	}
}

func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
