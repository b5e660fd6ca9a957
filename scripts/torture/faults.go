package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// planned is how many steps -plan prints of what goes on until the operations are done.
const planned = 20

// fault is one thing that is wrong for a while.
type fault struct {
	kind string
	// from and to are nodes; what is wrong with one node alone is wrong with from.
	from, to int
	lasts    time.Duration
	// pause is how long nothing is wrong afterwards.
	pause time.Duration
	// turns are how long a flapping cut is there and not there, in turn.
	turns []time.Duration
	// percent of what is sent is lost.
	percent int
}

const (
	symmetric = "cut off"  // from, from both others, both ways
	oneWay    = "one way"  // what from sends to to is lost
	flapping  = "flapping" // the same, again and again
	lossy     = "lossy"    // between all
	paused    = "paused"   // from's process stands still
	slow      = "slow"     // between all, through a thin pipe: packets wait
	leaderDie = "the leader dies"
)

var faultKinds = []string{symmetric, oneWay, flapping, lossy, slow, paused, leaderDie}

func (f fault) String() string {
	switch f.kind {
	case symmetric, paused:
		return fmt.Sprintf("%s %s for %s", id(f.from), f.kind, f.lasts)
	case lossy:
		return fmt.Sprintf("%d%% lost between all for %s", f.percent, f.lasts)
	case slow:
		return fmt.Sprintf("%d kbit/s between all for %s", f.kbit(), f.lasts)
	case leaderDie:
		return fmt.Sprintf("%s, and is back after %s", f.kind, f.lasts)
	}
	return fmt.Sprintf("%s → %s %s for %s %v", id(f.from), id(f.to), f.kind, f.lasts, f.turns)
}

// kbit is how thin a slow net is.
func (f fault) kbit() int { return 10 * f.percent }

// planFaults is n faults, of every kind in turn.
func planFaults(seed uint64, n int) []fault {
	d := dice(seed, "faults")
	var all []fault
	var kinds []string
	for range n {
		if len(kinds) == 0 {
			kinds = append(kinds, faultKinds...)
			d.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		}
		f := fault{kind: kinds[0], from: d.IntN(nodes), lasts: time.Duration(800+d.IntN(2200)) * time.Millisecond,
			pause: time.Duration(300+d.IntN(1200)) * time.Millisecond, percent: 10 + d.IntN(40)}
		f.to = (f.from + 1 + d.IntN(nodes-1)) % nodes
		if f.kind == flapping {
			for left := f.lasts; left > 0; left -= f.turns[len(f.turns)-1] {
				f.turns = append(f.turns, time.Duration(50+d.IntN(450))*time.Millisecond)
			}
		}
		all, kinds = append(all, f), kinds[1:]
	}
	return all
}

// frameOfRules is of a chain that sees what arrives: what is dropped there was sent, as on a
// wire, while a drop on the way out would be told to the sender.
const frameOfRules = `table inet torture
delete table inet torture
table inet torture {
	chain arrives {
		type filter hook %s priority 0; policy accept;
		%s
	}
}
`

// rules puts these rules in the place of all earlier ones.
func rules(ctx context.Context, all ...string) error {
	nft := exec.CommandContext(ctx, "nft", "-f", "-")
	hook := "input"
	if strings.Contains(strings.Join(all, ""), "priority set") {
		hook = "output" // before what is sent is queued
	}
	nft.Stdin = strings.NewReader(fmt.Sprintf(frameOfRules, hook, strings.Join(all, "\n\t\t")))
	if said, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(said))
	}
	return nil
}

func drop(from, to int) string {
	return fmt.Sprintf("ip saddr %s ip daddr %s drop", address(from), address(to))
}

// does makes a fault, waits, and makes good again whatever happens.
func (r *rig) does(ctx context.Context, f fault) (err error) {
	always := context.WithoutCancel(ctx)
	defer func() {
		if herr := rules(always); err == nil {
			err = herr
		}
		rest(ctx, f.pause)
	}()
	switch f.kind {
	case symmetric:
		var cut []string
		for other := range nodes {
			if other != f.from {
				cut = append(cut, drop(f.from, other), drop(other, f.from))
			}
		}
		err = rules(always, cut...)
	case oneWay:
		err = rules(always, drop(f.from, f.to))
	case flapping:
		for i, turn := range f.turns {
			if i%2 == 0 {
				err = rules(always, drop(f.from, f.to))
			} else {
				err = rules(always)
			}
			if err != nil {
				return err
			}
			rest(ctx, turn)
		}
		return nil
	case lossy:
		err = rules(always, fmt.Sprintf("ip saddr { %[1]s } ip daddr { %[1]s } numgen random mod 100 < %d drop",
			strings.Join([]string{address(0), address(1), address(2)}, ", "), f.percent))
	case slow:
		// The test kernel has no netem; what is given to this class waits its turn.
		for _, args := range [][]string{
			{"qdisc", "replace", "dev", "lo", "root", "handle", "1:", "htb", "default", "1"},
			{"class", "add", "dev", "lo", "parent", "1:", "classid", "1:1", "htb", "rate", "10gbit"},
			{"class", "add", "dev", "lo", "parent", "1:", "classid", "1:10", "htb", "rate", fmt.Sprintf("%dkbit", f.kbit())},
		} {
			err = errors.Join(err, program(always, "tc", args...))
		}
		defer func() { err = errors.Join(err, program(always, "tc", "qdisc", "del", "dev", "lo", "root")) }()
		err = errors.Join(err, rules(always, fmt.Sprintf("ip saddr { %[1]s } ip daddr { %[1]s } meta priority set 1:10",
			strings.Join([]string{address(0), address(1), address(2)}, ", "))))
	case paused:
		pid := r.Members[id(f.from)].PID()
		if err = syscall.Kill(pid, syscall.SIGSTOP); err == nil {
			rest(ctx, f.lasts)
			err = syscall.Kill(pid, syscall.SIGCONT)
		}
		return err
	case leaderDie:
		leader, lerr := r.leader(ctx)
		if lerr != nil {
			return lerr
		}
		r.Members[id(leader)].Kill()
		rest(ctx, f.lasts)
		return r.start(always, leader, "")
	}
	rest(ctx, f.lasts)
	return err
}

// rest waits so long, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
