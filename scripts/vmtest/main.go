// Command vmtest runs the privileged Go tests on a real Debian kernel that this
// machine does not run: a cloud kernel from the machine's own package archive, in
// qemu by software emulation, with a cpio archive that holds a static init, the
// kernel modules, the test programs and the few programs that they start.
//
// With -reboots it runs no tests there but boots that guest again and again, isolated,
// for the test of sensor/internal/respond/isolation that counts what leaves it.
//
// Invariant: only what the guest says passed has passed. A guest that dies, hangs or
// does not end with its last line is a failure, with what its console said.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	var cfg config
	var packages string
	flag.StringVar(&cfg.series, "kernel", "", "kernel series: "+strings.Join(seriesNames(), " or "))
	flag.StringVar(&packages, "packages", strings.Join(allPackages(), ","), "test packages, by comma")
	flag.StringVar(&cfg.run, "run", "", "only tests that match, as go test -run")
	flag.StringVar(&cfg.beside, "beside", "", "a test package whose program is in the guest as well, for the others to start: "+programOf("PACKAGE"))
	flag.Func("env", "NAME=value in the tests' environment; may be repeated", func(pair string) error {
		if name, _, ok := strings.Cut(pair, "="); !ok || name == "" {
			return errors.New("want NAME=value")
		}
		cfg.env = append(cfg.env, pair)
		return nil
	})
	flag.IntVar(&cfg.reboots, "reboots", 0, "run no tests, but isolate the guest and boot it so often, counting what it sends")
	flag.BoolVar(&cfg.quick, "quick", false, "leave out what takes long, as CI does")
	flag.DurationVar(&cfg.timeout, "timeout", 80*time.Minute, "the longest that the guest may take")
	flag.Parse()
	cfg.packages = strings.Split(packages, ",")
	cfg.out = "out"
	if cache, err := os.UserCacheDir(); err == nil {
		cfg.cache = filepath.Join(cache, "vedette", "vmtest")
	} else {
		cfg.cache = filepath.Join(cfg.out, "vmtest")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, cfg)
	var missing *missingError
	switch {
	case errors.As(err, &missing) && os.Getenv("CI") != "":
		// The last line, where whoever counts steps looks.
		fmt.Println("SKIP: needs", missing.what)
	case err != nil:
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}
