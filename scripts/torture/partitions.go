package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

const (
	// operators call at every node.
	operators = 3
	// roundOps is how many operations are checked together, on hosts of their own.
	roundOps = 10_000
	// clusterOps is how many a cluster is given before another takes its place: orders and
	// intents are kept for ever, and a snapshot that copies a day of them is no torture but a wait.
	clusterOps = 50_000
	// planAhead is how many faults are planned at once.
	planAhead = 200
	// orderedHosts are given orders in a round.
	orderedHosts = 8
	// settling is longer than a node tries to commit what has no answer: after it nothing
	// of a round happens in the next one.
	settling = 12 * time.Second
	// checkMost bounds the checking of one history.
	checkMost = time.Minute
)

// answered is what came of a part with histories.
type answered struct {
	verdict
	faults map[string]int
	others map[string]int64
}

func answers(ctx context.Context, cfg config, dir string) (rows []figure.Row) {
	out := answered{faults: map[string]int{}, others: map[string]int64{}}
	faults := planFaults(cfg.seed, planAhead)
	var err error
	round := 0
	goesOn := func(err error, until int) bool {
		return err == nil && ctx.Err() == nil && out.operations < until && (cfg.lasts == 0 || round == 0)
	}
	for goesOn(err, cfg.ops) {
		err = func() error {
			more := ""
			if cfg.defect == "read-barrier" {
				more = ",read-barrier=skip"
			}
			r, err := newRig(ctx, cfg, fmt.Sprintf("%s-%d", dir, round), more, nothingFirst)
			if err != nil {
				return err
			}
			if round == 0 && !cfg.brief {
				rows = append(rows, r.flaps(ctx, dice(cfg.seed, "flaps")))
			}
			for until := min(cfg.ops, out.operations+clusterOps); goesOn(err, until); round++ {
				err = r.round(ctx, cfg, round, min(roundOps, until-out.operations), &faults, &out)
			}
			fmt.Printf("torture: %d of %d operations, %d histories that no single machine could have given\n", out.operations, cfg.ops, out.violations)
			return errors.Join(err, r.close(cfg.keep || err != nil || out.violations > 0))
		}()
	}
	return append(out.rows(cfg, err), rows...)
}

// faults is how many a round has at least.
func (c *config) faults() int {
	switch {
	case c.lasts > 0:
		return len(faultKinds)
	case c.brief:
		return 1
	}
	return 2 * len(faultKinds)
}

// round lets all operators call at all nodes while one fault follows the other, and
// checks what they were answered.
func (r *rig) round(ctx context.Context, cfg config, round, most int, faults *[]fault, out *answered) error {
	s := &shared{rig: r, h: newHistory()}
	hosts, err := r.sensors(ctx, orderedHosts+1)
	if err != nil {
		return err
	}
	for _, h := range hosts[1:] {
		s.hosts = append(s.hosts, h.id)
	}
	s.waiting, s.epochs = hosts[0].id, make([]atomic.Uint64, orderedHosts)
	s.names.Store(uint64(round) * 10_000_000) //nolint:gosec // not negative
	callers, err := s.callers(cfg, round)
	if err != nil {
		return err
	}
	if err := s.begin(ctx, callers[0].api); err != nil {
		return err
	}
	calling, stop := context.WithCancel(ctx)
	defer stop()
	if cfg.lasts > 0 {
		calling, stop = context.WithTimeout(calling, cfg.lasts)
		defer stop()
		most = math.MaxInt
	}
	var wg sync.WaitGroup
	for _, c := range callers {
		wg.Go(func() { c.run(calling, most, cfg.faults()) })
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done); stop() }()
	for err == nil && calling.Err() == nil {
		if len(*faults) == 0 {
			*faults = planFaults(cfg.seed+uint64(round)+1, planAhead) //nolint:gosec // not negative
		}
		f := (*faults)[0]
		*faults = (*faults)[1:]
		rest(calling, f.pause)
		if calling.Err() == nil {
			err = r.does(calling, f)
		}
		if err == nil && calling.Err() == nil { // it was there for as long as it was to be
			out.faults[f.kind]++
			s.faults.Add(1)
		}
	}
	if calling.Err() != nil && err != nil && !strings.Contains(err.Error(), "nft") {
		err = nil // the round ended while it waited for a leader to kill
	}
	stop()
	<-done
	always := context.WithoutCancel(ctx)
	err = errors.Join(err, r.whole(always), r.level(always))
	if err == nil {
		if out.operations+s.h.size() < cfg.ops { // another round follows
			rest(ctx, settling)
		}
		err = s.end(always, callers[0].api)
	}
	for _, c := range callers {
		c.api.Close()
	}
	s.others.Range(func(text, n any) bool {
		out.others[text.(string)] += n.(*atomic.Int64).Load()
		return true
	})
	out.add(s.h.check(checkMost))
	return err
}

