package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// Ensure a thousand short-lived processes a second neither hide a finding nor cost
// more memory than is promised, and that each is counted, or counted as lost.
func TestProcessStorm(t *testing.T) {
	r := newRig(t)
	shell := copied(t)
	const (
		seconds, perSecond = 20, 1000
		limit              = 2 * time.Second
		memory             = 60 << 20
	)
	// A copy of its own, so that its starts are counted apart; no rule minds its place.
	worker := t.TempDir() + "/storm-worker"
	if raw, err := os.ReadFile("/bin/true"); err != nil {
		t.Skipf("SKIP: needs /bin/true: %v", err)
	} else if err := os.WriteFile(worker, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	burst := fmt.Sprintf("i=0; while [ $i -lt %d ]; do %s; i=$((i+1)); done", perSecond, worker)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var slowest time.Duration
	began := time.Now()
	for second := range seconds {
		done := make(chan error, 1)
		go func() {
			_, err := r.lab.Run(r.ns, exec.CommandContext(t.Context(), "/bin/sh", "-c", burst))
			done <- err
		}()
		if second%5 == 2 {
			marker := fmt.Sprintf("storm-%d", second)
			at := time.Now()
			r.run(t, shell, "-c", "true", marker)
			r.untilFound(t, 15*time.Second, shell, marker)
			slowest = max(slowest, time.Since(at))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
	t.Logf("%d processes in %s", seconds*perSecond, time.Since(began).Round(10*time.Millisecond))
	var d detail
	counted := func() (n uint64) {
		for _, b := range d.Behaviours {
			if b.Kind == "exec" && regexp.MustCompile(`/storm-worker$`).MatchString(b.Object) {
				n += b.Count
			}
		}
		return n
	}
	r.until(t, 20*time.Second, "all counts", func(ctx context.Context) (bool, error) {
		now, err := r.detail(ctx)
		if err == nil {
			d = now
		}
		return counted()+d.Lost >= seconds*perSecond, err
	})
	peak := r.peak(t)
	t.Logf("counted %d, lost %d of %d events %+v, finding at most %s, memory at most %.1f MiB", counted(), d.Lost, d.Total, d.Losses, slowest.Round(time.Millisecond), float64(peak)/(1<<20))
	if counted() > seconds*perSecond || counted()+d.Lost < seconds*perSecond {
		t.Errorf("%d counted and %d lost of %d starts: %+v", counted(), d.Lost, seconds*perSecond, d.Losses)
	}
	if slowest > limit {
		t.Errorf("a finding took %s, want %s", slowest, limit)
	}
	if peak > memory {
		t.Errorf("the sensor took %d bytes, want %d", peak, memory)
	}
}

// peak is the largest resident set that the sensor ever had.
func (r *rig) peak(t *testing.T) uint64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.sensor.PID()))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(raw)
	if m == nil {
		t.Fatal("no VmHWM")
	}
	kib, err := strconv.ParseUint(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
