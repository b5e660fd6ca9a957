package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// A follower is away for so long that the log does not reach back to it, under writes and with
// a large state: it gets the leader's snapshot and what came since, and the writes go on.

const (
	// fillText is how large a stored finding is, fillBatch how many are sent at once,
	// fillHost how many a host is given: of more in an hour a node holds it back.
	fillText, fillBatch, fillHost = 4 << 10, 32, 1900
	// loadSensors send what is asked a second together, each in batches of this rhythm.
	loadSensors = 8
	loadRhythm  = 100 * time.Millisecond
	// catchUpMost and slowerMost are the figures.
	catchUpMost, slowerMost = 300, 2.0
)

// mebibytes reads 64MiB or 2GiB.
func mebibytes(text string) (int, error) {
	for unit, times := range map[string]int{"MiB": 1, "GiB": 1024} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.Atoi(number)
			return n * times, err
		}
	}
	return 0, fmt.Errorf("%q is no size: write 64MiB or 2GiB", text)
}

func catchUp(ctx context.Context, cfg config, dir string) []figure.Row {
	const name = "a follower that was away has all again after"
	missing := func(err error) []figure.Row {
		return []figure.Row{figure.Missing(name, "s", fmt.Sprintf("≤ %d", catchUpMost), brief(cfg, err))}
	}
	size, err := mebibytes(cfg.size)
	if err != nil {
		return missing(err)
	}
	// As in life, when it is away for as long as there.
	more := ",digest-every:0,segment-size:67108864,snapshot-threshold:4096,trailing-logs:4096,snapshot-interval-ms:30000"
	if cfg.away < 2*time.Minute {
		// The log is cut by whole files, of which such a time must fill some.
		more = ",digest-every:0,segment-size:1048576,snapshot-threshold:40,trailing-logs:10,snapshot-interval-ms:2000"
	}
	r, err := newRig(ctx, cfg, dir, more, nothingFirst)
	if err != nil {
		return missing(err)
	}
	rows, err := r.catchUp(ctx, cfg, size)
	if err = errors.Join(err, r.close(cfg.keep || err != nil)); err != nil {
		rows = append(rows, missing(err)...)
	}
	return rows
}

