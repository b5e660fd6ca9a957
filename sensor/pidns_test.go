package sensor

import (
	"os"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
)

func TestNameAndStart(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 5 6 7 8 9 10 11 12 20 0 1 0 4711 99 88"
	tests := []struct {
		stat, name string
		start      uint64
		ok         bool
	}{
		{"7 (vedette-sensor)" + rest, "vedette-sensor", 4711, true},
		{"7 (a) b (c)" + rest, "a) b (c", 4711, true},
		{"7 (short) S 1 2", "", 0, false},
		{"7 )(" + rest, "", 0, false},
		{"", "", 0, false},
	}
	for _, tt := range tests {
		name, start, ok := nameAndStart([]byte(tt.stat))
		if name != tt.name || start != tt.start || ok != tt.ok {
			t.Errorf("%q: got %q, %d, %v; want %q, %d, %v", tt.stat, name, start, ok, tt.name, tt.start, tt.ok)
		}
	}
}

// Ensure a sensor knows itself by what the kernel calls it, or not at all.
func TestKernelPID(t *testing.T) {
	raw, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	name, start, _ := nameAndStart(raw)
	task := func(pid uint32, name string, ticks uint64) kernel.Task {
		return kernel.Task{Key: event.ProcessKey{PID: pid, Start: ticks*(1e9/ticksPerSecond) + 4711}, Comm: name}
	}
	self := task(700, name, start)
	others := []kernel.Task{task(701, "other", start), task(702, name, start+1)}
	for what, tt := range map[string]struct {
		running []kernel.Task
		want    uint32
	}{
		"itself":    {append(others, self), 700},
		"absent":    {others, 0},
		"ambiguous": {append(others, self, task(703, name, start)), 0},
	} {
		if got := kernelPID(tt.running); got != tt.want {
			t.Errorf("%s: got %d, want %d", what, got, tt.want)
		}
	}
}
