package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/drive"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

const (
	stormFor      = 60 * time.Second
	stormRate     = 300000 // events/s asked for
	markersPerSec = 20
	mostUntilSeen = 5  // s from the storm's begin to a host that says that it is blind
	mostUntilBack = 30 // s from the storm's end
	// stormEvery is longer than that takes, so that no summary by the clock tells it.
	stormEvery = 6 * time.Second
)

// newStorm makes as many new events as the machine can, and asks for each of them.
func newStorm(ctx context.Context, b *bench) []figure.Row {
	rows, err := tryStorm(ctx, b)
	if err != nil {
		rows = append(rows, figure.Missing("difference of made and counted in a storm", "events", "= 0", err))
	}
	return rows
}

func tryStorm(ctx context.Context, b *bench) ([]figure.Row, error) {
	marker := filepath.Join(b.bin, "drive", "marker")
	raw, err := os.ReadFile(b.drive.Tiny)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(marker, raw, 0o755); err != nil {
		return nil, err
	}
	// Nothing becomes known in so short a time: every event is a new one.
	h, err := b.host(ctx, "storm", lab.SensorSpec{Window: 10 * time.Minute, SummaryInterval: stormEvery})
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Stop() }()
	file, err := h.seesOpens(ctx)
	if err != nil {
		return nil, err
	}
	seconds := func(n int) []string {
		return []string{"flood", strconv.Itoa(n), marker, strconv.Itoa(markersPerSec), file}
	}
	// What the driver's own start and end count, beside what it is told to do.
	start, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := h.do(ctx, b.drive.Command(ctx, seconds(0)...)); err != nil {
		return nil, err
	}
	before, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	used, err := cpu(h.PID())
	if err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	seen := make(chan blindTimes, 1)
	go func() { seen <- h.watchBlind(watching) }()
	began := time.Now()
	done, err := h.do(ctx, b.drive.Command(ctx, seconds(int(b.span(stormFor).Seconds()))...))
	ended := time.Now()
	if err != nil {
		return nil, err
	}
	after, err := h.settled(ctx)
	if err != nil {
		return nil, err
	}
	now, err := cpu(h.PID())
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, time.Until(ended.Add(mostUntilBack*time.Second))); err != nil {
		return nil, err
	}
	stop()
	kib, err := statusKiB(h.PID(), "VmHWM:")
	if err != nil {
		return nil, err
	}
	rows := stormRows(done, before.Total-start.Total, before, after)
	return append(append(rows, blindRows(<-seen, began, ended)...),
		figure.Info("agent CPU per event in a storm", float64((now-used).Nanoseconds())/float64(max(1, eventsOf(done)))/1000, "µs", ""),
		figure.AtMost("sensor RSS in a storm, most", float64(kib)/1024, 60, "MiB", "VmHWM"),
	), nil
}

// seesOpens is a watched file, or "-" when this sensor does not see opens.
func (h *host) seesOpens(ctx context.Context) (string, error) {
	const probes = 1000
	file, err := h.b.opened()
	if err != nil {
		return "", err
	}
	before, err := h.settled(ctx)
	if err != nil {
		return "", err
	}
	if _, err := h.do(ctx, h.b.drive.Repeat(ctx, "open", file, probes, 0)); err != nil {
		return "", err
	}
	after, err := h.settled(ctx)
	if after.Total-before.Total < probes {
		file = "-"
	}
	return file, err
}

// eventsOf are those that the kernel makes of what the driver did.
func eventsOf(d drive.Done) uint64 {
	const perMarker = 3 // fork, exec and end
	return d.Datagrams + d.Opens + perMarker*d.Markers
}

