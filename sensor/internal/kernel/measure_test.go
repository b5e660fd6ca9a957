package kernel

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

var update = flag.Bool("update", false, "write testdata/instructions.json anew")

// cost is what the kernel ran of one Source's programs (bpf_stats, 5.8) for what was
// done in its scope.
type cost map[string]time.Duration

func (c cost) of(programs ...string) (sum time.Duration) {
	for _, name := range programs {
		sum += c[name]
	}
	return sum
}

// measured runs do, which does n things in a namespace, and returns the programs' run
// time per thing. A second Source, whose scope is empty, says what the programs take for
// all that happens elsewhere meanwhile, so that a busy machine is not part of it.
func measured(t testing.TB, w *watch, n int, do func()) cost {
	t.Helper()
	return measuredRuns(t, w, n, func(string) uint64 { return 1 }, do)
}

// measuredRuns is for things in each of which a program runs more than once.
func measuredRuns(t testing.TB, w *watch, n int, runsOf func(program string) uint64, do func()) cost {
	t.Helper()
	empty := newNetNS(t)
	idle := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: empty.path}, KeepKnown: true})
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	before, beforeIdle := runtimes(t, w), runtimes(t, idle)
	do()
	after, afterIdle := runtimes(t, w), runtimes(t, idle)
	out := cost{}
	for name := range after {
		runs, idleRuns := after[name].RunCount-before[name].RunCount, afterIdle[name].RunCount-beforeIdle[name].RunCount
		spent := after[name].Runtime - before[name].Runtime
		if own := uint64(n) * runsOf(name); idleRuns > own && runs > own {
			each := (afterIdle[name].Runtime - beforeIdle[name].Runtime) / time.Duration(idleRuns)
			spent -= each * time.Duration(runs-own)
		}
		out[name] = spent / time.Duration(n)
	}
	return out
}

// measure is the kernel's own account of what one program ran while f did, whoever made
// it run.
func (s *Source) measure(program string, f func()) (time.Duration, error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return 0, fmt.Errorf("enabling program statistics: %w", err)
	}
	defer stats.Close()
	before, err := s.collection.Programs[program].Stats()
	if err != nil {
		return 0, fmt.Errorf("reading statistics of %s: %w", program, err)
	}
	f()
	after, err := s.collection.Programs[program].Stats()
	if err != nil {
		return 0, fmt.Errorf("reading statistics of %s: %w", program, err)
	}
	return after.Runtime - before.Runtime, nil
}

func runtimes(t testing.TB, w *watch) map[string]*ebpf.ProgramStats {
	t.Helper()
	out := map[string]*ebpf.ProgramStats{}
	for name, program := range w.collection.Programs {
		stats, err := program.Stats()
		if err != nil {
			t.Fatal(err)
		}
		out[name] = stats
	}
	return out
}

// measureExec is the cost of an exec of /bin/true n times, known or new.
func measureExec(t testing.TB, n int, known bool) cost {
	t.Helper()
	ns := newNetNS(t)
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}, KeepKnown: true})
	loop := newRunner(t, ns)
	loop.run("/bin/true")
	if known {
		e := first(w, "exec of true", func(e *event.Exec) bool { return strings.HasSuffix(string(e.Path), "/true") })
		if err := w.Know(e.Key); err != nil {
			t.Fatal(err)
		}
	}
	return measured(t, w, n, func() {
		loop.run(fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done", n))
	})
}

// BenchmarkExec prints the kernel's run time of the programs per exec.
func BenchmarkExec(b *testing.B) {
	for _, kind := range []string{"new", "known"} {
		b.Run(kind, func(b *testing.B) {
			c := measureExec(b, max(b.N, 500), kind == "known")
			b.ReportMetric(float64(c.of(bpf.VedetteProgProcessExec).Nanoseconds()), "kernel-ns/exec")
			b.ReportMetric(float64(c.of(processPrograms...).Nanoseconds()), "kernel-ns/fork+exec+exit")
		})
	}
}

