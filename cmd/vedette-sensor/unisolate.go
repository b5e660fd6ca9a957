package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/sensor"
)

func unisolateCommand(f *flags) *cobra.Command {
	var (
		reason, stateDir string
		yes              bool
	)
	cmd := &cobra.Command{
		Use:   "unisolate --reason TEXT --yes",
		Short: "End this host's isolation by root's authority, while the sensor is stopped",
		Long: `End this host's isolation by root's authority, while the sensor is stopped.

The regular way is an operator's "vedette release". This is for a host whose
sensor cannot run any more, and for removing the package, which calls it.

It is no secret: who did it and why is kept in the state folder, and the sensor
reports it to the cluster (released, "by root on the host") when it starts next.
While the sensor runs this is refused, because it would isolate again at once.`,
		Example: `  systemctl stop vedette-sensor
  vedette-sensor unisolate --reason "sensor crashes at start, ticket 4711" --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reason == "" {
				return errors.New("no reason: say with --reason why; it is told to the cluster")
			}
			if !yes {
				return errors.New("nothing is changed: this reconnects a host that an operator isolated, and the cluster is told at the sensor's next start; confirm with --yes")
			}
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			if stateDir != "" {
				cfg.StateDir = stateDir
			}
			ended, err := sensor.RemoveIsolation(cmd.Context(), cfg, reason, logger(cfg, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			text := "this host is not isolated and nothing on it is contained; nothing is changed"
			if len(ended) > 0 {
				text = fmt.Sprintf("this host is isolated and contained no more (%s); the sensor reports this when it starts next", strings.Join(ended, ", "))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, one line of `text`, told to the cluster")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the sensor's state `folder` (default: the config's)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}
