package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

const (
	// killSensors push in this rhythm while nodes die.
	killSensors = 6
	killRhythm  = 60 * time.Millisecond
	// manyKills are a night's.
	manyKills = 300
	// reachIn is how long a node may take to come to the place where it is to die: to its second
	// snapshot, to a file of the log that is full.
	reachIn = 30 * time.Second
	// failoverMost is the figure.
	failoverMost = 3.0
	// tellEvery so many steps an operator is told how far it is.
	tellEvery = 50
)

// killed is what came of the kills.
type killed struct {
	done, leaders int
	visits
	first, most []time.Duration
	tally       tally
}

// visits is how often a node came to each place where it was to die, and how often it did not.
type visits struct{ reached, missed map[string]int }

func newVisits() visits { return visits{map[string]int{}, map[string]int{}} }

// times is how often a node died at a place.
func (v *visits) times() (n int) {
	for _, one := range v.reached {
		n += one
	}
	return n
}

// row says how many places no node came to, which is judged once each place had its turn. A
// place that was missed at one turn and reached at another was tried.
func (v *visits) row(kills int) figure.Row {
	const name = "places never reached"
	all := kills >= killsOfAllPlaces()
	var never []string
	for _, p := range points {
		if v.reached[p.name] == 0 && (all || v.missed[p.name] > 0) {
			never = append(never, p.name)
		}
	}
	note := fmt.Sprintf("of %d", len(points))
	if len(never) > 0 {
		note += ": " + strings.Join(never, ", ")
	}
	if all {
		return figure.Exactly(name, float64(len(never)), 0, "", note)
	}
	return figure.Info(name, float64(len(points)-len(v.reached)), "", fmt.Sprintf("%s; each has its turn in %d kills", note, killsOfAllPlaces()))
}

func kills(ctx context.Context, cfg config, dir string) []figure.Row {
	const name = "kills"
	more := ""
	if cfg.kills > manyKills { // a digest reads every row, and there will be many
		more = ",digest-every:2000"
	}
	r, err := newRig(ctx, cfg, dir, more, nothingFirst)
	if err != nil {
		return []figure.Row{figure.Missing(name, "", fmt.Sprintf("≥ %d", cfg.kills), err)}
	}
	out := killed{visits: newVisits()}
	var end tally
	all, err := r.sensors(ctx, killSensors)
	if err == nil {
		p := push(context.WithoutCancel(ctx), all, killRhythm)
		err = r.kill(ctx, planKills(cfg.seed, cfg.kills, nodes), p, &out)
		err = errors.Join(err, p.stop())
	}
	if err == nil || ctx.Err() != nil {
		var endErr error
		end, endErr = r.exactly(context.WithoutCancel(ctx), all)
		err = errors.Join(err, endErr)
	}
	out.tally.add(end)
	states, digestErr := r.digests()
	err = errors.Join(err, digestErr, r.close(cfg.keep || err != nil))
	return out.rows(cfg, states, err)
}

// kill follows the plan.
func (r *rig) kill(ctx context.Context, plan []kill, p *pushers, out *killed) error {
	for i, k := range plan {
		wait := time.NewTimer(k.after)
		select {
		case <-wait.C:
		case <-ctx.Done():
			return nil // the time is over: the row says how far it came
		}
		err := r.one(ctx, k, p, out)
		if ctx.Err() != nil {
			return r.whole(context.WithoutCancel(ctx))
		}
		if err = errors.Join(err, p.failed()); err != nil {
			return fmt.Errorf("kill %d, %s: %w", i+1, k, err)
		}
		out.done++
		if out.done%tellEvery == 0 {
			fmt.Println(out.progress(len(plan)))
		}
	}
	return nil
}

func (k *killed) progress(of int) string {
	return fmt.Sprintf("torture: %d of %d kills, %d of leaders, %d of %d places reached, acknowledged lost %d, doubled %d", k.done, of, k.leaders, len(k.reached), len(points), k.tally.lost, k.tally.doubled)
}

