package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/sensor/replay"
)

// spokenAfter is how long after a finding a person says what it was.
const spokenAfter = 8 * time.Hour

// speaker says what a finding was, by the label of what it is of; nil: nobody does.
type speaker struct {
	name string
	says func(label string) (malicious, spoken bool)
}

var speakers = []speaker{
	{"nobody", func(string) (bool, bool) { return false, false }},
	{"rightly", func(label string) (bool, bool) { return label != "", true }},
	{"all as benign", func(string) (bool, bool) { return false, true }},
}

// heard is what came of hosts whose findings one speaker judged.
type heard struct {
	days, ordinary float64
	again          float64 // of ordinary work: what was told on that host before
	attacks, told  float64
}

// dispositionsTable lives the same weeks, with the same attacks, once for each way in which people close
// what is told: what their word makes of later findings, and what it must not.
func dispositionsTable(ctx context.Context, w io.Writer, cfg config) ([]figure.Row, error) {
	dir, err := os.MkdirTemp("", "vedette-eval-")
	if err != nil {
		return nil, fmt.Errorf("making the evaluation's folder: %w", err)
	}
	defer os.RemoveAll(dir)
	sums := make([]heard, len(speakers))
	hosts := max(cfg.hosts/2, 1) // each lives three times
	for i, by := range speakers {
		for _, r := range roles {
			for n := range hosts {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				place := filepath.Join(dir, fmt.Sprint(i, "-", r.name, "-", n))
				if err := sums[i].live(place, cfg.seed+uint64(n), r, by); err != nil { //nolint:gosec // not negative
					return nil, err
				}
			}
		}
	}
	table := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintf(table, "CLOSED BY PEOPLE\tFINDINGS A HOST AND DAY, ORDINARY WORK\tTOLD BEFORE\tATTACKS TOLD\tOF\n")
	for i, by := range speakers {
		s := sums[i]
		fmt.Fprintf(table, "%s\t%.3f\t%.0f\t%.0f\t%.0f\n", by.name, s.ordinary/s.days, s.again, s.told, s.attacks)
	}
	fmt.Fprintln(table)
	if err := table.Flush(); err != nil {
		return nil, fmt.Errorf("printing the dispositions' table: %w", err)
	}
	nobody, rightly, careless := sums[0], sums[1], sums[2]
	note := fmt.Sprintf("%d hosts, %d days, seeds from %d; each finding closed %s later", hosts*len(roles), daysBefore+daysJudged, cfg.seed, spokenAfter)
	return []figure.Row{
		figure.Info("dispositions: ordinary findings told before, nobody closes any", nobody.again, "", note),
		figure.AtMost("dispositions: ordinary findings told before, each closed rightly", rightly.again, nobody.again, "", "target is what comes when nobody does"),
		figure.AtLeast("dispositions: attacks told, each finding closed rightly", rightly.told, nobody.told, "", fmt.Sprintf("of %.0f; target is those told when nobody does", rightly.attacks)),
		figure.Info("dispositions: attacks told, all closed as benign, attacks too", careless.told, "", fmt.Sprintf("of %.0f: what a careless person costs", careless.attacks)),
	}, nil
}

// live lives one host's weeks and adds what came of it.
func (s *heard) live(place string, seed uint64, r role, by speaker) (err error) {
	if err := os.MkdirAll(place, 0o700); err != nil {
		return fmt.Errorf("making a host's folder: %w", err)
	}
	before, found := map[[3]string]bool{}, map[string]bool{}
	var m *machine
	m, err = newMachine(seed, r, place, budget, func(at time.Time, label string, result replay.Result) {
		for _, f := range result.Findings {
			if f.Kind == "follow-up" {
				continue
			}
			if label != "" {
				found[label] = true
			} else {
				what := [3]string{result.Kind, result.Subject, result.Object}
				s.ordinary++
				if before[what] {
					s.again++
				}
				before[what] = true
			}
			if malicious, spoken := by.says(label); spoken {
				m.later(at.Add(spokenAfter), func(m *machine) { m.host.Judge(f.ID, malicious) })
			}
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.host.Close()) }()
	m.live(0, daysBefore+daysJudged)
	s.days += daysBefore + daysJudged
	dice := rand.New(rand.NewPCG(seed, 1147)) //nolint:gosec // a history that can be repeated
	for _, a := range attacks {
		if a.on(r) {
			s.attacks++
			// From the second week on, so that what was said of the first finds the later ones.
			a.plan(m, day(7).Add(time.Duration(dice.Float64()*float64((daysBefore+daysJudged-9)*24)*float64(time.Hour))))
		}
	}
	m.run(day(daysBefore + daysJudged))
	s.told += float64(len(found))
	return nil
}
