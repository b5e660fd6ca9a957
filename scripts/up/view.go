package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// hints are what to try in another terminal, a line each.
func hints(bin string, c *lab.Cluster) []string {
	return []string{
		fmt.Sprintf("sudo env VEDETTE_CONTEXT_FILE=%s PATH=%s:$PATH bash   # a shell for what follows", c.Context, bin),
		"vedette status                 # is all well, and what to do if not",
		"vedette host list              # this host, what it learnt, what was lost",
		"cp /bin/bash /dev/shm/x; /dev/shm/x -c 'exec 3<>/dev/tcp/127.0.0.1/22'; rm /dev/shm/x   # an intruder's first step",
		"vedette finding list           # it is there within two seconds; finding show ID tells why",
		"vedette cluster members        # kill one of them: nothing is lost",
		"sudo make demo                 # isolation, in namespaces: here vedette isolate would really cut this machine off",
	}
}

// watch shows the live view until the person ends it, ctx ends, or the sensor dies.
func watch(ctx context.Context, c *lab.Cluster, sensor *lab.Process, hints []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-sensor.Exited():
			cancel(fmt.Errorf("the sensor ended:\n%s", sensor.Tail()))
		case <-ctx.Done():
		}
	}()
	cmd := c.Command(ctx, "watch")
	fmt.Println("\nTo try in another terminal:")
	for _, hint := range hints {
		fmt.Println("  " + hint)
		cmd.Args = append(cmd.Args, "--hint", hint)
	}
	fmt.Println()
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		cmd.Args = append(cmd.Args, "--plain")
	} else {
		cmd.Env = append(os.Environ(), "VEDETTE_CONTEXT_FILE="+c.Context)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 130 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("showing the live view: %w", err)
	}
	return nil
}