// whole starts again what is dead.
func (r *rig) whole(ctx context.Context) error {
	for i := range nodes {
		select {
		case <-r.Members[id(i)].Exited():
			if err := r.start(ctx, i, ""); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

func (r *rig) one(ctx context.Context, k kill, p *pushers, out *killed) error {
	victim := k.node
	if k.leader {
		var err error
		if victim, err = r.leader(ctx); err != nil {
			return err
		}
	}
	if k.at.with == noState {
		r.there(ctx, victim, snapshotFiles) // from which it is to come back
	}
	acked := positions(p.all)
	at := time.Now()
	r.Members[id(victim)].Kill()
	if k.leader {
		first, err := r.resumed(ctx, at, p, 1)
		if err != nil {
			return err
		}
		out.leaders++
		out.first = append(out.first, first)
	}
	if k.at.name != "" {
		if err := r.place(ctx, k, victim, &out.visits); err != nil {
			return err
		}
	}
	if err := r.start(ctx, victim, ""); err != nil {
		return err
	}
	if err := r.level(ctx); err != nil {
		return err
	}
	if k.leader {
		most, err := r.resumed(ctx, at, p, killSensors-killSensors/3)
		if err != nil {
			return err
		}
		out.most = append(out.most, most)
	}
	t, err := r.bounds(ctx, p.all, acked, victim)
	out.tally.lost += t.lost
	out.tally.doubled += t.doubled
	if err == nil && t.lost+t.doubled > 0 {
		err = fmt.Errorf("%w: %s lacks %d and has %d twice", errLost, id(victim), t.lost, t.doubled)
	}
	return err
}

// resumed waits until so many sensors have had a new record acknowledged, and says how
// long after at the last of them had.
func (r *rig) resumed(ctx context.Context, at time.Time, p *pushers, many int) (time.Duration, error) {
	var done []time.Duration
	err := until(ctx, patience, fmt.Sprintf("%d sensors to be acknowledged", many), func(context.Context) (bool, error) {
		done = done[:0]
		for _, s := range p.all {
			if took := s.resumed(at); took > 0 {
				done = append(done, took)
			}
		}
		return len(done) >= many, p.failed()
	})
	if err != nil {
		return 0, err
	}
	slices.Sort(done)
	return done[many-1], nil
}

// place starts a dead node so that it dies at one place of its program.
func (r *rig) place(ctx context.Context, k kill, victim int, v *visits) error {
	if err := r.damage(victim, k.at.with); err != nil {
		return err
	}
	more := fmt.Sprintf(",%s=%d", k.at.name, k.hit)
	if k.at.name == "log.write.half" {
		more += ",log.write.torn=skip"
	}
	spec := r.spec(victim, more)
	if k.at.with == noName {
		// One that its certificate does not carry since an earlier turn.
		r.added++
		spec.Operator = fmt.Sprintf("127.0.%d.%d:%s", 1+r.added/200, 11+r.added%200, operatorPort)
	}
	if err := r.StartNode(ctx, spec); err != nil {
		return err
	}
	p := r.Members[id(victim)]
	patience := time.NewTimer(reachIn)
	defer patience.Stop()
	select {
	case <-p.Exited():
		if !strings.HasSuffix(strings.TrimSpace(p.Tail()), "failpoint reached: "+k.at.name) {
			return fmt.Errorf("it ended by itself:\n%s", lastLines(p.Tail(), 12))
		}
		v.reached[k.at.name]++
	case <-patience.C:
		v.missed[k.at.name]++
		p.Kill()
	case <-ctx.Done():
		p.Kill()
	}
	return nil
}

// damage does to a dead node's files what makes it come to a place.
func (r *rig) damage(node int, what damage) error {
	state := filepath.Join(r.data(node), "state.db")
	switch what {
	case noState:
		left, err := filepath.Glob(state + "*")
		for _, path := range left {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	case badly:
		f, err := os.OpenFile(state, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		junk := make([]byte, 4096)
		_, _ = rand.Read(junk)
		_, err = f.WriteAt(junk, 0)
		return errors.Join(err, f.Close(), os.Remove(state+"-wal"))
	}
	return nil
}

func (k *killed) rows(cfg config, states told, err error) []figure.Row {
	note := fmt.Sprintf("seed %d", cfg.seed)
	rows := []figure.Row{
		figure.AtLeast("nodes killed", float64(k.done), float64(cfg.kills), "", note),
		figure.AtLeast("of these, the leader", float64(k.leaders), float64(leadersOf(cfg.kills)), "", "five of each six"),
		figure.Info("of these, at a named place", float64(k.times()), "", k.missedText()),
		k.row(cfg.kills),
		figure.Exactly("acknowledged lost", float64(k.tally.lost), 0, "", fmt.Sprintf("of %d, each looked for at every node, by host, boot and sequence, findings by id", k.tally.acknowledged)),
		figure.Exactly("acknowledged doubled", float64(k.tally.doubled), 0, "", ""),
	}
	rows = append(rows, states.rows("")...)
	if len(k.first) == 0 {
		rows = append(rows, figure.Missing("leader killed → writes resume, p99", "s", fmt.Sprintf("≤ %g", failoverMost), errors.New("no leader was killed")))
	} else {
		for _, of := range []struct {
			name string
			all  []time.Duration
		}{{"leader killed → writes resume", k.first}, {"leader killed → two of three sensors are acknowledged", k.most}} {
			slices.Sort(of.all)
			p99 := of.all[max(0, (len(of.all)*99+99)/100-1)]
			rows = append(rows, figure.Info(of.name+", p50", of.all[len(of.all)/2].Seconds(), "s", fmt.Sprintf("%d kills", len(of.all))))
			if of.name == "leader killed → writes resume" {
				rows = append(rows, figure.AtMost(of.name+", p99", p99.Seconds(), failoverMost, "s", fmt.Sprintf("%d kills, max %.2f s", len(of.all), of.all[len(of.all)-1].Seconds())))
			} else {
				rows = append(rows, figure.Info(of.name+", p99", p99.Seconds(), "s", fmt.Sprintf("max %.2f s", of.all[len(of.all)-1].Seconds())))
			}
		}
	}
	if err != nil {
		rows = append(rows, figure.Missing("the plan of kills", "", "followed to its end", brief(cfg, err)))
	}
	return rows
}

func (v *visits) missedText() string {
	if len(v.missed) == 0 {
		return "each was reached"
	}
	var names []string
	for name, n := range v.missed {
		names = append(names, fmt.Sprintf("%s ×%d", name, n))
	}
	slices.Sort(names)
	return "not reached in " + reachIn.String() + ", killed at any moment instead: " + strings.Join(names, ", ")
}
