package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/scale"
)

func run(ctx context.Context, cfg scale.Config) (err error) {
	if cfg.Bin, err = filepath.Abs(cfg.Bin); err != nil {
		return fmt.Errorf("finding the programs: %w", err)
	}
	if cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "vedette-sim-"); err != nil {
			return fmt.Errorf("making the nodes' folder: %w", err)
		}
		defer func() {
			if err == nil || errors.Is(err, figure.ErrMissed) {
				err = errors.Join(err, os.RemoveAll(cfg.Dir))
			} else {
				fmt.Fprintf(os.Stderr, "sim: logs are below %s\n", cfg.Dir)
			}
		}()
	}
	cfg.Log = func(text string) { fmt.Fprintf(os.Stderr, "    %s\n", text) }
	fmt.Printf("%s; %d sensors, seed %d\n", machine(), cfg.Size, cfg.Seed)
	rows, err := scale.Run(ctx, cfg)
	if err != nil {
		return err
	}
	err = figure.Report(os.Stdout, "out", "sim", rows)
	if ctx.Err() != nil {
		fmt.Println("interrupted: what is missing above was not measured, and the last rows may be of half a run")
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

func machine() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("unknown")
	}
	return fmt.Sprintf("machine: %d CPUs, load now: %s", runtime.NumCPU(), strings.TrimSpace(string(load)))
}
