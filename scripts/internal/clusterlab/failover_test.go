package clusterlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// writer pushes summaries and notes when each was sent first and when it was acknowledged.
type writer struct {
	*raw
	mu    sync.Mutex // guards acked
	acked []span
}

type span struct{ began, ended time.Time }

// write starts n writers that push in this rhythm, spread over the nodes; stop
// returns when what each has sent is settled.
func (c *trio) write(t *testing.T, n int, every time.Duration) (all []*writer, stop func()) {
	t.Helper()
	for i := range n {
		r := c.enrolRaw(t, fmt.Sprintf("raw-%s-%d", every, i))
		r.nodes = slices.Concat(r.nodes[i%len(r.nodes):], r.nodes[:i%len(r.nodes)])
		all = append(all, &writer{raw: r})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() {
			if err := w.run(ctx, every); err != nil {
				t.Errorf("%s: %v", w.id, err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return all, stop
}

func (w *writer) run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		began := time.Now()
		// With a time of its own: what was sent must be settled, also when told to stop.
		one, done := context.WithTimeout(context.Background(), 30*time.Second)
		err := w.push(one)
		done()
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.acked = append(w.acked, span{began, time.Now()})
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// resumed is how long after at the first summary that was sent after it was
// acknowledged; 0 when none is yet.
func (w *writer) resumed(at time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.acked {
		if s.began.After(at) {
			return s.ended.Sub(at)
		}
	}
	return 0
}

// strange runs programs that nobody has seen before, each one a finding.
type strange struct {
	c    *trio
	dir  string
	mu   sync.Mutex
	runs map[string]time.Time
}

func (c *trio) strange(t *testing.T) *strange {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vlab-")
	if err != nil {
		t.Skipf("SKIP: needs /dev/shm: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &strange{c: c, dir: dir, runs: map[string]time.Time{}}
}

// run runs one more strange program and returns its path.
func (s *strange) run(t *testing.T) string {
	t.Helper()
	s.mu.Lock()
	path := filepath.Join(s.dir, fmt.Sprintf("odd%d", len(s.runs)))
	s.runs[path] = time.Now()
	s.mu.Unlock()
	raw, err := os.ReadFile("/bin/true")
	if err == nil {
		err = os.WriteFile(path, raw, 0o700)
	}
	if err == nil {
		_, err = s.c.lab.Run(s.c.ns, exec.CommandContext(t.Context(), path))
	}
	// Whoever forked while the file was being written has it open until its own exec.
	for range 100 {
		if !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		_, err = s.c.lab.Run(s.c.ns, exec.CommandContext(t.Context(), path))
	}
	if err != nil {
		t.Errorf("running a strange program: %v", err)
	}
	return path
}

// found counts findings by image, among the strange programs.
func (s *strange) found(ctx context.Context) (map[string]int, error) {
	var all []told
	err := s.c.JSON(ctx, &all, "finding", "list")
	byImage, ids := map[string]int{}, map[string]bool{}
	for _, f := range all {
		if ids[f.ID] {
			err = fmt.Errorf("finding %s is listed twice", f.ID)
		}
		ids[f.ID] = true
		if strings.HasPrefix(f.Process.Image, s.dir) {
			byImage[f.Process.Image]++
		}
	}
	return byImage, err
}

// Ensure that a leader's crash stops nothing for long and loses nothing, with
// real programs: a sensor that finds, many that summarise, kill after kill.
func TestClusterLosesNothingWhenLeadersDie(t *testing.T) {
	labtest.NeedRoot(t)
	kills := 20
	if testing.Short() {
		kills = 5
	}
	if more, err := strconv.Atoi(os.Getenv("VEDETTE_KILLS")); err == nil {
		kills = more
	}
	c := newTrio(t, 3, "vkill")
	spec := lab.SensorSpec{Name: "web1", Scope: "netns:" + c.ns.Path(), NS: c.ns,
		SummaryInterval: time.Second, Window: time.Second, KnownWindows: 2, LearnFor: time.Hour}
	sensor, err := c.StartSensor(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	c.until(time.Minute, "the sensor to be online", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		return hosts["web1"].State == "online", err
	})
	odd := c.strange(t)
	many, stopMany := c.write(t, 20, time.Second)
	probes, stopProbes := c.write(t, 6, 100*time.Millisecond)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, p := range probes {
			t.Logf("%s:\n%s", p.id, p.story())
		}
		t.Logf("the sensor said:\n%s", sensor.Tail())
	})
	always, stopAlways := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stopAlways()
	running.Go(func() {
		// Below the 120 findings a minute that a host may tell.
		tick := time.NewTicker(800 * time.Millisecond)
		defer tick.Stop()
		for always.Err() == nil {
			odd.run(t)
			select {
			case <-always.Done():
			case <-tick.C:
			}
		}
	})

	var first, last, finding []time.Duration
	for kill := range kills {
		leader := c.leader()
		at := time.Now()
		c.Members[leader].Kill()
		path := odd.run(t)
		var shown time.Duration
		c.until(30*time.Second, "the finding made after the kill", func(ctx context.Context) (bool, error) {
			byImage, err := odd.found(ctx)
			shown = time.Since(at)
			return byImage[path] > 0, err
		})
		resumed := make([]time.Duration, len(probes))
		c.until(30*time.Second, "every probe to be acknowledged", func(context.Context) (bool, error) {
			for i, p := range probes {
				resumed[i] = p.resumed(at)
			}
			return slices.Min(resumed) > 0, nil
		})
		first, last, finding = append(first, slices.Min(resumed)), append(last, slices.Max(resumed)), append(finding, shown)
		t.Logf("kill %2d: %s led; writes resume %6s, at every node's sensors %6s, strange program shown %6s",
			kill+1, leader, round(slices.Min(resumed)), round(slices.Max(resumed)), round(shown))
		for i, p := range probes {
			if resumed[i] > 5*time.Second {
				t.Logf("%s took %s:\n%s", p.id, resumed[i], p.story())
				for _, id := range c.followers() {
					t.Logf("%s said:\n%s", id, c.Members[id].Tail())
				}
			}
		}
		c.start(leader)
		c.alive()
	}
	stopAlways()
	running.Wait()
	stopProbes()
	stopMany()
	select {
	case <-sensor.Exited():
		t.Errorf("the sensor ended:\n%s", sensor.Tail())
	default:
	}
	seconds := func(name string, all []time.Duration, target string, ok bool) {
		slices.Sort(all)
		labtest.Figure(t, name+" p50", all[len(all)/2].Seconds(), "s", "-", true, fmt.Sprintf("%d kills of real processes, 3 nodes", kills))
		labtest.Figure(t, name+" max", all[len(all)-1].Seconds(), "s", target, ok, "")
	}
	seconds("leader killed → writes resume", first, "≤ 5", slices.Max(first) <= 5*time.Second)
	seconds("leader killed → every sensor acknowledged", last, "≤ 8", slices.Max(last) <= 8*time.Second)
	seconds("leader killed → exec shown as finding", finding, "-", true)

	c.countedOnce(t, append(many, probes...))
	c.until(20*time.Second, "every strange program to be found", func(ctx context.Context) (bool, error) {
		byImage, err := odd.found(ctx)
		return len(byImage) == len(odd.runs), cmp.Or(err, fmt.Errorf("%d of %d", len(byImage), len(odd.runs)))
	})
	byImage, err := odd.found(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	twice := 0
	for image, n := range byImage {
		if n != 1 {
			t.Logf("%s has %d findings", image, n)
			twice++
		}
	}
	labtest.Figure(t, "findings lost", float64(len(odd.runs)-len(byImage)), "", "0", len(odd.runs) == len(byImage), fmt.Sprintf("of %d strange programs", len(odd.runs)))
	labtest.Figure(t, "findings doubled", float64(twice), "", "0", twice == 0, "")
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// countedOnce compares what every node has stored with what the writers were told.
func (c *trio) countedOnce(t *testing.T, all []*writer) {
	t.Helper()
	c.converged(t)
	var acked, lost, doubled uint64
	for _, n := range c.Nodes {
		for _, w := range all {
			var host struct {
				Behaviours []struct {
					Count uint64 `json:"count"`
				} `json:"behaviours"`
			}
			c.until(10*time.Second, "the host at "+n.ID, func(context.Context) (bool, error) {
				r := c.asks(c.only(n.ID), &host, "host", "show", w.id)
				if r.code != 0 || len(host.Behaviours) != 1 {
					return false, fmt.Errorf("%d behaviours: %s", len(host.Behaviours), r)
				}
				return true, nil
			})
			got := host.Behaviours[0].Count
			if got != w.seq {
				t.Logf("%s has %d of %s, which was told %d:\n%s", n.ID, got, w.id, w.seq, w.story())
			}
			acked += w.seq
			lost += w.seq - min(got, w.seq)
			doubled += got - min(got, w.seq)
		}
	}
	labtest.Figure(t, "acknowledged lost", float64(lost), "", "0", lost == 0, fmt.Sprintf("of %d, on every node", acked))
	labtest.Figure(t, "acknowledged doubled", float64(doubled), "", "0", doubled == 0, "")
}

// converged waits until every node has applied the same entry.
func (c *trio) converged(t *testing.T) {
	t.Helper()
	c.until(20*time.Second, "all nodes to have applied the same", func(ctx context.Context) (bool, error) {
		var members []member
		err := c.JSON(ctx, &members, "cluster", "members")
		for _, m := range members {
			if m.State != "alive" || m.Applied != members[0].Applied {
				return false, fmt.Errorf("%+v", members)
			}
		}
		return err == nil, err
	})
}
