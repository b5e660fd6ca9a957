package main

import (
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

// point is a place where the coordinator can be told to die, and what must be done to a
// node's files for it to come there.
type point struct {
	name string
	// upTo bounds the hit at which it dies: it is drawn from 1 to it.
	upTo int
	// with is done to the files of the dead node first.
	with damage
}

type damage string

const (
	nothing damage = ""
	noState damage = "the state removed" // it comes back from snapshot and log
	noName  damage = "an address added"  // the certificate is made anew
	badly   damage = "the state damaged" // it is set aside
)

// points are all of them: a test holds this list to the coordinator's source.
var points = []point{
	{"log.write.before", 200, nothing}, {"log.write.half", 200, nothing}, {"log.write.after", 200, nothing},
	{"log.sync.before", 200, nothing}, {"log.sync.after", 200, nothing},
	{"log.create.before", 1, nothing}, {"log.create.after", 1, nothing},
	{"log.delete.before", 1, nothing}, {"log.delete.after", 1, nothing},
	{"log.index.before", 2, nothing}, {"log.index.after", 2, nothing},
	{"commit.before", 200, nothing}, {"commit.after", 200, nothing},
	{"snapshot.copied", 2, nothing}, {"snapshot.written", 2, nothing},
	{"snapshot.close.before", 2, nothing}, {"snapshot.close.after", 2, nothing},
	{"restore.sync.before", 1, noState}, {"restore.sync.after", 1, noState}, {"restore.verified", 1, noState},
	{"restore.disconnected", 1, noState}, {"restore.wal-removed", 1, noState},
	{"restore.rename.before", 1, noState}, {"restore.rename.after", 1, noState}, {"restore.reopened", 1, noState},
	{"migrate.before", 4, noState}, {"migrate.after", 4, noState},
	{"aside.renamed", 3, badly},
	{"identity.rename.before", 1, noName}, {"identity.rename.after", 1, noName},
}

// kill is one step: a node dies.
type kill struct {
	// leader is whoever leads then; otherwise it is a node, by number.
	leader bool
	node   int
	// after so long since the cluster was whole again.
	after time.Duration
	// at is where, when the node is told to die there; the zero value is any moment.
	at  point
	hit int
}

func (k kill) String() string {
	who := fmt.Sprintf("n%d", k.node+1)
	if k.leader {
		who = "the leader"
	}
	if k.at.name == "" {
		return fmt.Sprintf("%s after %s", who, k.after)
	}
	text := fmt.Sprintf("%s after %s at %s, hit %d", who, k.after, k.at.name, k.hit)
	if k.at.with != nothing {
		text += ", " + string(k.at.with)
	}
	return text
}

// dice are a part's own, so that a part alone does what it does among the others.
func dice(seed uint64, part string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(part))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// planKills is n steps: of each six five hit the leader, and one a place in turn.
func planKills(seed uint64, n, nodes int) []kill {
	d := dice(seed, "kills")
	order := d.Perm(len(points))
	var steps []kill
	for i, places := 0, 0; i < n; i++ {
		k := kill{node: d.IntN(nodes), after: time.Duration(d.IntN(300)) * time.Millisecond, leader: true}
		if i%6 == 2 {
			k.leader, k.at = false, points[order[places%len(order)]]
			k.hit = 1 + d.IntN(k.at.upTo)
			places++
		}
		steps = append(steps, k)
	}
	return steps
}

// leadersOf so many kills are leaders' at least.
func leadersOf(kills int) int { return kills * 5 / 6 }

// killsOfAllPlaces is after how many kills each place had its turn.
func killsOfAllPlaces() int { return 6 * len(points) }

func printPlan(w io.Writer, cfg config) error {
	fmt.Fprintf(w, "seed %d\n", cfg.seed)
	for i, k := range planKills(cfg.seed, cfg.kills, nodes) {
		fmt.Fprintf(w, "kill %d: %s\n", i+1, k)
	}
	for i, f := range planFaults(cfg.seed, planned) {
		fmt.Fprintf(w, "fault %d: %s\n", i+1, f)
	}
	for i, c := range planCuts(cfg.seed, planned, nodes) {
		fmt.Fprintf(w, "power %d: %s\n", i+1, c)
	}
	for i, m := range planMutations(cfg.seed, max(cfg.damaged, planned), nodes) {
		fmt.Fprintf(w, "damage %d: %s\n", i+1, m)
	}
	return nil
}
