package kernel

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"

	"github.com/vedette-edr/vedette/bpf"
)

// Ensure that the longest record that a program can write lies in one piece in the
// ring's mapping, also when it begins at the ring's very end.
func TestLongestRecordFits(t *testing.T) {
	spec, err := bpf.LoadVedette()
	if err != nil {
		t.Fatal(err)
	}
	// What a program puts into a record ends with its working space's data.
	for name, last := range map[string]string{"exec_space": "data", "dns_space": "data"} {
		var space *btf.Struct
		if err := spec.Types.TypeByName(name, &space); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, m := range space.Members {
			if m.Name != last {
				continue
			}
			found = true
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			if size += int(m.Offset.Bytes()); size+ringHeader > maxRecord {
				t.Errorf("%s: a record of up to %d bytes and its header do not fit %d", name, size, maxRecord)
			}
		}
		if !found {
			t.Errorf("%s has no %s", name, last)
		}
	}
}

// Ensure that a record which runs over the ring's end is read whole.
func TestRecordsOverTheRingsEnd(t *testing.T) {
	ns := newNetNS(t)
	size := max(16<<10, os.Getpagesize())
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}, CriticalRingBytes: size, BulkRingBytes: size})
	for round := range 12 {
		want := []string{"/bin/true", itoa(round), strings.Repeat("x", 3000)}
		var pid uint32
		ns.do(func() { pid = run(t, exec.Command(want[0], want[1:]...)) })
		got := argv(first(w, "exec "+itoa(round), byPID(pid)))
		if !slices.Equal(got, want) {
			t.Fatalf("round %d: argv %.40q, want %.40q", round, got, want)
		}
	}
	if n := w.malformed.Load(); n > 0 {
		t.Errorf("%d malformed records", n)
	}
}

// Ensure a prompt reader is woken for a burst, then at a steady rate, and that what is
// not spent comes back.
func TestPromptness(t *testing.T) {
	const each = uint64(time.Second / promptRate)
	var p promptness
	now := uint64(time.Hour)
	count := func(n int) (allowed int) {
		for range n {
			if p.allows(now, true) {
				allowed++
			}
		}
		return allowed
	}
	if got := count(2 * promptBurst); got != promptBurst+1 {
		t.Errorf("%d wake-ups at once, want %d", got, promptBurst+1)
	}
	if p.allows(now, false) {
		t.Error("a reader that spent all is prompt")
	}
	now += 10 * each
	if got := count(100); got != 10 {
		t.Errorf("%d wake-ups in the time of 10", got)
	}
	now += 2 * promptBurst * each
	for range 10 {
		if !p.allows(now, false) {
			t.Error("coming for nothing is counted")
		}
	}
	if got := count(2 * promptBurst); got != promptBurst+1 {
		t.Errorf("%d wake-ups at once after a rest, want %d", got, promptBurst+1)
	}
}
