package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/sensor"
)

const defaultConfig = "/etc/vedette/sensor.yaml"

// flags of every command.
type flags struct {
	config string
	print  bool
}

func rootCommand() *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use:   "vedette-sensor",
		Short: "Watch this host and report to the coordinator cluster",
		Long: `Watch this host and report to the coordinator cluster.

Without a command the sensor runs in the foreground until SIGTERM. It needs root,
or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE and
CAP_DAC_READ_SEARCH, a kernel with BTF (5.12 or later), and an identity (see
enroll).`,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			if f.print {
				text, err := cfg.Print()
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(text)
				return err
			}
			s, err := sensor.New(cfg, version, logger(cfg, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			return s.Run(cmd.Context())
		},
	}
	root.PersistentFlags().StringVar(&f.config, "config", defaultConfig, "YAML config `file`")
	root.Flags().BoolVar(&f.print, "print-config", false, "print the effective config, explained, and exit")
	root.AddCommand(enrollCommand(&f), releaseCommand(&f), unisolateCommand(&f), recorderCommand(&f), drillCommand(&f))
	return root
}

// load reads the config; the default file may be absent, a named one may not.
func (f *flags) load(cmd *cobra.Command) (sensor.Config, error) {
	cfg, err := sensor.LoadConfig(f.config)
	if errors.Is(err, os.ErrNotExist) && !cmd.Flags().Changed("config") {
		return sensor.DefaultConfig(), nil
	}
	return cfg, err
}

func logger(cfg sensor.Config, to io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: cfg.LogLevel}))
}

func enrollCommand(f *flags) *cobra.Command {
	var (
		coordinators []string
		token, file  string
		stateDir     string
		force        bool
	)
	cmd := &cobra.Command{
		Use:   "enroll --coordinator HOST:PORT --token TOKEN",
		Short: "Give this host its identity with a single-use join token",
		Long: `Give this host its identity with a single-use join token.

An operator makes the token with "vedette token create"; it is good for one host
and at most an hour. The host's key is made here and never leaves it. The token
also names the cluster's CA, so that this host cannot be lured to another one, and
the operators' authority, so that it obeys nobody else. While the nodes are busy, as
in the roll-out of many hosts, it tries again, for a minute and a half at most.

Arguments are readable by every user of a machine: --token-file (- for standard
input) or VEDETTE_TOKEN keep the token out of them.`,
		Example: `  vedette-sensor enroll --coordinator c1.example.org:7443 --token vdt2.…
  vedette token create -o name | ssh web1 vedette-sensor enroll --coordinator c1.example.org:7443 --token-file -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			if stateDir != "" {
				cfg.StateDir = stateDir
			}
			if len(coordinators) > 0 {
				cfg.Coordinators = coordinators
			}
			secret, err := tokenText(cmd.InOrStdin(), token, file, maxJoinToken)
			if errors.Is(err, errNoToken) {
				return fmt.Errorf("%w; an operator makes one with: vedette token create", err)
			}
			if err != nil {
				return err
			}
			id, err := sensor.Enroll(cmd.Context(), cfg, secret, force)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "enrolled as %s; start the sensor, or start it anew: systemctl enable vedette-sensor && systemctl restart vedette-sensor\n", id)
			return err
		},
	}
	cmd.Flags().StringSliceVar(&coordinators, "coordinator", nil, "a coordinator node's `host:port`; repeat for more (default: the config's)")
	cmd.Flags().StringVar(&token, "token", "", "the join token")
	cmd.Flags().StringVar(&file, "token-file", "", "read the join token from `file`, - for standard input")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "where the identity is kept (default: the config's)")
	cmd.Flags().BoolVar(&force, "force", false, "replace an identity that this host already has")
	cmd.MarkFlagsMutuallyExclusive("token", "token-file")
	return cmd
}

// maxJoinToken is beyond any join token, in bytes.
const maxJoinToken = 4096

var errNoToken = errors.New("no token: give --token, --token-file or VEDETTE_TOKEN")

// tokenText is the token from where the person put it, at most so many bytes of it.
func tokenText(stdin io.Reader, token, file string, most int64) (string, error) {
	from := stdin
	switch {
	case token != "":
		from = strings.NewReader(token)
	case file == "":
		from = strings.NewReader(os.Getenv("VEDETTE_TOKEN"))
	case file != "-":
		opened, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		defer opened.Close()
		from = opened
	}
	raw, err := io.ReadAll(io.LimitReader(from, most+1))
	switch text := strings.TrimSpace(string(raw)); {
	case err != nil:
		return "", fmt.Errorf("reading the token: %w", err)
	case int64(len(raw)) > most:
		return "", fmt.Errorf("reading the token: it is longer than any, %d bytes", most)
	case text == "":
		return "", errNoToken
	default:
		return text, nil
	}
}
