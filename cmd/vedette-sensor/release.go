package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/sensor"
)

func releaseCommand(f *flags) *cobra.Command {
	var token, file, stateDir string
	cmd := &cobra.Command{
		Use:   "release --token-file FILE",
		Short: "End this host's isolation with an operator's release token",
		Long: `End this host's isolation with an operator's release token, where no coordinator
can be reached to bring a release.

An operator makes the token with "vedette release HOST --offline-token"; it is for
this host alone, serves once and for a day at most. It is verified as a release
that a coordinator brings, by this host's knowledge of who its operators are, and
reported to the cluster like one. The sensor may run or not.

Arguments are readable by every user of a machine: --token-file (- for standard
input) or VEDETTE_TOKEN keep the token out of them.`,
		Example: `  vedette-sensor release --token-file token.txt
  vedette-sensor release --token-file - <token.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			if stateDir != "" {
				cfg.StateDir = stateDir
			}
			text, err := tokenText(cmd.InOrStdin(), token, file, grant.MaxReleaseToken)
			if errors.Is(err, errNoToken) {
				return fmt.Errorf("%w; an operator makes one with: vedette release HOST --offline-token", err)
			}
			if err != nil {
				return err
			}
			what, err := sensor.Release(cmd.Context(), cfg, text, logger(cfg, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "released:", what)
			return err
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "the release token")
	cmd.Flags().StringVar(&file, "token-file", "", "read the release token from `file`, - for standard input")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the sensor's state `folder` (default: the config's)")
	cmd.MarkFlagsMutuallyExclusive("token", "token-file")
	return cmd
}