// callers are each operator at each node.
func (s *shared) callers(cfg config, round int) ([]*caller, error) {
	contexts := []*client.Context{s.rig.admin}
	for i := 1; i < operators; i++ {
		made, err := s.rig.admin.NewOperator(client.NewOperator{Name: fmt.Sprintf("operator-%d", i), Role: "admin"})
		if err != nil {
			return nil, err
		}
		contexts = append(contexts, made)
	}
	var all []*caller
	for n := range operators * nodes {
		c := &caller{shared: s, n: n, node: n / operators, dice: dice(cfg.seed, fmt.Sprintf("caller %d.%d", round, n))}
		var err error
		if c.api, err = only(contexts[n%operators], c.node); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// begin notes what the one object that stays for ever holds: the intent.
func (s *shared) begin(ctx context.Context, api *client.Client) error {
	return until(ctx, patience, "the intent to be read", func(ctx context.Context) (bool, error) {
		called := s.h.now()
		current, err := inForce(ctx, api)
		if err != nil {
			return false, err
		}
		s.h.add(0, called, input{object: doApply, do: doBegin, value: current.Effective().GetReason()}, output{came: yes})
		return true, nil
	})
}

// end reads every object a last time.
func (s *shared) end(ctx context.Context, api *client.Client) error {
	read := func(object string, value func(context.Context) (string, error)) error {
		return until(ctx, patience, "the last read of "+object, func(ctx context.Context) (bool, error) {
			called := s.h.now()
			got, err := value(ctx)
			if err == nil {
				s.h.add(0, called, input{object: object, do: doRead}, output{came: yes, value: got})
			}
			return err == nil, err
		})
	}
	err := read(doApply, func(ctx context.Context) (string, error) {
		current, err := inForce(ctx, api)
		return current.Effective().GetReason(), err
	})
	for _, host := range s.hosts {
		err = errors.Join(err, read("host "+host, func(ctx context.Context) (string, error) { return newest(ctx, api, host) }))
	}
	return err
}

func (a *answered) rows(cfg config, err error) []figure.Row {
	var kinds []string
	for _, kind := range faultKinds {
		kinds = append(kinds, fmt.Sprintf("%s ×%d", kind, a.faults[kind]))
	}
	total := 0
	for _, n := range a.faults {
		total += n
	}
	for _, line := range a.first {
		fmt.Fprintln(os.Stderr, line)
	}
	rows := []figure.Row{
		figure.AtLeast("operations checked", float64(a.operations), float64(cfg.ops), "", fmt.Sprintf("seed %d; orders, intents, approvals, tokens, reads; %d operators at each of %d nodes; %d had no answer", cfg.seed, operators, nodes, a.open)),
		figure.AtLeast("faults meanwhile", float64(total), float64(cfg.faults()), "", strings.Join(kinds, ", ")),
		figure.AtLeast("kinds of faults meanwhile", float64(len(a.faults)), float64(min(cfg.faults(), len(faultKinds))), "", ""),
		figure.Info("histories checked", float64(a.histories), "", fmt.Sprintf("one an object; other answers: %v", a.others)),
		figure.Exactly("histories that no single machine could have given", float64(a.violations), 0, "", ""),
		figure.Exactly("histories whose checking did not end", float64(a.unfinished), 0, "", fmt.Sprintf("in %s each", checkMost)),
	}
	if err != nil {
		rows = append(rows, figure.Missing("the rounds", "", "to their end", brief(cfg, err)))
	}
	return rows
}
