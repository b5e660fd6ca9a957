package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/sensor"
)

func recorderCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recorder",
		Short: "Ask what happened on this host",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(recorderQueryCommand(f))
	return cmd
}

func recorderQueryCommand(f *flags) *cobra.Command {
	var (
		q        sensor.RecorderQuery
		stateDir string
	)
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Print what the flight recorder has, oldest first",
		Long: `Print what the flight recorder has, oldest first.

The recorder keeps every event that left the kernel, with its process, and the
times at which the sensor did not see. Every flag given narrows the answer. A
record is found by --pid and --process when the process did it or when it was
done to it. It needs root; the sensor may be running, or not.

Nothing that matches is no error: "no record matches" on standard error.`,
		Example: `  vedette-sensor recorder query --since 10m
  vedette-sensor recorder query --storyline 4711.83264000000 -o jsonl
  vedette-sensor recorder query --since 2026-05-01T12:00:00Z --until 2026-05-01T13:00:00Z --type exec --image 'bash'
  vedette-sensor recorder query --flow 203.0.113.7:443`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			if stateDir != "" {
				cfg.StateDir = stateDir
			}
			answer, err := sensor.QueryRecorder(cmd.Context(), cfg, q, cmd.OutOrStdout())
			if answer.Damaged > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d records could not be read: their blocks are damaged\n", answer.Damaged)
			}
			if err != nil {
				return err
			}
			switch {
			case answer.Limited:
				fmt.Fprintf(cmd.ErrOrStderr(), "these are the oldest %d; more match: raise --limit, or ask from a later --since\n", answer.Records)
			case answer.Records > 0:
			case len(q.Types) > 0 && len(answer.Types) > 0:
				fmt.Fprintf(cmd.ErrOrStderr(), "no record matches; the types in that time are %s\n", strings.Join(answer.Types, ", "))
			default:
				fmt.Fprintln(cmd.ErrOrStderr(), "no record matches")
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&stateDir, "state-dir", "", "the sensor's state `folder` (default: the config's)")
	flags.StringVar(&q.Since, "since", "", "from this `time`: RFC 3339, or how long ago (10m)")
	flags.StringVar(&q.Until, "until", "", "up to this `time`: RFC 3339, or how long ago")
	flags.StringVar(&q.PID, "pid", "", "what the process with this `number` did, whichever bore it")
	flags.StringVar(&q.Process, "process", "", "what exactly this process did, `PID.START`")
	flags.StringVar(&q.Storyline, "storyline", "", "what belongs to this storyline, `PID.START`")
	flags.StringVar(&q.Flow, "flow", "", "flows and look-ups with this `ADDRESS[:PORT]` at either end")
	flags.StringSliceVar(&q.Types, "type", nil, "only these `types`: exec, fork, exit, flow-open, flow-close, dns, loss, …")
	flags.StringVar(&q.Image, "image", "", "only of images like this `pattern`; * is any run of characters; without a slash: the name alone")
	flags.IntVar(&q.Limit, "limit", 0, "at most this `number` of records, 0 for all")
	flags.StringVarP(&q.Output, "output", "o", "table", "`format`: table or jsonl")
	return cmd
}
