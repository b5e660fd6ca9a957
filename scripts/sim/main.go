// Command sim simulates a fleet: it starts three coordinator nodes on loopback, connects
// as many real sensor sessions to them as it is told, has those report what a seeded
// world has them do, and prints how the nodes stood it beside what is wanted of them.
//
// The same -seed is the same fleet. Everything runs on this machine, in this process and
// three children, and is ended with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/scale"
)

func main() {
	var cfg scale.Config
	flag.StringVar(&cfg.Bin, "bin", "bin", "folder of the built programs")
	flag.StringVar(&cfg.Dir, "dir", "", "folder for the nodes' state; a temporary one when empty")
	flag.IntVar(&cfg.Port, "port", 17741, "first UDP port of the three nodes; their operators' ports are ten above")
	flag.IntVar(&cfg.Size, "size", 1000, "how many sensors")
	flag.Uint64Var(&cfg.Seed, "seed", 1, "which world: the same seed is the same fleet")
	flag.DurationVar(&cfg.Every, "every", 30*time.Second, "how often each sensor reports")
	flag.DurationVar(&cfg.Hold, "hold", 90*time.Second, "how long the fleet is held under its reports; from 10m on the growth of memory is judged")
	flag.IntVar(&cfg.Speed, "speed", 1, "how many times faster than real the hosts' days are")
	flag.StringVar(&cfg.Herd, "herd", "leader", "what is killed: leader, all or none")
	flag.IntVar(&cfg.Rush, "rush", 64, "handshakes that the sensors have under way at once; -1: as many as come")
	only := flag.String("only", "", "take these parts alone, by comma: "+scale.Parts())
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		// Ten thousand hosts collect their garbage in one process, on the processors of the
		// nodes that are measured: memory is what this process has.
		debug.SetGCPercent(300)
	}
	if *only != "" {
		cfg.Only = strings.Split(*only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, cfg.Hold+90*time.Minute)
	defer cancel()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}