// measureConnect is the cost of a TCP connection on loopback n times, from socket to
// close, who connects and who accepts together. A child makes them, because a process is
// seen from its exec on.
func measureConnect(t testing.TB, n int, known bool) cost {
	t.Helper()
	ns := newNetNS(t)
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}, KeepKnown: true})
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=connect-loop")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.do(func() { err = child.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = child.Wait() })
	loop := &runner{t: t, cmd: child, in: in, r: out}
	loop.line("3")
	if known {
		// Both ends, each with a key of its own.
		open := func(events []event.Event) []*event.FlowOpen {
			return filter(events, func(e *event.FlowOpen) bool { return e.Process.PID == uint32(child.Process.Pid) })
		}
		events := w.await("both ends of three connections", func(events []event.Event) bool { return len(open(events)) >= 6 })
		for _, e := range open(events) {
			if err := w.Know(e.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	told := len(w.all())
	each := fewestRuns(t, w, 50, func() { loop.line("50") })
	c := measuredRuns(t, w, n, func(program string) uint64 { return each[program] }, func() { loop.line(itoa(n)) })
	if more := len(w.all()) - told; known && more > n/100+8 {
		t.Errorf("%d events of %d known connections were told", more, n)
	}
	return c
}

// fewestRuns is how often each program runs for each of n things: the least of some
// tries, because what the rest of the machine does only adds.
func fewestRuns(t testing.TB, w *watch, n uint64, do func()) map[string]uint64 {
	t.Helper()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	fewest := map[string]uint64{}
	for try := range 10 {
		before := runtimes(t, w)
		do()
		for name, after := range runtimes(t, w) {
			if runs := (after.RunCount - before[name].RunCount) / n; try == 0 || runs < fewest[name] {
				fewest[name] = runs
			}
		}
	}
	return fewest
}

// BenchmarkConnect prints the kernel's run time of all programs per connection.
func BenchmarkConnect(b *testing.B) {
	for _, kind := range []string{"new", "known"} {
		b.Run(kind, func(b *testing.B) {
			c := measureConnect(b, max(b.N, 2000), kind == "known")
			whole := float64(c.of(slices.Collect(maps.Keys(c))...).Nanoseconds())
			b.ReportMetric(whole, "kernel-ns/connect")
			b.ReportMetric(whole/2, "kernel-ns/side")
			// The hooks for datagrams see each packet of a connection, and let it be.
			b.ReportMetric(float64(c.of(bpf.VedetteProgDatagramIn, bpf.VedetteProgDatagramOut).Nanoseconds()), "kernel-ns/packets")
			b.ReportMetric(float64(c.of(bpf.VedetteProgTcpState).Nanoseconds()), "kernel-ns/states")
		})
	}
}

// BenchmarkSyscall prints what the program at the end of every system call takes for one
// that nothing here looks at.
func BenchmarkSyscall(b *testing.B) {
	const calls = 1 << 20
	s := open(b, Config{KeepKnown: true})
	if s.collection.Programs[bpf.VedetteProgCallEnd] == nil {
		b.Skip("SKIP: needs a program at the end of system calls: nothing that is loaded here asks for one")
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	before := runtimes(b, s)[bpf.VedetteProgCallEnd]
	for range calls {
		unix.Getppid()
	}
	after := runtimes(b, s)[bpf.VedetteProgCallEnd]
	runs := after.RunCount - before.RunCount
	if runs < calls {
		b.Fatalf("the program ran %d times for %d calls", runs, calls)
	}
	// Nearly all system calls of the machine are of no class: the average is one's cost.
	b.ReportMetric(float64((after.Runtime-before.Runtime).Nanoseconds())/float64(runs), "kernel-ns/call")
}

func TestMeasureConnect(t *testing.T) {
	for _, known := range []bool{false, true} {
		if c := measureConnect(t, 200, known); c.of(bpf.VedetteProgTcpState) <= 0 {
			t.Errorf("known %v: cost %v", known, c)
		}
	}
}

func TestMeasureExec(t *testing.T) {
	c := measureExec(t, 50, false)
	if one, all := c.of(bpf.VedetteProgProcessExec), c.of(processPrograms...); one <= 0 || all < one {
		t.Errorf("cost %v", c)
	}
}

// golden is what the verifier of one kernel said.
type golden struct {
	Kernel       string            `json:"kernel"`
	Instructions map[string]uint32 `json:"verified_instructions"`
}

// Ensure that no program grows by more than 5 % unseen. Another kernel's verifier
// counts otherwise, so only the recorded one is compared.
func TestVerifiedInstructions(t *testing.T) {
	needKernel(t)
	const path = "testdata/instructions.json"
	s, err := Open(Config{Watch: DefaultWatch()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := golden{Kernel: s.features.Release, Instructions: map[string]uint32{}}
	programs := maps.Clone(s.collection.Programs)
	maps.Copy(programs, openCut(t, netnstest.New(t)).collection.Programs)
	for name, program := range programs {
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("SKIP: needs a kernel that tells verified instructions (5.16)")
		}
		got.Instructions[name] = n
	}
	if *update {
		text, err := json.MarshalIndent(got, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want golden
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if want.Kernel != got.Kernel {
		t.Skipf("SKIP: needs kernel %s, which the counts were recorded on; this is %s", want.Kernel, got.Kernel)
	}
	for name, n := range got.Instructions {
		if limit := want.Instructions[name] * 105 / 100; n > limit {
			t.Errorf("%s: %d verified instructions, recorded %d: explain the growth and run with -update", name, n, want.Instructions[name])
		}
	}
}
