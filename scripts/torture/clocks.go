package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// A node's wall clock is moved by an hour while it runs, ahead and behind, the leader's and
// a follower's, and moved back. Its monotonic clock stays, as when a machine's clock is set.

const hour = 3600

// skew is one step.
type skew struct {
	leader  bool
	seconds int
}

func (s skew) String() string {
	who, way := "a follower", "ahead"
	if s.leader {
		who = "the leader"
	}
	if s.seconds < 0 {
		way = "behind"
	}
	return fmt.Sprintf("the clock of %s is an hour %s", who, way)
}

// skewed is what came of the steps.
type skewed struct {
	steps, leaders, told int
	enrolled, ordered    int
	refusals             []string
	longest              time.Duration
}

func clocks(ctx context.Context, cfg config, dir string) []figure.Row {
	const name = "clocks moved by an hour, and back"
	cfg.coordinator = "skewed"
	if _, err := os.Stat(filepath.Join(cfg.bin, cfg.coordinator, "vedette-coordinator")); err != nil {
		return []figure.Row{figure.Missing(name, "", "= 4", fmt.Errorf("%w: make bin/skewed/vedette-coordinator", err))}
	}
	r, err := newRig(ctx, cfg, dir, ",look-ms:300,digest-every:20", nothingFirst)
	if err != nil {
		return []figure.Row{figure.Missing(name, "", "= 4", err)}
	}
	var out skewed
	var total tally
	all, err := r.sensors(ctx, killSensors)
	if err == nil {
		p := push(context.WithoutCancel(ctx), all, killRhythm)
		for _, s := range []skew{{true, hour}, {true, -hour}, {false, hour}, {false, -hour}} {
			if ctx.Err() != nil {
				break
			}
			if one := errors.Join(r.skew(context.WithoutCancel(ctx), s, p, &out), p.failed()); one != nil {
				err = fmt.Errorf("%s: %w", s, one)
				break
			}
			out.steps++
		}
		err = errors.Join(err, p.stop())
	}
	if err == nil {
		total, err = r.exactly(context.WithoutCancel(ctx), all)
	}
	states, digestErr := r.digests()
	err = errors.Join(err, digestErr, r.close(cfg.keep || err != nil))
	rows := []figure.Row{
		figure.Exactly(name, float64(out.steps), 4, "", "ahead and behind, of the leader and of a follower"),
		figure.Exactly("leaders made by that", float64(out.leaders), 0, "", ""),
		figure.Exactly("of these, told by another node's status, and no more afterwards", float64(out.told), float64(out.steps), "", ""),
		figure.Exactly("sensors that enrolled at the node meanwhile, and were served by all", float64(out.enrolled), 4, "", "with a token of the node's own"),
		figure.Info("isolations that were ordered meanwhile, of two at each step", float64(out.ordered), "", "at the node, and at another"),
		figure.Info("longest that a sensor waited for its answer meanwhile", out.longest.Seconds(), "s", ""),
		figure.Info("of all orders and tokens across the hour, refused by the log", float64(len(out.refusals)), "", strings.Join(out.refusals, "; ")),
		figure.Exactly("acknowledged lost by moved clocks", float64(total.lost), 0, "", fmt.Sprintf("of %d", total.acknowledged)),
		figure.Exactly("acknowledged doubled by moved clocks", float64(total.doubled), 0, "", ""),
	}
	rows = append(rows, states.rows(" after moved clocks")...)
	if err != nil {
		rows = append(rows, figure.Missing("the plan of clocks", "", "followed to its end", brief(cfg, err)))
	}
	return rows
}

func (r *rig) clock(node int) string { return filepath.Join(r.dir, "clock-"+id(node)) }

