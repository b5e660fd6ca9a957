package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/drive"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/wire"
)

const (
	steadyFor  = 60 * time.Second
	learnFor   = 6 * time.Second // at a time
	steadyRate = 3000            // events/s
	// What makes them: a start is a fork, an exec and an end; a connection four
	// events, opened and closed at either end; a look-up a question and an answer, each
	// seen at either end.
	steadySpawns, steadyConnections, steadyLookups, steadyOpens = 300, 520, 20, 200

	fastFor             = 10 * time.Second
	fastRate            = 90000 // events/s
	eventsPerConnection = 4
	mostUserShare       = 0.3 // percent of a core
)

// knownRates is a host that does what it always does: at a steady rate, and as fast as
// was ever seen to make a sensor lose events.
func knownRates(ctx context.Context, b *bench) []figure.Row {
	rows, err := steadyRates(ctx, b)
	if err != nil {
		rows = append(rows, figure.Missing("user space at 3,000 known events/s", "% of a core", fmt.Sprintf("≤ %g", mostUserShare), err))
	}
	fast, err := fastKnown(ctx, b)
	if err != nil {
		fast = append(fast, figure.Missing("events lost of 90,000 known a second", "events", "= 0", err))
	}
	return append(rows, fast...)
}

// period is what a sensor cost while something was done.
type period struct {
	cpu, took time.Duration
	sent      wire.Sent
	done      drive.Done
}

func (p period) share() float64 { return 100 * float64(p.cpu) / float64(p.took) }

func (h *host) during(tap *wire.Tap, do func() (drive.Done, error)) (p period, err error) {
	sent, err := tap.Sent()
	if err != nil {
		return p, err
	}
	began := time.Now()
	p.cpu, err = h.spent(func() (err error) {
		p.done, err = do()
		return err
	})
	if err != nil {
		return p, err
	}
	p.took = time.Since(began)
	now, err := tap.Sent()
	p.sent = now.Since(sent)
	return p, err
}