func stormRows(done drive.Done, own uint64, before, after lab.HostDetail) []figure.Row {
	made, total := eventsOf(done)+own, after.Total-before.Total
	earlier := map[string]uint64{}
	for _, l := range before.Losses {
		earlier[l.Where+" "+l.Cause] = l.Count
	}
	// What a full ring lost, or the budget left out, is in the total as well; what was lost
	// before that is not. What the recorder had no room for was told.
	var critical, ring, sampled, elsewhere uint64
	var causes []string
	for _, l := range after.Losses {
		n := l.Count - earlier[l.Where+" "+l.Cause]
		if n == 0 {
			continue
		}
		causes = append(causes, fmt.Sprintf("%s: %s %d", l.Where, l.Cause, n))
		switch {
		case l.Where == "ring:critical":
			critical += n
		case strings.HasPrefix(l.Where, "ring:"):
			ring += n
		case l.Where == "file" && l.Cause == "sampled by budget":
			sampled += n
		case l.Where == "recorder":
		default:
			elsewhere += n
		}
	}
	told := total - ring - critical - sampled
	var markers uint64
	for _, b := range after.Behaviours {
		if b.Kind == "exec" && strings.HasSuffix(b.Object, "/marker") {
			markers += b.Count
		}
	}
	for _, b := range before.Behaviours {
		if b.Kind == "exec" && strings.HasSuffix(b.Object, "/marker") {
			markers -= b.Count
		}
	}
	return []figure.Row{
		figure.AtLeast("new events/s made in a storm", float64(made)/done.Took().Seconds(), stormRate, "events/s",
			fmt.Sprintf("%d datagrams to ever new ports and %d opens of a watched file in %.0f s, on the sensor's own cores", done.Datagrams, done.Opens, done.Took().Seconds())),
		figure.Exactly("difference of made and counted in a storm", float64(made)-float64(told)-float64(ring+critical+sampled+elsewhere), 0, "events",
			fmt.Sprintf("%d made (%d by the driver's own start), %d told, %d lost: %s", made, own, told, ring+critical+sampled+elsewhere, strings.Join(causes, ", "))),
		figure.Exactly("events lost in the critical ring in a storm", float64(critical), 0, "events", ""),
		figure.Exactly("marker programs not seen in a storm", float64(done.Markers)-float64(markers), 0, "execs", fmt.Sprintf("%d a second, %d seen of %d", markersPerSec, markers, done.Markers)),
	}
}

// blindTimes is when the coordinators called the host blind, and when no more.
type blindTimes struct {
	began, ended time.Time
	err          error
}

func (h *host) watchBlind(ctx context.Context) (t blindTimes) {
	err := lab.Until(ctx, 200*time.Millisecond, "the host's blindness", func(ctx context.Context) (bool, error) {
		hosts, err := h.b.hosts(ctx)
		if err != nil {
			return false, err
		}
		now := hosts[h.spec.Name]
		switch blind := now.Blind || now.State == "blind"; {
		case blind && t.began.IsZero():
			t.began = time.Now()
		case blind:
			t.ended = time.Time{}
		case !t.began.IsZero() && t.ended.IsZero():
			t.ended = time.Now()
		}
		return false, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.err = err
	}
	return t
}

func blindRows(t blindTimes, began, ended time.Time) []figure.Row {
	const (
		name = "storm → host shown as blind"
		back = "end of the storm → no longer blind"
	)
	if t.began.IsZero() {
		why := errors.Join(errors.New("it was never shown so"), t.err)
		return []figure.Row{figure.Missing(name, "s", fmt.Sprintf("≤ %d", mostUntilSeen), why)}
	}
	rows := []figure.Row{figure.AtMost(name, t.began.Sub(began).Seconds(), mostUntilSeen, "s", "vedette host list")}
	if t.ended.IsZero() {
		return append(rows, figure.Missing(back, "s", fmt.Sprintf("≤ %d", mostUntilBack), errors.Join(fmt.Errorf("not within %d s", mostUntilBack), t.err)))
	}
	return append(rows, figure.AtMost(back, t.ended.Sub(ended).Seconds(), mostUntilBack, "s", ""))
}
