package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/sensor/replay"
)

const (
	learnFor = 24 * time.Hour
	// A host is watched for so many days before the week that is judged.
	daysBefore, daysJudged = 21, 7
	budget                 = 0.5
)

// history is what came of one host.
type history struct {
	role    string
	seed    uint64
	journal *journal
	from    float64 // bits that are told, at the end
}

// outcome is what came of one attack.
type outcome struct {
	name, role string
	seed       uint64
	best       [4]float64
	told       bool
}

func baselineTable(ctx context.Context, w io.Writer, cfg config) ([]figure.Row, error) {
	dir, err := os.MkdirTemp("", "vedette-eval-")
	if err != nil {
		return nil, fmt.Errorf("making the evaluation's folder: %w", err)
	}
	defer os.RemoveAll(dir)
	var benign []history
	var out []outcome
	n := 0
	for _, r := range roles {
		for i := range cfg.hosts {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			seed := cfg.seed + uint64(i) //nolint:gosec // not negative
			h, _, err := live(dir, n, seed, r, false)
			if err != nil {
				return nil, err
			}
			n++
			trained := plant(trainingOf(h.journal), seed)
			benign = append(benign, h)
			attacked, planned, err := live(dir, n, seed, r, true)
			if err != nil {
				return nil, err
			}
			n++
			out = append(out, outcomesOf(attacked, planned, trained)...)
			for _, u := range h.journal.order {
				d := h.journal.units[u]
				if d.at.Before(judgedFrom()) {
					delete(h.journal.units, u)
					continue
				}
				d.score = scores(d, trained)
			}
		}
	}
	return report(w, cfg, benign, out)
}

// judgedFrom is when the judged week begins.
func judgedFrom() time.Time { return day(daysBefore) }

// live runs a host's weeks, with attacks in the last when they are wanted.
func live(dir string, n int, seed uint64, r role, attacked bool) (h history, planned []attack, err error) {
	place := filepath.Join(dir, fmt.Sprint(n))
	if err := os.MkdirAll(place, 0o700); err != nil {
		return h, nil, fmt.Errorf("making a host's folder: %w", err)
	}
	h = history{role: r.name, seed: seed, journal: newJournal(n)}
	m, err := newMachine(seed, r, place, budget, func(at time.Time, label string, result replay.Result) {
		h.journal.take(at, label, result)
	})
	if err != nil {
		return h, nil, err
	}
	defer func() { err = errors.Join(err, m.host.Close()) }()
	m.live(0, daysBefore+daysJudged)
	if attacked {
		// Of their own dice, so that the ordinary work is the other run's.
		dice := rand.New(rand.NewPCG(seed, 4711)) //nolint:gosec // a history that can be repeated
		for _, a := range attacks {
			if a.on(r) {
				planned = append(planned, a)
			}
		}
		dice.Shuffle(len(planned), func(i, j int) { planned[i], planned[j] = planned[j], planned[i] })
		for i, a := range planned {
			at := judgedFrom().Add(time.Duration((float64(i)*24*daysJudged/float64(len(planned)+2) + 12*dice.Float64()) * float64(time.Hour)))
			a.plan(m, at)
		}
	}
	m.run(day(daysBefore + daysJudged))
	h.from, _ = m.host.Calibration()
	return h, planned, nil
}

// trainingOf is what the isolation forest learns from: the days before, after the first.
func trainingOf(j *journal) (points [][]float64) {
	for _, u := range j.order {
		if d := j.units[u]; d.at.After(day(1)) && d.at.Before(judgedFrom()) {
			points = append(points, d.features())
		}
	}
	return points
}

func outcomesOf(h history, planned []attack, f *forest) (out []outcome) {
	for _, a := range planned {
		o := outcome{name: a.name, role: h.role, seed: h.seed}
		for _, u := range h.journal.order {
			d := h.journal.units[u]
			if d.label != a.name {
				continue
			}
			for i, s := range scores(d, f) {
				o.best[i] = max(o.best[i], s)
			}
			o.told = o.told || d.findings > 0
		}
		out = append(out, o)
	}
	return out
}

// leastExpected is how many findings a budget must be of before a rate that is a third off says
// anything: by chance alone one of 100 is off by 10 % one time in three, one of 28 by 19 %.
const leastExpected = 100

// roleRow is the rate of one role, judged when it was watched for long enough.
func roleRow(role string, told, days float64) figure.Row {
	name, expected := "baseline: findings a host and day, "+role, budget*days
	note := fmt.Sprintf("%.0f findings, budget %.0f; by chance ± %.0f %%", told, expected, 100/math.Sqrt(max(expected, 1)))
	if expected < leastExpected {
		return figure.Info(name, told/max(days, 1), "", note+", so that no target is judged: -full has hosts enough")
	}
	return within(name, told/days, note)
}

// within is a rate that must be the budget but for a third.
func within(name string, rate float64, note string) figure.Row {
	return figure.Row{Name: name, Value: rate, Target: fmt.Sprintf("%.2f to %.2f", 0.7*budget, 1.3*budget), OK: rate >= 0.7*budget && rate <= 1.3*budget, Note: note}
}

