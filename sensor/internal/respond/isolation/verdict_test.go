package isolation

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// roundsVariable makes a keeper of keeperProgram isolate for each line that it is sent.
const roundsVariable = "VEDETTE_TEST_KEEPER_ROUNDS"

const (
	verdictRounds = 100 // of some 0.2 s
	// verdictPace is how often each path sends: the senders and the isolation share the
	// processors.
	verdictPace = 5 * time.Millisecond
	// verdictSettle is how long after the isolation is whole its paths are looked at.
	verdictSettle = 30 * time.Millisecond
	allPathsMost  = 50 // ms
)

// TestAllPathsCut prints how long it takes from a verdict on the host until the last packet
// has left on any path, and until the isolation is whole: table, lease on disk, senders of
// AF_XDP stopped, and proved by a probe on each device. The verdict is a line on the
// keeper's standard input. A packet counts from when a reader here gets it, so that the
// figure is never too good.
func TestAllPathsCut(t *testing.T) {
	if !bothLayers() {
		t.Skip("SKIP: needs both layers: make isolation")
	}
	host, peer := netnstest.New(t), netnstest.New(t)
	openBarrier(t, host) // skips where there is no egress hook
	netnstest.Join(t, host, peer)
	r := newRig(t, host, peer, false)
	r.flood.pace = verdictPace
	// What comes in to a sniffer is counted in a device of the host; what the rings of
	// AF_XDP hold is limited: its sender is stopped before the isolation is whole.
	r.flood.paths = slices.DeleteFunc(r.flood.paths, func(f *flow) bool { return f.limit > 0 })
	k := start(t, host, testSpec(), os.Getenv(keeperProgram), t.TempDir(), roundsVariable+"=1")
	r.flood.start()
	r.flood.during(phaseBefore, slow.Deadline(time.Second))
	var last, whole []float64
	worst := ""
	for range verdictRounds {
		for _, f := range r.flood.paths {
			f.lastArrived.Store(0)
		}
		began := time.Now()
		k.tell(t)
		k.next(t)
		whole = append(whole, time.Since(began).Seconds()*1e3)
		r.flood.during(phaseBefore, verdictSettle)
		slowest := 0.0
		for _, f := range r.flood.paths {
			if at := f.lastArrived.Load(); at != 0 {
				if took := time.Duration(at-began.UnixNano()).Seconds() * 1e3; took > slowest {
					slowest = took
					if len(last) == 0 || slowest > slices.Max(last) {
						worst = f.name
					}
				}
			}
		}
		last = append(last, slowest)
		k.tell(t)
		k.next(t)
		r.flood.during(phaseBefore, verdictSettle)
	}
	r.flood.stop()
	for _, row := range []struct {
		path   string
		values []float64
		most   float64
		note   string
	}{
		{"verdict → last packet out on any path, p99", last, allPathsMost, fmt.Sprintf("slowest: %s", worst)},
		{"verdict → isolation whole and proved, p99", whole, 0, "lease on disk, table, AF_XDP senders stopped, a probe on each device"},
	} {
		slices.Sort(row.values)
		line, err := json.Marshal(measured{
			Path: row.path, Phase: "apply", Unit: "ms", Value: percentile(row.values, 99), Most: row.most,
			Note: fmt.Sprintf("p50 %.1f, worst %.1f, %d rounds, %d paths, one packet each %v; %s",
				percentile(row.values, 50), row.values[len(row.values)-1], len(row.values), len(r.flood.paths), verdictPace, row.note),
		})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s%s\n", measureMark, line)
	}
}

func percentile(sorted []float64, p float64) float64 {
	return sorted[max(0, int(math.Ceil(p/100*float64(len(sorted))))-1)]
}

// tell sends a keeper a line.
func (k *keeper) tell(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(k.input, "\n"); err != nil {
		t.Fatalf("telling the keeper: %v", err)
	}
}
