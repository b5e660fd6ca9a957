package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// flapFor is how long one direction between the leader and one follower comes and goes.
const flapFor = 10 * time.Second

// flaps cuts, again and again, what a follower sends to the leader, and then what the
// leader sends to it. Two of three hear each other all the time: to change the leader
// would help nobody, and each change costs everybody's writes a second.
func (r *rig) flaps(ctx context.Context, d *rand.Rand) figure.Row {
	const name = "leaders made by a flapping one-way cut"
	leader, err := r.leader(ctx)
	if err != nil {
		return figure.Missing(name, "", "= 0", err)
	}
	before := r.elected()
	turns := 0
	for _, toLeader := range []bool{true, false} {
		from, to := leader, (leader+1+d.IntN(nodes-1))%nodes
		if toLeader {
			from, to = to, from
		}
		for left := flapFor; left > 0 && ctx.Err() == nil; turns++ {
			// Longer than what a follower waits for its leader, at times, and shorter.
			turn := time.Duration(50+d.IntN(1450)) * time.Millisecond
			if err = rules(ctx, drop(from, to)); err != nil {
				return figure.Missing(name, "", "= 0", err)
			}
			rest(ctx, turn)
			if err = rules(ctx); err != nil {
				return figure.Missing(name, "", "= 0", err)
			}
			pause := time.Duration(50+d.IntN(450)) * time.Millisecond
			rest(ctx, pause)
			left -= turn + pause
		}
	}
	rest(ctx, 2*time.Second) // an election that the last one began
	return figure.Exactly(name, float64(r.elected()-before), 0, "", fmt.Sprintf("%d cuts of 50 to 1500 ms, of either direction between the leader and a follower", turns))
}

// elected is how often any node began to lead: each is a term of its own.
func (r *rig) elected() (n int) {
	for i := range nodes {
		raw, _ := os.ReadFile(r.Members[id(i)].LogPath)
		n += strings.Count(string(raw), "entering leader state")
	}
	return n
}
