// Command torture breaks a real cluster on purpose and counts what was lost: it kills
// nodes between the system calls that matter and at any other time, cuts, delays and
// loses what they say to each other, takes away what was not yet on disk, and holds every
// answer to what a single machine could have answered.
//
// A run follows a plan that its seed alone decides (-plan prints it): which node is hit,
// how, when, and which faults the network has. That is replayed exactly. What the nodes
// are doing at that moment is not, since processes and disks have their own pace: a
// failing seed is run again with more rounds until it fails again.
//
// Everything happens in network and mount namespaces of its own, on the loopback there.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	cfg := config{coordinator: "failpoint"}
	flag.BoolVar(&cfg.nightly, "nightly", false, fmt.Sprintf("a night's work: %d kills, %d operations, %s and %s away", nightlyKills, nightlyOps, nightlySize, nightlyAway))
	flag.StringVar(&cfg.bin, "bin", "bin", "folder of the built programs; failpoint/ in it has the coordinator that can be told where to die")
	flag.Uint64Var(&cfg.seed, "seed", 0, "decides the plan; 0 draws one, which is printed")
	flag.IntVar(&cfg.kills, "kills", 120, "how many nodes are killed: of each six the leader five times, and a node at a named place")
	flag.IntVar(&cfg.ops, "ops", 5000, "how many operations are held to a single machine's answers")
	flag.DurationVar(&cfg.lasts, "lasts", 0, "how long they are asked for, in one round, however many they are; 0: until -ops are done")
	flag.Float64Var(&cfg.minutes, "minutes", 18, "stop after so many, in good order; what was not done is a row that is missing")
	flag.IntVar(&cfg.mutations, "mutations", 10_000, "how often files are damaged and opened in a process")
	flag.IntVar(&cfg.damaged, "damaged", 14, "how often a file of a running cluster's node is damaged")
	flag.StringVar(&cfg.size, "state", "64MiB", "how large the state is that a follower must catch up with")
	flag.DurationVar(&cfg.away, "away", 20*time.Second, "how long the follower is away")
	flag.IntVar(&cfg.rate, "rate", 2000, "how many records a second are written meanwhile")
	flag.StringVar(&cfg.only, "only", "", "these parts alone, by comma: "+strings.Join(partNames(), " "))
	flag.BoolVar(&cfg.plan, "plan", false, "print the seed's plan and do nothing")
	flag.StringVar(&cfg.defect, "defect", "", "a defect to be found: read-barrier (reads without one), log.sync (a log that is not synced)")
	flag.BoolVar(&cfg.keep, "keep", false, "keep the folder with the nodes' logs and data")
	flag.BoolVar(&cfg.brief, "brief", false, "without what takes its time however little is asked for")
	flag.Parse()
	if cfg.nightly {
		cfg.night()
	}
	if cfg.seed == 0 {
		cfg.seed = uint64(time.Now().UnixNano()) % 1_000_000 //nolint:gosec // not negative
	}
	if err := start(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}