func steadyRates(ctx context.Context, b *bench) ([]figure.Row, error) {
	h, err := b.host(ctx, "steady", lab.SensorSpec{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Stop() }()
	file, err := b.opened()
	if err != nil {
		return nil, err
	}
	mix := func(d time.Duration) (drive.Done, error) {
		return h.do(ctx, h.b.drive.Command(ctx, "mix", strconv.Itoa(int(d.Seconds())), h.b.drive.Tiny, file,
			strconv.Itoa(steadySpawns), strconv.Itoa(steadyConnections), strconv.Itoa(steadyLookups), strconv.Itoa(steadyOpens)))
	}
	// What is not known then, because the sensor keeps none of its kind back, is part of
	// the figure.
	err = h.learn(ctx, func() error { _, err := mix(learnFor); return err })
	if err != nil && !errors.Is(err, errNotKept) {
		return nil, err
	}
	// From here on as it is installed.
	if err := h.Stop(); err != nil {
		return nil, err
	}
	h.spec.SummaryInterval = defaultEvery
	if err := h.start(ctx); err != nil {
		return nil, err
	}
	if _, err := mix(learnFor); err != nil {
		return nil, err
	}
	tap, err := h.tap()
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	// Two intervals, so that all that was done is told at its end.
	idle, err := h.during(tap, func() (drive.Done, error) { return drive.Done{}, pause(ctx, 2*defaultEvery) })
	if err != nil {
		return nil, err
	}
	before, err := h.c.Host(ctx, h.spec.Name)
	if err != nil {
		return nil, err
	}
	busy, err := h.during(tap, func() (drive.Done, error) { return mix(steadyFor) })
	if err != nil {
		return nil, err
	}
	kib, err := statusKiB(h.PID(), "VmRSS:")
	if err != nil {
		return nil, err
	}
	after, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	made := after.Total - before.Total
	rate := float64(made) / busy.took.Seconds()
	kept := 100 * keptShare(before.Host, after.Host)
	extra := max(0, float64(busy.sent.Large())-float64(idle.sent.Large()))
	return []figure.Row{
		figure.AtLeast("known events/s, steady", rate, steadyRate, "events/s", fmt.Sprintf(
			"by the kernel's counter over %.0f s: %d starts, %d connections, %d look-ups, %d opens; %.2f %% kept back",
			busy.took.Seconds(), busy.done.Spawns, busy.done.Connections, busy.done.Lookups, busy.done.Opens, kept)),
		figure.AtMost("user space at 3,000 known events/s", busy.share(), mostUserShare, "% of a core",
			fmt.Sprintf("all of the process, what it takes idle included; idle for as long: %.2f %%", idle.share())),
		figure.AtMost("bytes up for each of these events", extra/max(1, float64(made)), 0.001, "B",
			fmt.Sprintf("UDP payload of its datagrams above %d B, as a packet socket on lo sees them: %d B in %d, in an idle time as long %d B in %d; the kernel's counts go up with the hour",
				wire.Small, busy.sent.Large(), busy.sent.Datagrams-busy.sent.SmallDatagrams, idle.sent.Large(), idle.sent.Datagrams-idle.sent.SmallDatagrams)),
		figure.AtMost("sensor RSS after them", float64(kib)/1024, 60, "MiB", ""),
		figure.Exactly("events lost of these", float64(after.Lost-before.Lost), 0, "events", fmt.Sprintf("of %d", made)),
	}, nil
}

// fastKnown makes known connections faster than events were ever seen to be lost.
func fastKnown(ctx context.Context, b *bench) ([]figure.Row, error) {
	h, err := b.host(ctx, "fast", lab.SensorSpec{Window: time.Second, TellKnownEvery: tellKnownAtOnce})
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Stop() }()
	const perSecond = fastRate * 11 / 10 / eventsPerConnection
	connections := func(seconds int) func() error {
		return func() error {
			_, err := h.do(ctx, h.b.drive.Repeat(ctx, "connect", "", perSecond*seconds, perSecond))
			return err
		}
	}
	if err := h.learn(ctx, connections(1)); err != nil {
		return nil, err
	}
	// What the driver's own start and end count, beside what it is told to do.
	start, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := h.do(ctx, h.b.drive.Repeat(ctx, "connect", "", 0, perSecond)); err != nil {
		return nil, err
	}
	before, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	done, err := h.do(ctx, h.b.drive.Repeat(ctx, "connect", "", perSecond*int(fastFor.Seconds()), perSecond))
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	made := done.Ops*eventsPerConnection + before.Total - start.Total
	total, kept, lost := after.Total-before.Total, after.Suppressed-before.Suppressed, after.Lost-before.Lost
	flows := flowsOf(after) - flowsOf(before)
	return []figure.Row{
		figure.AtLeast("known events/s, fast", float64(made)/done.Took().Seconds(), fastRate, "events/s",
			fmt.Sprintf("%d connections in %.1f s", done.Ops, took.Seconds())),
		figure.Exactly("events lost of 90,000 known a second", float64(lost), 0, "events", fmt.Sprintf("of %d; %d kept back", made, kept)),
		figure.Exactly("difference of made and counted", float64(total)-float64(made), 0, "events", fmt.Sprintf("%d made, %d counted", made, total)),
		figure.Exactly("difference of connections and the coordinator's counts", float64(flows)-float64(2*done.Ops), 0, "flows",
			fmt.Sprintf("%d connections, each a behaviour at either end; the counts of the behaviours grew by %d", done.Ops, flows)),
	}, nil
}

// tellKnownAtOnce makes the counts of what is known part of every summary, so that the
// coordinator's can be held against what was made.
const tellKnownAtOnce = time.Nanosecond

// flowsOf is how many connections the coordinator was told of.
func flowsOf(d lab.HostDetail) (n uint64) {
	for _, b := range d.Behaviours {
		if b.Kind == "flow" {
			n += b.Count
		}
	}
	return n
}
