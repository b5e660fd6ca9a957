// Command vedette is the operator's command line: it asks the cluster and gives
// it orders, as docs/cli.md describes.
//
// Invariant: data goes to stdout, everything else to stderr, and the exit code
// says what happened, so that a script never has to read prose.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := newApp(os.Stdin, os.Stdout, os.Stderr).run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
