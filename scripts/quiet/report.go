package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// budget is the sensor's own, of findings a host and day by how odd something is.
const budget = 0.5

// settleFor is what the last findings may take to be investigated.
const settleFor = 35 * time.Second

type finding struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Title    string    `json:"title"`
	Kind     string    `json:"kind"`
	PValue   *float64  `json:"p_value"`
	Evidence struct {
		Severity string `json:"severity"`
		Learning bool   `json:"learning"`
	} `json:"evidence"`
	Storyline string `json:"storyline"`
	Process   *struct {
		process
		Ancestors []process `json:"ancestors"`
	} `json:"process"`
}

type process struct {
	Argv []string `json:"argv"`
}

// of is the work that a finding came of; the sensor's own are of none.
func (f finding) of() string {
	if f.Process == nil {
		return "(none)"
	}
	for _, p := range append([]process{f.Process.process}, f.Process.Ancestors...) {
		for _, arg := range p.Argv {
			if name, ok := strings.CutPrefix(arg, mark); ok {
				return name
			}
		}
	}
	return "(unknown)"
}

type investigation struct {
	Storyline string `json:"storyline"`
	Verdict   string `json:"verdict"`
	Because   string `json:"because"`
}

type incident struct {
	ID       string `json:"id"`
	Title    string `json:"title"`
	Severity string `json:"severity"`
	Account  string `json:"account"`
}

func (p *player) report(ctx context.Context, c *lab.Cluster, cfg config, began time.Time) error {
	lasted := time.Since(began) - cfg.teach
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(settleFor):
	}
	var findings []finding
	var ends []investigation
	var incidents []incident
	if err := c.JSON(ctx, &findings, "finding", "list", "--limit", "10000"); err != nil {
		return err
	}
	if err := c.JSON(ctx, &ends, "investigation", "list", "--limit", "10000"); err != nil {
		return err
	}
	if err := c.JSON(ctx, &incidents, "incident", "list", "--limit", "1000"); err != nil {
		return err
	}
	hosts, err := c.Hosts(ctx)
	if err != nil {
		return err
	}
	p.table(findings, ends, incidents)
	if err := pages(ctx, c, findings); err != nil {
		return err
	}
	rows := p.skips
	for _, w := range all {
		if p.done[w.name] > 0 || p.failed[w.name] != nil {
			row := figure.AtLeast("work "+w.name, float64(p.done[w.name]), 1, "rounds", "")
			if err := p.failed[w.name]; err != nil {
				row.Note = "failed: " + err.Error()
			}
			rows = append(rows, row)
		}
	}
	return figure.Report(os.Stdout, "out", "quiet", append(rows, figures(findings, ends, incidents, hosts[sensorName], cfg, lasted)...))
}

// maxPages of findings are written out for whoever looks for their cause.
const maxPages = 50

func pages(ctx context.Context, c *lab.Cluster, findings []finding) error {
	var text []byte
	for _, f := range findings[:min(len(findings), maxPages)] {
		page, err := c.CLI(ctx, "finding", "show", f.ID)
		if err != nil {
			return err
		}
		text = append(append(text, page...), "\n----\n"...)
	}
	if err := os.MkdirAll("out", 0o755); err != nil {
		return fmt.Errorf("making the folder of figures: %w", err)
	}
	return os.WriteFile("out/quiet-findings.txt", text, 0o644)
}

func figures(findings []finding, ends []investigation, incidents []incident, host lab.Host, cfg config, lasted time.Duration) []figure.Row {
	odd, rules, teaching := 0, 0, 0
	for _, f := range findings {
		switch {
		case f.Evidence.Learning:
			teaching++
		case f.PValue != nil:
			odd++
		default:
			rules++
		}
	}
	verdicts := map[string]int{}
	for _, in := range ends {
		verdicts[in.Verdict]++
	}
	days := lasted.Hours() / 24
	return []figure.Row{
		figure.Exactly("incidents surfaced", float64(len(incidents)), 0, "incidents", fmt.Sprintf("seed %d, %s of which %s teach", cfg.seed, cfg.total, cfg.teach)),
		figure.AtMost("findings by how odd something is, after teaching", float64(odd), float64(mostOf(budget*days)), "findings",
			fmt.Sprintf("the budget of %g a day makes %.3f in this time; the target is what it gives in 99 of 100 such times", budget, budget*days)),
		figure.Info("findings by rules, after teaching", float64(rules), "findings", ""),
		figure.Info("findings while it was taught", float64(teaching), "findings", ""),
		figure.Info("investigator: storylines of ordinary work closed as benign", float64(verdicts["benign"]), "storylines", ""),
		figure.Info("investigator: storylines of ordinary work watched", float64(verdicts["watching"]), "storylines", ""),
		figure.Exactly("investigator: storylines of ordinary work taken for an incident", float64(verdicts["incident"]), 0, "storylines", ""),
		figure.Info("events seen", float64(host.Total), "events", fmt.Sprintf("%d lost, each told; %d behaviours learnt", host.Lost, host.Baseline.Behaviours)),
	}
}

// mostOf is what a rate gives at most in 99 of 100 times.
func mostOf(mean float64) (n int) {
	chance := math.Exp(-mean)
	for sum := chance; sum < 0.99; sum += chance {
		n++
		chance *= mean / float64(n)
	}
	return n
}

func (p *player) table(findings []finding, ends []investigation, incidents []incident) {
	out := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', 0)
	defer out.Flush()
	said := map[string]investigation{}
	for _, in := range ends {
		said[in.Storyline] = in
	}
	fmt.Fprintln(out, "WORK\tROUNDS\tFINDING\tSEVERITY\tKIND\tTEACHING\tENDED AS\tSTORYLINE\tID")
	quiet := map[string]bool{}
	for name := range p.done {
		quiet[name] = true
	}
	for _, f := range findings {
		delete(quiet, f.of())
		fmt.Fprintf(out, "%s\t%d\t%s\t%s\t%s\t%v\t%s\t%s\t%s\n", f.of(), p.done[f.of()], f.Title, f.Evidence.Severity, f.Kind, f.Evidence.Learning, said[f.Storyline].Verdict, f.Storyline, f.ID)
	}
	for _, w := range all {
		if quiet[w.name] {
			fmt.Fprintf(out, "%s\t%d\t-\t\t\t\t\t\t\n", w.name, p.done[w.name])
		}
	}
	for _, in := range incidents {
		fmt.Fprintf(out, "INCIDENT %s (%s): %s\n", in.ID, in.Severity, in.Title)
		for line := range strings.Lines(in.Account) {
			fmt.Fprintf(out, "    %s\n", strings.TrimRight(line, "\n"))
		}
	}
}
