// Command vedette-sensor is the agent on one host: it sees what happens in the
// kernel, learns what is normal, reports findings and cuts the host off when an
// operator orders it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set at link time.
var version = "dev"

func main() {
	// Keys, and what this host does, are for nobody else on it.
	syscall.Umask(0o077)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "vedette-sensor:", err)
		os.Exit(1)
	}
}
