package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The main thread stays with TestMain: where it is, is where the kernel says that
// this process is, and a sensor that starts while a test has just entered the
// watched namespace on it would take the test for a process in its scope.
func init() { runtime.LockOSThread() }

// stop ends the sensor as systemd would.
func (r *rig) stop(t *testing.T) {
	t.Helper()
	if err := r.sensor.Stop(); err != nil {
		t.Fatal(err)
	}
}

// again starts the sensor that was stopped, and waits until it watches (not
// until it reports: there may be nobody to report to).
func (r *rig) again(t *testing.T) {
	t.Helper()
	before := r.logged(t, "sensor runs")
	var err error
	if r.sensor, err = r.cluster.StartSensor(t.Context(), r.spec); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("the sensor said:\n%s", r.sensor.Tail())
		}
	}()
	r.until(t, 20*time.Second, "the sensor to watch", func(context.Context) (bool, error) {
		select {
		case <-r.sensor.Exited():
			t.Fatalf("the sensor ended:\n%s", r.sensor.Tail())
		default:
		}
		return r.logged(t, "sensor runs") > before, nil
	})
}

// logged is how many lines of the sensor's log hold all of these.
func (r *rig) logged(t *testing.T, parts ...string) (lines int) {
	t.Helper()
	for _, line := range strings.Split(r.log(t), "\n") {
		holds := true
		for _, part := range parts {
			holds = holds && strings.Contains(line, part)
		}
		if holds {
			lines++
		}
	}
	return lines
}

func (r *rig) log(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.lab.Dir, "logs", "sensor-"+r.spec.Name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// state is a path in the sensor's state folder.
func (r *rig) state(parts ...string) string {
	return filepath.Join(append([]string{r.lab.StateDir(r.spec.Name)}, parts...)...)
}

// run runs a program in the watched namespace.
func (r *rig) run(t *testing.T, program string, args ...string) {
	t.Helper()
	if _, err := r.lab.Run(r.ns, exec.CommandContext(t.Context(), program, args...)); err != nil {
		t.Fatal(err)
	}
}

// detail is what "vedette host show" adds.
type detail struct {
	Host
	Losses []struct {
		Where string `json:"where"`
		Cause string `json:"cause"`
		Count uint64 `json:"count"`
	} `json:"losses"`
	Health struct {
		Records uint64 `json:"spool_records"`
		RSS     uint64 `json:"rss_bytes"`
	} `json:"health"`
	Behaviours []struct {
		Kind   string `json:"kind"`
		Object string `json:"object"`
		Count  uint64 `json:"count"`
	} `json:"behaviours"`
}

func (r *rig) detail(ctx context.Context) (d detail, err error) {
	err = r.cluster.JSON(ctx, &d, "host", "show", r.spec.Name)
	return d, err
}

// lost is what the coordinator shows as lost for this reason.
func (d detail) lost(where, cause string) (count uint64) {
	for _, l := range d.Losses {
		if l.Where == where && strings.HasPrefix(l.Cause, cause) {
			count += l.Count
		}
	}
	return count
}

// execs is how often the coordinator was told that a copied shell was run. In a
// behaviour's name numbers are stars: it is the same on every host.
func (d detail) execs(shell string) (count uint64) {
	_, name, _ := strings.Cut(strings.TrimPrefix(shell, "/dev/shm/vlab-"), "-")
	for _, b := range d.Behaviours {
		if b.Kind == "exec" && b.Object == "/dev/shm/vlab-*-"+name {
			count += b.Count
		}
	}
	return count
}

// untilFound waits until image has findings whose arguments hold these markers, and
// returns how often each was told.
func (r *rig) untilFound(t *testing.T, most time.Duration, image string, markers ...string) map[string]int {
	t.Helper()
	times := map[string]int{}
	defer func() {
		if t.Failed() {
			t.Logf("told: %v\n%s", times, r.log(t))
		}
	}()
	r.until(t, most, fmt.Sprintf("findings of %q", markers), func(ctx context.Context) (bool, error) {
		all, err := r.found(ctx, image)
		if err != nil {
			return false, err
		}
		clear(times)
		for _, f := range all {
			for _, arg := range f.Process.Argv {
				times[arg]++
			}
		}
		for _, m := range markers {
			if times[m] == 0 {
				return false, err
			}
		}
		return true, err
	})
	return times
}

// spooled tells whether the sensor's spool has these bytes on disk.
func (r *rig) spooled(t *testing.T, marker string) bool {
	t.Helper()
	files, err := filepath.Glob(r.state("spool", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil && bytes.Contains(raw, []byte(marker)) {
			return true
		}
	}
	return false
}
