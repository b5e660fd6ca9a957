package isolation

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

const (
	restFor  = 5 * time.Second
	restMost = 2 // % of a core, a sensor's whole budget
	// ticksPerSecond is USER_HZ, which is the same on every architecture that Go knows.
	ticksPerSecond = 100
)

// TestIsolatedAtRest prints what a host pays for being isolated while nothing happens.
func TestIsolatedAtRest(t *testing.T) {
	if !bothLayers() {
		t.Skip("SKIP: needs both layers: make isolation")
	}
	host, _ := netnstest.Pair(t)
	openBarrier(t, host) // skips where there is no egress hook
	k := startWhole(t, host, testSpec(), t.TempDir())
	wait := func() { <-time.After(restFor) }
	wait()
	before := processorTicks(t, k.cmd.Process.Pid)
	wait()
	used := float64(processorTicks(t, k.cmd.Process.Pid)-before) / ticksPerSecond / restFor.Seconds() * 100
	line, err := json.Marshal(measured{
		Path: "isolated and at rest, processor", Phase: "apply", Unit: "%", Value: used, Most: restMost,
		Note: fmt.Sprintf("of one core, by the kernel's account over %v", restFor),
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s%s\n", measureMark, line)
}

// processorTicks is what a process has used so far.
func processorTicks(t *testing.T, pid int) (ticks uint64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, field := range fields[11:13] { // utime, stime
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks
}
