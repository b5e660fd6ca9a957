package scale

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

const (
	// ackMost, sessionMost and growthMost are what is asked of ten thousand sensors, and held
	// to of fewer. Only sessionMost means more then than of sessionSize: a node's own is in it.
	ackMost     = 2 * time.Second
	sessionMost = 80 // KiB
	sessionSize = 10_000
	// growthMost is how much of their memory three nodes may gain over a run and still be
	// said not to grow: the noise of a collector that runs when it likes. From growthFrom
	// on a run is judged by it; a shorter one is told.
	growthMost = 5 // out of a hundred
	growthFrom = 10 * time.Minute
	sampleEach = 5 * time.Second
	herdMost   = 60 * time.Second
	herdLimit  = 3 * time.Minute
)

// whole takes the figures of the whole fleet, all of it honest and there.
func whole(ctx context.Context, cfg Config) []figure.Row {
	missing := func(err error) []figure.Row {
		return []figure.Row{figure.Missing(ackName(cfg.Size), "ms", fmt.Sprintf("≤ %d", ackMost.Milliseconds()), err)}
	}
	s, err := newStage(ctx, cfg, "whole", world.Config{Seed: cfg.Seed, Hosts: cfg.Size, Window: time.Duration(cfg.Speed) * cfg.Every, RolloutEvery: 4 * time.Hour})
	if err != nil {
		return missing(err)
	}
	defer s.close()
	rows, err := s.grow(ctx)
	if err != nil {
		return append(rows, missing(err)...)
	}
	windows := int(cfg.Hold / cfg.Every)
	if !cfg.wants("steady") {
		rows = nil // what a session holds is that part's
	} else {
		more, err := s.steady(ctx, windows)
		if rows = append(rows, more...); err != nil {
			return append(rows, missing(err)...)
		}
	}
	if cfg.wants("herd") && cfg.Herd != "none" {
		rows = append(rows, s.herd(ctx, windows)...)
	}
	return rows
}

func ackName(size int) string { return fmt.Sprintf("report → acknowledged, %d sessions, p99", size) }

// grow enrols and connects everybody and says what a session holds.
func (s *stage) grow(ctx context.Context) ([]figure.Row, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, enrolLimit, fmt.Errorf("not enrolled and connected within %s", enrolLimit))
	defer cancel()
	if err := pause(ctx, settleFor); err != nil {
		return nil, err
	}
	idle, err := s.read()
	if err != nil {
		return nil, err
	}
	s.idle = idle
	began := time.Now()
	if err := s.fleet.Enrol(ctx, s.cfg.Size); err != nil {
		return nil, err
	}
	enrolled, err := s.read()
	if err != nil {
		return nil, err
	}
	if err := s.fleet.Grow(ctx, s.cfg.Size); err != nil {
		return nil, err
	}
	came := time.Since(began)
	// One window of reports: the first brings each host's behaviours, and a session that
	// has never carried one holds less than it will.
	if err := s.fleet.Pace(ctx, 0, 1, s.cfg.Every); err != nil {
		return nil, err
	}
	if err := pause(ctx, settleFor); err != nil {
		return nil, err
	}
	full, err := s.read()
	if err != nil {
		return nil, err
	}
	s.fleet.TakeTimes()
	return []figure.Row{
		s.perSession(fmt.Sprintf("memory of a node for each of its sessions, %d in all", s.cfg.Size), []sums{full}, fmt.Sprintf(
			"just come; %.1f when all were enrolled and none connected", float64(total(enrolled.rss)-total(idle.rss))/float64(s.cfg.Size))),
		figure.Info(fmt.Sprintf("memory of this process for each of %d sensors", s.cfg.Size), float64(full.ownRSS-idle.ownRSS)/float64(s.cfg.Size), "KiB", fmt.Sprintf("VmRSS %d MiB", full.ownRSS>>10)),
		figure.Info(fmt.Sprintf("%d sensors enrolled and connected", s.cfg.Size), float64(s.cfg.Size)/came.Seconds(), "sensors/s",
			fmt.Sprintf("each with a token, a key, a certificate and a session of its own; %.0f s; CPU of nodes %.0f s, of sensors %.0f s", came.Seconds(), (full.nodes-idle.nodes).Seconds(), (full.own-idle.own).Seconds())),
	}, nil
}