func (r *rig) catchUp(ctx context.Context, cfg config, size int) ([]figure.Row, error) {
	began := time.Now()
	if err := r.fill(ctx, size); err != nil {
		return nil, fmt.Errorf("filling the state: %w", err)
	}
	filled := time.Since(began)
	load, err := r.sensors(ctx, loadSensors)
	if err != nil {
		return nil, err
	}
	l := &loads{each: max(1, cfg.rate*int(loadRhythm/time.Millisecond)/1000/loadSensors)}
	l.start(context.WithoutCancel(ctx), load)
	defer func() { _ = l.stop() }() // its error was asked for before, or another is told
	rest(ctx, 5*time.Second)        // until the filling's snapshots are written
	l.take()
	rest(ctx, max(cfg.away/2, 5*time.Second))
	before, sent, during := l.take()
	rate := float64(sent) / during.Seconds()

	leader, err := r.leader(ctx)
	if err != nil {
		return nil, err
	}
	away := (leader + 1) % nodes
	from := r.said()[away]
	r.Members[id(away)].Kill()
	rest(ctx, cfg.away)
	back := time.Now()
	if err := r.start(ctx, away, ""); err != nil {
		return nil, err
	}
	// All that was committed until it came back; and then what came meanwhile.
	goal := uint64(0)
	err = until(ctx, 2*catchUpMost*time.Second, "the follower to have all", func(ctx context.Context) (bool, error) {
		if goal == 0 {
			goal = r.readPoint(ctx, leader)
		}
		mine, merr := r.status(ctx, away)
		theirs, terr := r.status(ctx, leader)
		if err := errors.Join(merr, terr); err != nil {
			return false, err
		}
		return goal > 0 && mine.GetAppliedIndex() >= goal && mine.GetAppliedIndex()+50 >= theirs.GetAppliedIndex(),
			fmt.Errorf("it has %d of %d", mine.GetAppliedIndex(), theirs.GetAppliedIndex())
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(back)
	meanwhile, _, _ := l.take()
	if err := errors.Join(l.stop(), r.whole(ctx)); err != nil {
		return nil, err
	}
	t, err := r.exactlyStored(ctx, load)
	info, serr := os.Stat(filepath.Join(r.data(leader), "state.db"))
	if err = errors.Join(err, serr); err != nil {
		return nil, err
	}
	snapshots := strings.Count(r.since(away, from), "nstalled remote snapshot")
	p99, p99Then := quantile(before), quantile(meanwhile)
	written := figure.AtLeast("records written meanwhile", rate, 0.9*float64(cfg.rate), "/s", fmt.Sprintf("%d asked, %d sensors", cfg.rate, loadSensors))
	if cfg.away < 2*time.Minute { // a small run is about what is lost, not about the machine
		written = figure.Info(written.Name, rate, "/s", written.Note)
	}
	return []figure.Row{
		figure.AtLeast("the state that a follower caught up with", float64(info.Size()>>20), float64(size), "MiB", fmt.Sprintf("filled in %.0f s", filled.Seconds())),
		written,
		figure.AtMost("a follower that was away has all again after", took.Seconds(), catchUpMost, "s", fmt.Sprintf("away for %s; -state 2GiB -away 10m is the issue's", cfg.away)),
		figure.AtLeast("of that, snapshots that it was given", float64(snapshots), 1, "", ""),
		figure.Info("write p99 with all nodes", p99.Seconds(), "s", fmt.Sprintf("%d batches", len(before))),
		figure.AtMost("write p99 while it was away and caught up", p99Then.Seconds()/max(p99.Seconds(), 0.001), slowerMost, "×", fmt.Sprintf("%.3f s, %d batches", p99Then.Seconds(), len(meanwhile))),
		figure.Exactly("acknowledged lost or doubled by that", float64(t.lost+t.doubled), 0, "", fmt.Sprintf("of %d", t.acknowledged)),
	}, nil
}

func quantile(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// fill stores findings until the state has that size.
func (r *rig) fill(ctx context.Context, size int) error {
	const perMiB = (1 << 20) / fillText
	hosts := (size*perMiB + fillHost - 1) / fillHost
	all, err := r.sensors(ctx, hosts)
	if err != nil {
		return err
	}
	text := strings.Repeat("vedette ", fillText/8)
	var wg sync.WaitGroup
	failed := make(chan error, hosts)
	left := make(chan struct{}, 4) // so many hosts at once
	for _, s := range all {
		wg.Go(func() {
			left <- struct{}{}
			defer func() { <-left }()
			defer s.close()
			for done := 0; done < size*perMiB/hosts; done += fillBatch {
				if err := s.pushMany(ctx, fillBatch, func(sequence uint64) *sensorv1.Record {
					record := &sensorv1.Record{Sequence: sequence, Time: time.Now().UnixNano()}
					record.Body = &sensorv1.Record_Finding{Finding: &sensorv1.Finding{Id: s.finding(sequence), Time: record.GetTime(), Kind: "rule", Title: "torture",
						Severity: "informational", Storyline: "s-" + s.id, Reason: text}}
					return record
				}); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	return <-failed
}

// pushMany gets so many records acknowledged at once, by whichever node will.
func (s *sensor) pushMany(ctx context.Context, many int, record func(sequence uint64) *sensorv1.Record) error {
	_, acked := s.position()
	batch := &sensorv1.Batch{Boot: s.boot, Prev: acked}
	for i := range many {
		batch.Records = append(batch.Records, record(acked+uint64(i)+1)) //nolint:gosec // small
	}
	want := acked + uint64(many) //nolint:gosec // small
	s.mu.Lock()
	s.sent = want
	s.mu.Unlock()
	for turn := 0; ; turn++ {
		var err error
		if s.conn == nil {
			err = s.open(ctx, s.nodes[turn%len(s.nodes)])
		}
		if _, acked := s.position(); err == nil && acked < want {
			err = s.send(batch, want)
		}
		if err == nil || errors.Is(err, errLost) {
			return err
		}
		s.close()
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; the last try: %w", ctx.Err(), err)
		case <-time.After(poll):
		}
	}
}

// loads are sensors that send at a rate.
type loads struct {
	each   int
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards what follows
	took  []time.Duration
	sent  int
	since time.Time
	err   error
}

func (l *loads) start(ctx context.Context, all []*sensor) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.since = time.Now()
	for _, s := range all {
		l.wg.Go(func() {
			defer s.close()
			tick := time.NewTicker(loadRhythm)
			defer tick.Stop()
			for {
				began := time.Now()
				one, done := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				err := s.pushMany(one, l.each, func(sequence uint64) *sensorv1.Record {
					return &sensorv1.Record{Sequence: sequence, Time: began.UnixNano(), Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{WindowEnd: began.UnixNano(),
						Deltas: []*sensorv1.BehaviourDelta{{Key: counted, Count: 1, LastSeen: began.UnixNano()}}}}}
				})
				done()
				l.mu.Lock()
				l.took, l.sent = append(l.took, time.Since(began)), l.sent+l.each
				l.err = errors.Join(l.err, err)
				l.mu.Unlock()
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if err != nil {
					return
				}
			}
		})
	}
}

// take is what was measured since it was asked last.
func (l *loads) take() (took []time.Duration, sent int, during time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	took, sent, during = l.took, l.sent, time.Since(l.since)
	l.took, l.sent, l.since = nil, 0, time.Now()
	return took, sent, during
}

func (l *loads) stop() error {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// exactlyStored compares what every node has counted with what was acknowledged.
func (r *rig) exactlyStored(ctx context.Context, all []*sensor) (total tally, err error) {
	if err := r.level(ctx); err != nil {
		return total, err
	}
	for node := range nodes {
		for _, s := range all {
			_, acked := s.position()
			has, err := r.count(ctx, node, s)
			if err != nil {
				return total, err
			}
			total.add(tally{acked, acked - min(acked, has), has - min(has, acked)})
		}
	}
	return total, nil
}