func report(w io.Writer, cfg config, benign []history, out []outcome) ([]figure.Row, error) {
	var rows []figure.Row
	seeds := fmt.Sprintf("seeds %d to %d, parameters from seeds below %d; %d hosts, %d days, the last %d judged", cfg.seed, cfg.seed+uint64(cfg.hosts)-1, developed, len(benign), daysBefore+daysJudged, daysJudged) //nolint:gosec // not negative
	var cases [4][]scored
	told, days, units := map[string]float64{}, map[string]float64{}, 0
	for _, h := range benign {
		days[h.role] += daysJudged
		days[""] += daysJudged
		for _, u := range h.journal.order {
			d := h.journal.units[u]
			if d == nil {
				continue // of the days before
			}
			units++
			for _, f := range d.told {
				if cfg.words {
					fmt.Fprintf(w, "%s %d, %s: %s\n    %s\n", h.role, h.seed, d.at.Format("Mon 15:04"), f.Reason, strings.Join(f.Terms, "\n    "))
				}
			}
			told[h.role] += float64(d.findings)
			told[""] += float64(d.findings)
			for i, s := range d.score {
				cases[i] = append(cases[i], scored{s, false})
			}
		}
	}
	found, tried := map[string]float64{}, map[string]float64{}
	for _, o := range out {
		for i, s := range o.best {
			cases[i] = append(cases[i], scored{s, true})
		}
		tried[o.name]++
		if o.told {
			found[o.name]++
		}
	}
	alarms := budget * days[""]
	table := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintf(table, "METHOD\tAUC\tAVERAGE PRECISION\tRECALL AT %g FALSE ALARMS A HOST AND DAY\n", budget)
	var roc, pr []series
	var judgedBy [4]judged
	for i, name := range methods {
		j := judge(cases[i])
		judgedBy[i] = j
		roc, pr = append(roc, series{name, j.roc}), append(pr, series{name, j.pr})
		fmt.Fprintf(table, "%s\t%.4f\t%.3f\t%.3f\n", name, j.auc, j.precision, j.recallAt(alarms))
	}
	fmt.Fprintln(table)
	fmt.Fprintf(table, "ATTACK\tTOLD\tOF\n")
	all, hits := 0.0, 0.0
	for _, a := range attacks {
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\n", a.name, found[a.name], tried[a.name])
		all, hits = all+tried[a.name], hits+found[a.name]
	}
	fmt.Fprintln(table)
	fmt.Fprintf(table, "ROLE\tFINDINGS A HOST AND DAY, ORDINARY WORK\tOF A BUDGET OF\n")
	for _, r := range roles {
		fmt.Fprintf(table, "%s\t%.2f\t%g\n", r.name, told[r.name]/days[r.name], budget)
	}
	fmt.Fprintln(table)
	if err := table.Flush(); err != nil {
		return nil, fmt.Errorf("printing the baseline's table: %w", err)
	}
	best := max(judgedBy[1].precision, judgedBy[2].precision, judgedBy[3].precision)
	second := max(judgedBy[1].recallAt(alarms), judgedBy[2].recallAt(alarms), judgedBy[3].recallAt(alarms))
	bestArea := max(judgedBy[1].auc, judgedBy[2].auc, judgedBy[3].auc)
	over := func(name string, value, other float64, unit, note string) figure.Row {
		return figure.Row{Name: name, Value: value, Unit: unit, Target: fmt.Sprintf("> %.3f", other), OK: value > other, Note: note}
	}
	rows = append(rows,
		over("baseline: area under ROC, vedette", judgedBy[0].auc, bestArea, "", fmt.Sprintf("target is the best other method; %d attacks, %d storyline windows; %s", len(out), units, seeds)),
		over("baseline: average precision, vedette", judgedBy[0].precision, best, "", "target is the best other method"),
		over("baseline: recall at the budget, vedette", judgedBy[0].recallAt(alarms), second, "", "target is the best other method with as many false alarms"))
	for i, name := range methods[1:] {
		j := judgedBy[i+1]
		rows = append(rows, figure.Info("baseline: area under ROC, "+name, j.auc, "", ""), figure.Info("baseline: average precision, "+name, j.precision, "", ""),
			figure.Info("baseline: recall at the budget, "+name, j.recallAt(alarms), "", ""))
	}
	for _, r := range roles {
		rows = append(rows, roleRow(r.name, told[r.name], days[r.name]))
	}
	rate := told[""] / days[""]
	rows = append(rows,
		figure.Info("baseline: attacks told as they happened", hits/max(all, 1), "", fmt.Sprintf("%.0f of %.0f, by each host's own threshold", hits, all)),
		within("baseline: findings a host and day, ordinary week", rate, fmt.Sprintf("budget %g; all roles together; loads are compressed, time is not", budget)))
	err := errors.Join(
		draw(filepath.Join(cfg.out, "eval", "baseline-roc.svg"), "Storylines: attacks against ordinary work (ROC)", "false alarms, share of ordinary windows", "attacks found", roc),
		draw(filepath.Join(cfg.out, "eval", "baseline-pr.svg"), "Storylines: attacks against ordinary work (precision and recall)", "attacks found (recall)", "precision", pr))
	return rows, err
}