// perSession is what a session costs the node that has the most for each of its own.
func (s *stage) perSession(name string, of []sums, note string) figure.Row {
	var each []string
	var worst float64
	for i := range s.cluster.Nodes {
		sessions := len(s.fleet.At(i))
		if sessions == 0 || len(of) == 0 {
			continue
		}
		mean := 0.0
		for _, one := range of {
			mean += float64(one.rss[i]) / float64(len(of))
		}
		per := (mean - float64(s.idle.rss[i])) / float64(sessions)
		worst = max(worst, per)
		each = append(each, fmt.Sprintf("%.1f (%d sessions)", per, sessions))
	}
	if s.cfg.Size < sessionSize {
		note += fmt.Sprintf("; asked of %d (vedette-sim -size %[1]d): here some 20 MiB that a node needs to work at all, garbage of enrolments most of it, are spread over few", sessionSize)
	}
	return figure.AtMost(name, worst, sessionMost, "KiB", fmt.Sprintf("growth of VmRSS from the idle node (%d MiB), of the node with the most: %s; %s",
		total(s.idle.rss)/max(1, len(s.idle.rss))>>10, strings.Join(each, ", "), note))
}

// steady holds the fleet under its reports.
func (s *stage) steady(ctx context.Context, windows int) ([]figure.Row, error) {
	s.cfg.Log(fmt.Sprintf("%d sessions report each %s for %s", s.cfg.Size, s.cfg.Every, time.Duration(windows)*s.cfg.Every))
	before, err := s.read()
	if err != nil {
		return nil, err
	}
	tally := s.fleet.Tally()
	sampling, stop := context.WithCancel(ctx)
	var samples []sums
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for pause(sampling, sampleEach) == nil {
			if now, err := s.read(); err == nil {
				samples = append(samples, now)
			}
		}
	})
	load := loadNow()
	err = s.fleet.Pace(ctx, 1, windows, s.cfg.Every)
	stop()
	sampler.Wait()
	if err != nil {
		return nil, err
	}
	after, err := s.read()
	if err != nil {
		return nil, err
	}
	drain, cancel := context.WithTimeoutCause(ctx, drainLimit, fmt.Errorf("within %s", drainLimit))
	defer cancel()
	_, left := s.fleet.Drain(drain)
	note := "every record of every sensor"
	if left != nil {
		note = left.Error()
	}
	now := s.fleet.Tally()
	times := s.fleet.TakeTimes()
	span := after.instant.Sub(before.instant)
	reports := now.Made - tally.Made
	rows := []figure.Row{
		figure.AtMost(ackName(s.cfg.Size), millis(fleet.Quantile(times, 0.99)), millis(ackMost), "ms", fmt.Sprintf(
			"from the record made to its acknowledgement, each %s for %s: p50 %.1f, p99.9 %.1f, max %.0f ms of %d; load %s", s.cfg.Every, time.Duration(windows)*s.cfg.Every,
			millis(fleet.Quantile(times, 0.5)), millis(fleet.Quantile(times, 0.999)), millis(fleet.Quantile(times, 1)), len(times), load)),
		figure.Exactly(fmt.Sprintf("records of %d sessions not acknowledged", s.cfg.Size), float64(now.Made-now.Acknowledged), 0, "records", note),
		figure.Exactly(fmt.Sprintf("sessions of %d lost while they report", s.cfg.Size), float64(fleet.Sum(now.Lost)-fleet.Sum(tally.Lost)), 0, "sessions", fleet.Causes(now.Lost, tally.Lost)),
		s.perSession(fmt.Sprintf("the same while they report, %d in all", s.cfg.Size), samples[len(samples)*3/4:], "the mean of the last quarter of that time"),
		s.growth(samples),
		figure.Info(fmt.Sprintf("CPU of the three nodes under %d sessions", s.cfg.Size), share(after.nodes-before.nodes, span), "% of a core",
			fmt.Sprintf("%.0f µs for each report, keep-alives and all else in it", float64((after.nodes-before.nodes).Microseconds())/float64(max(1, reports)))),
		figure.Info(fmt.Sprintf("CPU of this process for %d sensors", s.cfg.Size), share(after.own-before.own, span), "% of a core",
			fmt.Sprintf("on the same processors, and a host's own in life; %d of %d reports were made more than a second late, %d times it stood still", now.Tardy-tally.Tardy, reports, now.Stalls-tally.Stalls)),
	}
	return rows, nil
}

// growth compares the first and the last quarter of what the nodes held.
func (s *stage) growth(samples []sums) figure.Row {
	name := fmt.Sprintf("growth of the nodes' memory over %s of reports", s.cfg.Hold)
	quarter := len(samples) / 4
	if quarter == 0 {
		return figure.Skipped(name, "%", "a longer -hold")
	}
	mean := func(of []sums) (kib float64) {
		for _, one := range of {
			kib += float64(total(one.rss)) / float64(len(of))
		}
		return kib
	}
	first, last := mean(samples[:quarter]), mean(samples[len(samples)-quarter:])
	percent := 100 * (last - first) / first
	note := fmt.Sprintf("VmRSS of all three in the first and the last quarter: %.0f and %.0f MiB", first/1024, last/1024)
	if s.cfg.Hold < growthFrom {
		return figure.Info(name, percent, "%", note+fmt.Sprintf("; a run below %s says little, and is not judged", growthFrom))
	}
	return figure.AtMost(name, percent, growthMost, "%", note)
}
