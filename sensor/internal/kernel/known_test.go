package kernel

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// openKnowing is a Source of one namespace that keeps back what it is told is known.
func openKnowing(t *testing.T, ns *netNS) *watch {
	t.Helper()
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}, KeepKnown: true})
	ns.do(func() { // the thread's own process is in the table under its leader
		if _, err := w.Tasks(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// harvested sums what Harvest hands out, by key.
func harvested(t *testing.T, w *watch, sum map[uint64]uint64) {
	t.Helper()
	if err := w.Harvest(func(key, count, _ uint64) { sum[key] += count }, func(uint64) {}); err != nil {
		t.Fatal(err)
	}
}

func execsOf(events []event.Event, name string) []*event.Exec {
	return filter(events, func(e *event.Exec) bool { return strings.HasSuffix(string(e.Path), "/"+name) })
}

// runner is a program in the namespace that runs a shell's lines and says when each ended.
type runner struct {
	t   testing.TB
	cmd *exec.Cmd
	in  interface{ Write([]byte) (int, error) }
	r   interface{ Read([]byte) (int, error) }
}

func newRunner(t testing.TB, ns *netNS) *runner {
	t.Helper()
	cmd := exec.Command("/bin/sh")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &runner{t: t, cmd: cmd, in: in, r: out}
}

func (r *runner) run(line string) {
	r.t.Helper()
	r.line(line + "\necho .")
}

// line is for a program that answers each line by itself.
func (r *runner) line(line string) {
	r.t.Helper()
	if _, err := r.in.Write([]byte(line + "\n")); err != nil {
		r.t.Fatal(err)
	}
	var one [1]byte
	for one[0] != '\n' {
		if _, err := r.r.Read(one[:]); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Ensure that what is known stays in the kernel, that its count is exact, and that the
// forks and ends of such processes stay with it.
func TestKnownStaysInTheKernel(t *testing.T) {
	ns := newNetNS(t)
	w := openKnowing(t, ns)
	sh := newRunner(t, ns)
	sh.run("/bin/true")
	first := first(w, "exec of true", func(e *event.Exec) bool { return strings.HasSuffix(string(e.Path), "/true") })
	if first.Key == 0 {
		t.Fatal("an ordinary exec has no key")
	}
	sh.run("/bin/true")
	w.await("the second", func(events []event.Event) bool { return len(execsOf(events, "true")) == 2 })
	if again := execsOf(w.all(), "true")[1]; again.Key != first.Key || again.ArgvHash != first.ArgvHash {
		t.Fatalf("the same exec has keys %x and %x", first.Key, again.Key)
	}
	if err := w.Know(first.Key); err != nil {
		t.Fatal(err)
	}
	const rounds = 500
	total, kept := w.Counters()
	sh.run("i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done")
	sh.run("/bin/true one more")
	shell := uint32(sh.cmd.Process.Pid)
	events := w.await("another exec", func(events []event.Event) bool { return len(execsOf(events, "true")) == 3 })
	pids := map[uint32]bool{}
	for _, e := range execsOf(events, "true") {
		pids[e.Process.PID] = true
	}
	for _, e := range events {
		if f, is := e.(*event.Fork); is && f.Process.PID == shell {
			t.Errorf("fork of %d was told", f.Child.PID)
		}
		if x, is := e.(*event.Exit); is && x.Parent.PID == shell && !pids[x.Process.PID] {
			t.Errorf("end of %d was told, and nothing else of it", x.Process.PID)
		}
	}
	sum := map[uint64]uint64{}
	harvested(t, w, sum)
	if sum[first.Key] != rounds || len(sum) != 1 {
		t.Errorf("harvested %v, want %d of %x", sum, rounds, first.Key)
	}
	total2, kept2 := w.Counters()
	// A fork, an exec and an end of each, and the fork of the one that was told.
	if kept2-kept < 3*rounds || total2-total < 3*rounds {
		t.Errorf("%d kept back of %d, want %d", kept2-kept, total2-total, 3*rounds)
	}
}

// Ensure that no count is lost or told twice while keys are taken out and harvested.
func TestCountsAreExactOverEviction(t *testing.T) {
	ns := newNetNS(t)
	w := openKnowing(t, ns)
	sh := newRunner(t, ns)
	sh.run("/bin/true")
	key := first(w, "exec of true", func(e *event.Exec) bool { return strings.HasSuffix(string(e.Path), "/true") }).Key
	const rounds = 600
	done := make(chan struct{})
	go func() {
		defer close(done)
		sh.run("i=0; while [ $i -lt 600 ]; do /bin/true; i=$((i+1)); done")
	}()
	sum := map[uint64]uint64{}
	for alive := true; alive; {
		if err := w.Know(key); err != nil {
			t.Fatal(err)
		}
		harvested(t, w, sum)
		if err := w.Unknow(key); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			alive = false
		default:
		}
	}
	if err := w.Detach(); err != nil {
		t.Fatal(err)
	}
	// What was taken out is told after its grace.
	for deadline := time.Now().Add(patience); len(w.known.retiring) > 0 && time.Now().Before(deadline); runtime.Gosched() {
		harvested(t, w, sum)
	}
	w.await("the rest", func(events []event.Event) bool { return len(execsOf(events, "true"))-1+int(sum[key]) >= rounds })
	told := len(execsOf(w.all(), "true")) - 1
	if told+int(sum[key]) != rounds || sum[key] == 0 || told == 0 {
		t.Errorf("%d told and %d counted, want %d in all and some of each", told, sum[key], rounds)
	}
}

// Ensure that a process whose exec was kept back is introduced, with its ancestors,
// before the first thing that is told of it, also when they ended before.
func TestIntroduction(t *testing.T) {
	ns := newNetNS(t)
	w := openKnowing(t, ns)
	sh := newRunner(t, ns)
	// Twice the same line of processes, sh → sh -c → a subshell that becomes cat; the
	// second time all but the last exec are known, and the shell has ended before it.
	line := `/bin/sh -c '( sleep 0.2; /bin/cat /dev/null ) & exit 0'`
	sh.run(line)
	w.await("cat", func(events []event.Event) bool { return len(execsOf(events, "cat")) == 1 })
	// All but cat, sleep too: until cat runs nothing of the second line is told, and by
	// then the shell has ended.
	for _, e := range filter(w.all(), func(e *event.Exec) bool { return e.Key != 0 && !strings.HasSuffix(string(e.Path), "/cat") }) {
		if err := w.Know(e.Key); err != nil {
			t.Fatal(err)
		}
	}
	before := len(w.all())
	sh.run(line)
	events := w.await("cat again", func(events []event.Event) bool { return len(execsOf(events, "cat")) == 2 })[before:]
	cat := execsOf(events, "cat")[0]
	introduced := map[event.ProcessKey]*event.Introduction{}
	for _, e := range events {
		if e == event.Event(cat) {
			break
		}
		if i, is := e.(*event.Introduction); is {
			introduced[i.Process] = i
		}
	}
	self := introduced[cat.Process]
	if self == nil {
		t.Fatalf("the subshell that became cat was not introduced before: %d introductions", len(introduced))
	}
	if cat.Parent == self.Parent {
		t.Error("the shell lives on: nothing was tried")
	}
	shell := introduced[self.Parent]
	if shell == nil {
		t.Fatal("the shell that ended before was not introduced")
	}
	if shell.ExecKey == 0 || self.ExecKey != 0 {
		t.Errorf("exec keys %x, %x: want only the shell's", shell.ExecKey, self.ExecKey)
	}
	if int(shell.Parent.PID) != sh.cmd.Process.Pid {
		t.Errorf("the line ends at %d, want %d", shell.Parent.PID, sh.cmd.Process.Pid)
	}
}

// Ensure that a marked process, and what came of it untold, tells everything.
func TestTaint(t *testing.T) {
	ns := newNetNS(t)
	w := openKnowing(t, ns)
	sh := newRunner(t, ns)
	sh.run("/bin/true")
	e := first(w, "exec of true", func(e *event.Exec) bool { return strings.HasSuffix(string(e.Path), "/true") })
	if err := w.Know(e.Key); err != nil {
		t.Fatal(err)
	}
	sh.run("/bin/true")
	sh.run("( read x < /dev/zero; : ) & echo > /dev/null") // a child that lives while the mark is set
	if err := w.Taint(e.Parent); err != nil {
		t.Fatal(err)
	}
	sh.run("/bin/true; kill $!")
	w.await("exec of a tainted process's child", func(events []event.Event) bool { return len(execsOf(events, "true")) == 2 })
	sum := map[uint64]uint64{}
	harvested(t, w, sum)
	if sum[e.Key] != 1 {
		t.Errorf("counted %d, want the one before the mark", sum[e.Key])
	}
}

// Ensure that known connections are kept back from the opening to the end, and told
// when they carry much.
func TestKnownFlows(t *testing.T) {
	ns := newNetNS(t)
	w := openKnowing(t, ns)
	var listener net.Listener
	var err error
	ns.do(func() { listener, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 1<<16)
			for {
				if _, err := c.Read(buf); err != nil {
					break
				}
			}
			_ = c.Close()
		}
	}()
	var dialer []uint32
	dial := func(n int) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=dial", "VEDETTE_TEST_PEER="+listener.Addr().String(), "VEDETTE_TEST_BYTES="+itoa(n))
		ns.do(func() { dialer = append(dialer, run(t, cmd)) })
	}
	outbound := func(e *event.FlowOpen) bool { return slices.Contains(dialer, e.Process.PID) && e.Dir == event.Outbound }
	dial(1)
	open := first(w, "a connection", outbound)
	if open.Key == 0 {
		t.Fatal("an ordinary connection has no key")
	}
	if err := w.Know(open.Key); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		dial(1)
	}
	dial(20 << 20)
	large := first(w, "the large one's end", func(e *event.FlowClose) bool { return e.Known })
	if large.BytesOut < 20<<20 {
		t.Errorf("told %d bytes", large.BytesOut)
	}
	if n := len(filter(w.all(), outbound)); n != 1 {
		t.Errorf("%d openings were told, want the first", n)
	}
	sum := map[uint64]uint64{}
	harvested(t, w, sum)
	if sum[open.Key] != 21 {
		t.Errorf("counted %d, want 21", sum[open.Key])
	}
}

// Ensure that keys that want one place give way to each other, the longest unseen first,
// and that no count is lost or taken for another's over it.
func TestKnownPlaces(t *testing.T) {
	const sets = 8
	counts := make([]knownCount, sets*knownWays)
	table := &knownTable{counts: counts, index: map[uint64]uint32{}, places: map[uint32]knownPlace{}}
	// All of sets 3 and 5.
	key := func(n int) uint64 { return uint64(n*sets+5)<<32 | uint64(n*sets+3) }
	for n := range 2 * knownWays {
		if err := table.put(key(n)); err != nil {
			t.Fatalf("key %d: %v", n, err)
		}
	}
	inSet := map[uint32]int{}
	for n := range 2 * knownWays {
		inSet[table.index[key(n)]/knownWays]++
	}
	if inSet[3] != knownWays || inSet[5] != knownWays {
		t.Fatalf("keys by set: %v, want both of theirs full", inSet)
	}
	seen := func(n int, times, last uint32) {
		c := &counts[table.index[key(n)]]
		c.count += times
		c.last = last
	}
	for n := range 2 * knownWays {
		seen(n, uint32(n+1), uint32(100-n)) // the last of them the longest unseen
	}
	const late, oldest = 2 * knownWays, 2*knownWays - 1
	if err := table.put(key(late)); !errors.Is(err, ErrKnownFull) {
		t.Fatalf("a ninth key: %v", err)
	}
	now := time.Now()
	held := table.index[key(oldest)]
	table.yield(key(late), now)
	table.yield(key(late), now) // asked again before the place is free: nobody else goes
	if _, is := table.index[key(oldest)]; is || len(table.index) != 2*knownWays-1 {
		t.Fatalf("the longest unseen stays, or others went: %d left", len(table.index))
	}
	sum, gone := map[uint64]uint64{}, []uint64(nil)
	harvest := func(at time.Time) {
		table.harvest(at, func(key, count, _ uint64) { sum[key] += count }, func(key uint64) { gone = append(gone, key) })
	}
	harvest(now)
	counts[held].count++ // by a program that had found it before
	if err := table.put(key(late)); !errors.Is(err, ErrKnownFull) || len(gone) > 0 {
		t.Fatalf("within the grace: %v, gone are %x", err, gone)
	}
	harvest(now.Add(knownGrace))
	if sum[key(oldest)] != oldest+2 || !slices.Equal(gone, []uint64{key(oldest)}) {
		t.Errorf("of who went %d were counted, gone are %x; want %d and it alone", sum[key(oldest)], gone, oldest+2)
	}
	if err := table.put(key(late)); err != nil {
		t.Fatalf("after the grace: %v", err)
	}
	counts[held].count = 1<<32 - 1
	table.places[held] = knownPlace{key: key(late), told: 1<<32 - 1}
	counts[held].count += 3 // turns over
	harvest(now.Add(knownGrace))
	if sum[key(late)] != 3 {
		t.Errorf("of who came %d were counted, want 3 alone", sum[key(late)])
	}
}

// Ensure that keys that somebody else put in or took out are found and put right.
func TestKnownIsChecked(t *testing.T) {
	needKernel(t)
	// The reader's own look, every five seconds, would put it right before this test's.
	w := openWith(t, Config{KeepKnown: true}, func(s *Source) { s.guard.next = 1<<64 - 1 })
	for _, key := range []uint64{1, 2, 3} {
		if err := w.Know(key); err != nil {
			t.Fatal(err)
		}
	}
	if wrong, err := w.checkKnown(); err != nil || wrong != 0 {
		t.Fatalf("untouched: %d wrong, %v", wrong, err)
	}
	// As root does it, by whole sets; each key lies in the set of its low half.
	table := w.collection.Maps[bpf.VedetteMapKnown]
	if err := table.Put(uint32(9), [knownWays]knownCount{{key: 77}}); err != nil {
		t.Fatal(err)
	}
	if err := table.Put(uint32(2), [knownWays]knownCount{}); err != nil {
		t.Fatal(err)
	}
	if wrong, err := w.checkKnown(); err != nil || wrong != 2 {
		t.Fatalf("one put in and one taken out: %d wrong, %v", wrong, err)
	}
	if wrong, err := w.checkKnown(); err != nil || wrong != 0 {
		t.Fatalf("after it was put right: %d wrong, %v", wrong, err)
	}
}