// skew moves a clock, does what goes by clocks, and moves it back.
func (r *rig) skew(ctx context.Context, s skew, p *pushers, out *skewed) error {
	node, err := r.leader(ctx)
	if err != nil {
		return err
	}
	other := (node + 1) % nodes
	if !s.leader {
		node, other = other, node
	}
	elected, began := r.elected(), time.Now()
	if err := os.WriteFile(r.clock(node), fmt.Appendln(nil, s.seconds), 0o600); err != nil {
		return err
	}
	if err := r.clockTold(ctx, other, node, true); err != nil {
		return err
	}
	// A sensor enrols there, has a session at every node and is served.
	enrolled, err := r.enrolAt(ctx, node, node)
	if err != nil {
		return fmt.Errorf("enrolling at it: %w", err)
	}
	for i := range nodes {
		enrolled.nodes = []string{r.Addresses()[i]}
		one, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := enrolled.push(one)
		cancel()
		enrolled.close()
		if err != nil {
			return fmt.Errorf("a sensor that enrolled at it, at %s: %w", id(i), err)
		}
	}
	out.enrolled++
	// What goes across the hour: a token of here spent there, and an order with a lease.
	for _, way := range []struct{ made, spent int }{{node, other}, {other, node}} {
		if _, err := r.enrolAt(ctx, way.made, way.spent); err != nil {
			var no *refused
			if !errors.As(err, &no) {
				return fmt.Errorf("a token of %s at %s: %w", id(way.made), id(way.spent), err)
			}
			out.refusals = append(out.refusals, fmt.Sprintf("%s, a token of %s: %s", s, whose(way.made, node), no.code))
		}
	}
	for _, at := range []int{node, other} {
		if err := r.isolateAt(ctx, at, enrolled.id); err != nil {
			// The operator's own program looks at the clock before it signs, the log when it takes an order.
			code := "refused by the operator's program, which names the clocks"
			if _, said, ok := strings.Cut(err.Error(), "("); ok {
				code, _, _ = strings.Cut(said, ")")
			} else if !strings.Contains(err.Error(), "clock") {
				return fmt.Errorf("an order at %s: %w", id(at), err)
			}
			out.refusals = append(out.refusals, fmt.Sprintf("%s, an order at %s: %s", s, whose(at, node), code))
		} else {
			out.ordered++
		}
	}
	// All sensors go on being acknowledged.
	if _, err := r.resumed(ctx, time.Now(), p, killSensors); err != nil {
		return err
	}
	if err := os.WriteFile(r.clock(node), []byte("0\n"), 0o600); err != nil {
		return err
	}
	if err := r.clockTold(ctx, other, node, false); err != nil {
		return err
	}
	out.told++
	if _, err := r.resumed(ctx, time.Now(), p, killSensors); err != nil {
		return err
	}
	for _, sensor := range p.all {
		out.longest = max(out.longest, sensor.longestSince(began))
	}
	out.leaders += r.elected() - elected
	return r.level(ctx)
}

func whose(at, skewed int) string {
	if at == skewed {
		return "that node"
	}
	return "another"
}

// clockTold waits until a node's status says that another's clock is wrong, or no more.
func (r *rig) clockTold(ctx context.Context, by, of int, wrong bool) error {
	return until(ctx, patience, fmt.Sprintf("%s to tell of the clock of %s: %v", id(by), id(of), wrong), func(ctx context.Context) (bool, error) {
		s, err := r.status(ctx, by)
		if err != nil {
			return false, err
		}
		said := false
		for _, problem := range s.GetProblems() {
			said = said || strings.Contains(problem, id(of)) && strings.Contains(problem, "has a clock that is")
		}
		return said == wrong, fmt.Errorf("it says %q", s.GetProblems())
	})
}

// enrolAt makes a token at one node and spends it at another.
func (r *rig) enrolAt(ctx context.Context, made, spent int) (*sensor, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	token, err := r.tokenAt(ctx, made)
	if err != nil {
		return nil, err
	}
	return enrol(ctx, r.Addresses()[spent], token)
}

// isolateAt orders an isolation with a lease of half an hour.
func (r *rig) isolateAt(ctx context.Context, at int, host string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seen, err := r.at[at].PreviewOrder(ctx, &operatorv1.PreviewOrderRequest{Action: sensorv1.Action_ACTION_ISOLATE, Selector: &operatorv1.Selector{Ids: []string{host}}})
	if err != nil {
		return err
	}
	_, err = r.at[at].Give(ctx, client.Order{Action: sensorv1.Action_ACTION_ISOLATE, Hosts: []string{host}, Reason: "torture", Lease: 30 * time.Minute, Seen: seen})
	return err
}
