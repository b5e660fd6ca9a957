package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/wire"
)

const (
	day           = 24 * time.Hour
	mostUplink    = 1 << 20 // bytes a day
	workFor       = 180 * time.Second
	warmUp        = 60 * time.Second
	defaultEvery  = 30 * time.Second // summary_interval
	tellKnown     = time.Hour        // baseline.tell_known_every
	deltaOnWire   = 40               // bytes of one behaviour's count in a summary: key, count, time, flag
	workEvery     = 3 * time.Second
	compileEvery  = 15 * time.Second
	rotationEvery = 60 * time.Second
)

// steadyUplink is what a host with ordinary work sends once it is learnt.
func steadyUplink(ctx context.Context, b *bench) []figure.Row {
	rows, err := tryUplink(ctx, b)
	if err != nil {
		rows = append(rows, figure.Missing("bytes up per host and day", "MiB", "≤ 1", err))
	}
	return rows
}

func tryUplink(ctx context.Context, b *bench) ([]figure.Row, error) {
	h, err := b.host(ctx, "work", lab.SensorSpec{SummaryInterval: defaultEvery, Window: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Stop() }()
	server, err := b.lab.Start(h.ns, "work-server", b.drive.Command(ctx, "serve"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = server.Stop() }()
	w := &work{h: h, dir: filepath.Join(b.dir, "work")}
	if err := w.prepare(); err != nil {
		return nil, err
	}
	if err := w.run(ctx, b.span(warmUp)); err != nil {
		return nil, err
	}
	tap, err := h.tap()
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	idle, err := h.quiet(ctx, tap)
	if err != nil {
		return nil, err
	}
	before, err := h.c.Host(ctx, h.spec.Name)
	if err != nil {
		return nil, err
	}
	earlier, err := tap.Sent()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := w.run(ctx, b.span(workFor)); err != nil {
		return nil, err
	}
	sent, err := tap.Sent()
	if err != nil {
		return nil, err
	}
	sent, took := sent.Since(earlier), time.Since(began)
	after, err := h.c.Host(ctx, h.spec.Name)
	if err != nil {
		return nil, err
	}
	behaviours, fresh := after.Baseline.Behaviours, after.Baseline.Behaviours-before.Baseline.Behaviours
	perDay := func(bytes uint64) float64 { return float64(bytes) * float64(day) / float64(took) }
	hourly := float64(behaviours) * deltaOnWire * float64(day/tellKnown)
	sum := perDay(sent.Large()) + hourly
	const mib = 1 << 20
	return []figure.Row{
		figure.AtMost("bytes up per host and day", sum/mib, float64(mostUplink)/mib, "MiB", fmt.Sprintf(
			"%d B of UDP payload in %.0f s of a mixed workload (%d events, %d behaviours of which %d new), QUIC's own bytes in them: × %.0f = %.2f MiB; and the counts of %d known behaviours once in %s at %d B: %.2f MiB",
			sent.Large(), took.Seconds(), after.Total-before.Total, behaviours, fresh, float64(day)/float64(took), perDay(sent.Large())/mib,
			behaviours, tellKnown, deltaOnWire, hourly/mib)),
		figure.Info("of these, the fixed part of summaries", float64(idle.Large())/2*float64(day/defaultEvery)/mib, "MiB",
			fmt.Sprintf("%d B in two idle intervals of %s, so %d B for each of %d summaries a day", idle.Large(), defaultEvery, idle.Large()/2, day/defaultEvery)),
		figure.Info("acknowledgements and keep-alives up per host and day", perDay(sent.SmallBytes)/mib, "MiB",
			fmt.Sprintf("%d datagrams of at most %d B, %d B in all; the link's, whatever is told", sent.SmallDatagrams, wire.Small, sent.SmallBytes)),
	}, nil
}

// quiet is what two intervals without work send.
func (h *host) quiet(ctx context.Context, tap *wire.Tap) (wire.Sent, error) {
	before, err := tap.Sent()
	if err != nil {
		return wire.Sent{}, err
	}
	if err := pause(ctx, 2*defaultEvery); err != nil {
		return wire.Sent{}, err
	}
	after, err := tap.Sent()
	return after.Since(before), err
}

// work is what a small server does all day, faster.
type work struct {
	h   *host
	dir string
}

const source = `#include <stdio.h>
int main(void) { puts("built"); return 0; }
`

func (w *work) prepare() error {
	return errors.Join(os.MkdirAll(w.dir, 0o700), os.WriteFile(filepath.Join(w.dir, "a.c"), []byte(source), 0o600))
}

// run does it for so long.
func (w *work) run(ctx context.Context, long time.Duration) error {
	began := time.Now()
	var compiled, rotated time.Time
	for step := 0; time.Since(began) < long; step++ {
		next := time.Now().Add(workEvery)
		jobs := []string{
			// A monitor's plugin.
			`ps -e | wc -l >/dev/null; df / | tail -n 1 >/dev/null; uptime >/dev/null`,
			// A shell pipeline over the configuration.
			`find /etc -maxdepth 1 -name '*.conf' | sort | head -n 20 | xargs cat | grep -c . >/dev/null`,
			// A program that logs.
			`date >>app.log; logger -s -t app started 2>>app.log || echo started >>app.log`,
			// A client of a service beside it.
			w.h.b.drive.Path + ` lookup db.bench.example && ` + w.h.b.drive.Path + ` fetch`,
		}
		if time.Since(compiled) >= compileEvery {
			compiled = time.Now()
			jobs = append(jobs, `cc -O1 -o a a.c && ./a >/dev/null`)
		}
		if time.Since(rotated) >= rotationEvery {
			rotated = time.Now()
			jobs = append(jobs, `mv app.log app.log.1 2>/dev/null; gzip -f app.log.1 2>/dev/null; true`)
		}
		for _, job := range jobs {
			cmd := exec.CommandContext(ctx, "/bin/sh", "-c", job)
			cmd.Dir = w.dir
			if _, err := w.h.b.lab.Run(w.h.ns, cmd); err != nil {
				return fmt.Errorf("the workload's step %d: %w", step, err)
			}
		}
		if err := pause(ctx, time.Until(next)); err != nil {
			return err
		}
	}
	return nil
}
