package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	catalogue "github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/sensor"
	"github.com/vedette-edr/vedette/sensor/drill"
)

func drillCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Emulate attack techniques on this host, safely, to see whether they are found",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(drillRunCommand(f), drillCleanCommand(), drillActCommand())
	return cmd
}

func drillRunCommand(f *flags) *cobra.Command {
	var base, format string
	var lookUp time.Duration
	cmd := &cobra.Command{
		Use:   "run [DRILL]...",
		Short: "Do drills, all of them unless some are named, and say what was done",
		Long: `Do drills, all of them unless some are named, and say what was done.

Each is done in processes, a scratch folder and namespaces of its own, within 45 s, and
cleaned up. Accounts, units, crontabs, keys and logs of the host are not changed: what
is about them is done in overlays in memory that nobody else sees. Whether the sensor
found it is asked of the cluster: 'vedette drill run' does both, and 'vedette drill list'
names the drills. The exit code is 1 when a drill left something or could not be done.`,
		Example: `  vedette-sensor drill run
  vedette-sensor drill run cron-entry memory-program -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("unknown output format %q: use table or json", format)
			}
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			chosen, err := chooseDrills(args)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			run, err := drill.Run(ctx, drill.Config{
				Base: base, ScopeKind: cfg.Scope.Kind, ScopePath: cfg.Scope.Path, Drills: chosen, LookUp: lookUp,
				Told: func(d catalogue.Done) {
					fmt.Fprintf(cmd.ErrOrStderr(), "%-22s %-8s %s\n", d.ID, d.State, strings.Join(append(d.Left, d.Why), " "))
				},
			})
			if run != nil {
				run.Host = enrolledAs(cfg)
				if said := printDrills(cmd, run, format); said != nil {
					err = errors.Join(err, said)
				}
				if n := len(slices.DeleteFunc(slices.Clone(run.Drills), func(d catalogue.Done) bool { return d.Clean && d.State != catalogue.StateFailed })); n > 0 {
					err = errors.Join(err, fmt.Errorf("%d of %d drills failed or left something", n, len(run.Drills)))
				}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&base, "dir", drill.DefaultBase, "`folder` for the runs' scratch folders")
	cmd.Flags().DurationVar(&lookUp, "look-up", 0, "what the sensor may take to look up watched paths in a new mount namespace (default 2s, at most 20s)")
	cmd.Flags().StringVarP(&format, "output", "o", "table", "`format`: table or json")
	return cmd
}

func chooseDrills(names []string) (chosen []catalogue.Drill, err error) {
	if len(names) == 0 {
		return catalogue.All(), nil
	}
	for _, name := range names {
		d, ok := catalogue.Find(name)
		if !ok {
			return nil, fmt.Errorf("no drill is called %q: 'vedette drill list' names them", name)
		}
		chosen = append(chosen, d)
	}
	return chosen, nil
}

func printDrills(cmd *cobra.Command, run *catalogue.Run, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(run)
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 2, 8, 2, ' ', 0)
	fmt.Fprintln(table, "DRILL\tSTATE\tCLEAN\tTECHNIQUES\tWHY")
	for _, d := range run.Drills {
		known, _ := catalogue.Find(d.ID)
		fmt.Fprintf(table, "%s\t%s\t%v\t%s\t%s\n", d.ID, d.State, d.Clean, known.Techniques, strings.Join(append(d.Left, d.Why), "; "))
	}
	return table.Flush()
}

// enrolledAs is this host's id in its cluster; empty when it has none.
func enrolledAs(cfg sensor.Config) string {
	raw, err := os.ReadFile(filepath.Join(cfg.StateDir, "identity", "identity.json"))
	var who struct {
		HostID string `json:"host_id"`
	}
	if err != nil || json.Unmarshal(raw, &who) != nil {
		return ""
	}
	return who.HostID
}

func drillCleanCommand() *cobra.Command {
	var base string
	cmd := &cobra.Command{
		Use:     "clean",
		Short:   "Undo what drills left that were killed",
		Example: "  vedette-sensor drill clean",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cleaned, err := drill.Clean(base)
			for _, run := range cleaned {
				fmt.Fprintf(cmd.OutOrStdout(), "run %s: its processes are ended and what it made is removed\n", run)
			}
			if err == nil && len(cleaned) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no drill left anything")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&base, "dir", drill.DefaultBase, "`folder` of the runs' scratch folders")
	return cmd
}

// drillActCommand is what a drill's own processes are.
func drillActCommand() *cobra.Command {
	return &cobra.Command{
		Use: "act", Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			os.Exit(drill.Act(cmd.Context(), args))
			return nil
		},
	}
}
