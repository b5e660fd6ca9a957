package enrich

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const second = uint64(1e9)

// machine makes events with PIDs that no real process has.
type machine struct {
	*Enricher
	now uint64
}

func newMachine(t testing.TB, change ...func(*Config)) *machine {
	t.Helper()
	m := &machine{now: 1000 * second}
	cfg := Config{Boottime: func() uint64 { return m.now }}
	for _, c := range change {
		c(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Enricher = e
	return m
}

// key is a process that is not in /proc: PIDs end at 2^22.
func key(n uint32) event.ProcessKey {
	return event.ProcessKey{PID: 1<<22 + n, Start: uint64(n) * second}
}

func (m *machine) head(process, parent event.ProcessKey) event.Header {
	m.now += 1e6
	return event.Header{Time: m.now, Process: process, Parent: parent, UID: 0}
}

func (m *machine) fork(parent, child event.ProcessKey) {
	m.Observe(&event.Fork{Header: m.head(parent, event.ProcessKey{}), Child: child})
}

func (m *machine) exec(process, parent event.ProcessKey, path string, argv ...string) *event.Observation {
	ev := &event.Exec{Header: m.head(process, parent), Path: []byte(path), Filename: []byte(path), LoginUID: 1<<32 - 1}
	ev.Image = event.ImageID{Inode: 0, NLink: 1}
	for _, a := range argv {
		ev.Argv = append(ev.Argv, []byte(a))
	}
	return m.Observe(ev)
}

func (m *machine) exit(process event.ProcessKey) {
	m.Observe(&event.Exit{Header: m.head(process, event.ProcessKey{})})
}

func (m *machine) accept(process event.ProcessKey, remote string, at uint64) *event.Observation {
	h := m.head(process, event.ProcessKey{})
	if at != 0 {
		h.Time = at
	}
	return m.Observe(&event.FlowOpen{
		Header: h, Flow: event.FlowID{Cookie: h.Time}, Proto: 6, Dir: event.Inbound,
		Local: netip.MustParseAddrPort("10.0.0.1:22"), Remote: netip.MustParseAddrPort(remote),
	})
}

func images(p *event.Process) string {
	out := []string{p.Image}
	for _, a := range p.Ancestors(100) {
		out = append(out, a.Image)
	}
	return strings.Join(out, " < ")
}

// Ensure findings have their ancestors when those have ended.
func TestTree(t *testing.T) {
	m := newMachine(t)
	m.Seed([]Task{{Key: key(1), Comm: "init", InScope: true}, {Key: key(2), Parent: key(1), Comm: "sshd", InScope: true}})
	m.fork(key(2), key(3))
	o := m.exec(key(3), key(2), "/bin/bash", "bash", "-c", "x")
	if o.Before == nil || o.Before.Image != "sshd" || o.Process.Image != "/bin/bash" || len(o.Process.Argv) != 3 {
		t.Errorf("exec: got %+v after %+v", o.Process, o.Before)
	}
	m.fork(key(3), key(4))
	m.exit(key(3))
	o = m.exec(key(4), key(3), "/bin/ls", "ls")
	if got, want := images(o.Process), "/bin/ls < /bin/bash < sshd < init"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if p := m.Process(key(3)); p == nil || !p.Exited {
		t.Errorf("the ended parent: got %+v", p)
	}
	// An exec of a process that was never seen.
	o = m.exec(key(9), key(4), "/bin/cat", "cat")
	if got, want := images(o.Process), "/bin/cat < /bin/ls < /bin/bash < sshd < init"; got != want || o.Before == nil || o.Before.Image != "/bin/ls" {
		t.Errorf("never seen: got %s, want %s", got, want)
	}
	// A parent that ended before anything was seen of it says so.
	o = m.exec(key(20), key(19), "/bin/true", "true")
	if p := o.Process.Parent; p == nil || p.Key != key(19) || !slices.Contains(p.Traits, event.TraitUnseen) {
		t.Errorf("unseen parent: got %+v", p)
	}
	if slices.Contains(o.Process.Traits, event.TraitUnseen) || slices.Contains(o.Before.Traits, event.TraitUnseen) {
		t.Error("the child itself was seen")
	}
	// The kernel is somebody, too.
	if o := m.accept(event.ProcessKey{}, "10.0.0.9:1", 0); o.Process == nil || o.Process.Image != "kernel" {
		t.Errorf("no process: got %+v", o.Process)
	}
}

// Ensure a PID's next owner is another process.
func TestPIDReuse(t *testing.T) {
	m := newMachine(t)
	old := event.ProcessKey{PID: 1<<22 + 5, Start: 1}
	young := event.ProcessKey{PID: 1<<22 + 5, Start: 2}
	m.exec(old, event.ProcessKey{}, "/bin/old")
	m.exec(young, event.ProcessKey{}, "/bin/young")
	if p := m.Process(old); p == nil || p.Image != "/bin/old" || !p.Exited {
		t.Errorf("old: got %+v", p)
	}
	if p := m.Process(young); p == nil || p.Image != "/bin/young" || p.Exited {
		t.Errorf("young: got %+v", p)
	}
}

// Ensure memory is bounded and ancestors outlive the bounds.
func TestBounds(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.MaxExited, c.MaxProcesses = 50, 100 })
	m.exec(key(1), event.ProcessKey{}, "/bin/init")
	for i := uint32(2); i < 2000; i++ { // each forks the next and ends
		m.fork(key(i-1), key(i))
		m.exit(key(i - 1))
	}
	s := m.Stats()
	if s.Exited > 50 || s.Living > 100 {
		t.Errorf("stats %+v", s)
	}
	p := m.Process(key(1999))
	depth := len(p.Ancestors(10000))
	if depth < keepDepth || depth > maxDepth+1 {
		t.Errorf("%d ancestors", depth)
	}
	for i := uint32(3000); i < 3500; i++ {
		m.fork(key(1999), key(i))
	}
	if s := m.Stats(); s.Living > 100 || s.EvictedLiving < 400 {
		t.Errorf("a fork bomb: stats %+v", s)
	}
	// Ten minutes later the ended ones are gone.
	m = newMachine(t)
	m.exec(key(1), event.ProcessKey{}, "/bin/init")
	m.fork(key(1), key(2))
	m.exit(key(2))
	m.now += 11 * 60 * second
	m.fork(key(1), key(3))
	m.exit(key(3))
	if m.Process(key(2)) != nil || m.Process(key(3)) == nil {
		t.Error("ended processes are kept too long, or too short")
	}
}

// Ensure sessions belong to the connection that brought them, in either order of the rings.
func TestOrigin(t *testing.T) {
	m := newMachine(t)
	m.Seed([]Task{{Key: event.ProcessKey{PID: 1, Start: 1}, Comm: "init", InScope: true}})
	sshd := key(10)
	m.exec(sshd, event.ProcessKey{PID: 1, Start: 1}, "/usr/sbin/sshd")
	m.accept(sshd, "10.0.0.5:1111", 0)
	m.accept(sshd, "10.0.0.6:2222", 0)
	m.fork(sshd, key(11))
	m.fork(sshd, key(12))
	m.fork(sshd, key(13)) // for nobody
	m.fork(key(12), key(14))
	o := m.exec(key(14), key(12), "/bin/bash")
	for n, want := range map[uint32]string{11: "10.0.0.5:1111", 12: "10.0.0.6:2222", 14: "10.0.0.6:2222", 13: ""} {
		p := m.Process(key(n))
		got := ""
		if p.Origin != nil {
			got = p.Origin.Remote.String()
		}
		if got != want {
			t.Errorf("process %d: origin %q, want %q", n, got, want)
		}
	}
	if o.Process.Anchor != key(12) || m.Process(key(13)).Anchor != sshd || m.Process(sshd).Anchor != sshd {
		t.Errorf("anchors: %v, %v, %v", o.Process.Anchor, m.Process(key(13)).Anchor, m.Process(sshd).Anchor)
	}

	// The fork and even the shell are read before the accept.
	m = newMachine(t)
	m.exec(sshd, event.ProcessKey{}, "/usr/sbin/sshd")
	at := m.now + 1
	m.fork(sshd, key(11))
	m.exec(key(11), sshd, "/usr/sbin/sshd-session")
	m.fork(key(11), key(12))
	m.exec(key(12), key(11), "/bin/bash")
	m.accept(sshd, "10.0.0.7:3333", at)
	for _, n := range []uint32{11, 12} {
		p := m.Process(key(n))
		if p.Origin == nil || p.Origin.Remote.String() != "10.0.0.7:3333" || p.Anchor != key(11) {
			t.Errorf("late accept, process %d: origin %v, anchor %v", n, p.Origin, p.Anchor)
		}
	}
	if up := m.Process(key(12)).Parent; up.Anchor != key(11) || up.Image != "/usr/sbin/sshd-session" || up.Parent.Image != "/usr/sbin/sshd" {
		t.Errorf("late accept, chain: %s", images(m.Process(key(12))))
	}
	// Long after, a fork has nothing to do with the connection.
	m.accept(sshd, "10.0.0.8:4444", 0)
	m.now += 60 * second
	m.fork(sshd, key(15))
	if p := m.Process(key(15)); p.Origin != nil {
		t.Errorf("a minute later: origin %v", p.Origin)
	}
	// A server that becomes the shell.
	m.exec(key(30), event.ProcessKey{}, "/bin/nc")
	m.accept(key(30), "10.0.0.9:5555", 0)
	if o := m.exec(key(30), event.ProcessKey{}, "/bin/sh"); o.Process.Origin == nil {
		t.Error("nc -e: no origin")
	}
}

// Ensure addresses carry the name that was asked for, as long as it holds.
func TestNames(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.MaxNames = 100 })
	a, b := key(1), key(2)
	m.exec(a, event.ProcessKey{}, "/bin/a")
	m.exec(b, event.ProcessKey{}, "/bin/b")
	answer := func(who event.ProcessKey, name string, ttl time.Duration, addrs ...string) {
		ev := &event.DNS{Header: m.head(who, event.ProcessKey{}), Response: true, Name: name, CNAMEs: []string{"edge.cdn.example"}, TTL: ttl}
		for _, addr := range addrs {
			ev.Addrs = append(ev.Addrs, netip.MustParseAddr(addr))
		}
		m.Observe(ev)
	}
	connect := func(who event.ProcessKey, remote string) string {
		o := m.Observe(&event.FlowOpen{Header: m.head(who, event.ProcessKey{}), Flow: event.FlowID{Cookie: m.now}, Proto: 6, Remote: netip.MustParseAddrPort(remote)})
		return o.Flow.Name
	}
	answer(a, "one.example", 60*time.Second, "192.0.2.1", "2001:db8::1")
	answer(b, "two.example", 60*time.Second, "192.0.2.1")
	for _, tt := range []struct {
		who          event.ProcessKey
		remote, want string
	}{
		{a, "192.0.2.1:443", "one.example"},
		{b, "192.0.2.1:443", "two.example"},
		{key(3), "192.0.2.1:443", "two.example"},
		{b, "[2001:db8::1]:443", "one.example"},
		{b, "[::ffff:192.0.2.1]:443", "two.example"},
		{b, "192.0.2.9:443", ""},
	} {
		if got := connect(tt.who, tt.remote); got != tt.want {
			t.Errorf("%v to %s: got %q, want %q", tt.who, tt.remote, got, tt.want)
		}
	}
	m.now += 4 * 60 * second
	if got := connect(a, "192.0.2.1:443"); got != "" {
		t.Errorf("after its time: got %q", got)
	}
	for i := range 1000 {
		answer(a, "x.example", time.Hour, fmt.Sprintf("10.1.%d.%d", i/250, i%250))
	}
	if s := m.Stats(); s.Names > 100 {
		t.Errorf("%d names", s.Names)
	}
	// A flow's name stays with it to its end.
	answer(a, "long.example", time.Second, "192.0.2.50")
	connect(a, "192.0.2.50:443")
	id := event.FlowID{Cookie: m.now}
	m.now += 3600 * second
	o := m.Observe(&event.FlowClose{Header: m.head(a, event.ProcessKey{}), Flow: id, Remote: netip.MustParseAddrPort("192.0.2.50:443"), BytesIn: 7})
	if o.Flow.Name != "long.example" || o.Flow.BytesIn != 7 {
		t.Errorf("close: got %+v", o.Flow)
	}
}

// start runs a real program until the test ends.
func start(t *testing.T, path string, argv ...string) (*exec.Cmd, event.ProcessKey) {
	t.Helper()
	cmd := exec.Command(path, argv...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pid := uint32(cmd.Process.Pid) //nolint:gosec // a PID
	deadline := time.Now().Add(slow.Deadline(5 * time.Second))
	for {
		// The exec is over when /proc shows the new command line.
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(raw), path+"\x00") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the program did not start")
		}
	}
	st, ok := readStat("/proc", pid)
	if !ok {
		t.Fatal("no stat")
	}
	return cmd, event.ProcessKey{PID: pid, Start: st.startNanos() + 3}
}

// Ensure what runs at the start is known from /proc, up to PID 1.
func TestSeedReal(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("SKIP: needs sleep")
	}
	m := newMachine(t, func(c *Config) { c.Boottime = nil })
	_, k := start(t, sleep, "300")
	self := uint32(os.Getpid()) //nolint:gosec // a PID
	st, _ := readStat("/proc", self)
	m.Seed([]Task{{Key: k, Parent: event.ProcessKey{PID: self, Start: st.startNanos()}, UID: uint32(os.Getuid()), InScope: true, Comm: "sleep"}})
	p := m.Process(k)
	if p == nil || !strings.HasSuffix(p.Image, "/"+filepath.Base(p.Image)) || len(p.Argv) != 2 || p.Argv[1] != "300" || p.ImageID.Inode == 0 || p.User == "" {
		t.Fatalf("got %+v", p)
	}
	wd, _ := os.Getwd()
	if p.Cwd != wd {
		t.Errorf("cwd %s, want %s", p.Cwd, wd)
	}
	if d := time.Since(p.StartTime); d < 0 || d > time.Minute {
		t.Errorf("started %v ago", d)
	}
	if p.Parent == nil || p.Parent.Key.PID != self {
		t.Fatalf("parent %+v", p.Parent)
	}
	up := p.Ancestors(100)
	if up[len(up)-1].Key.PID != 1 {
		t.Logf("the chain ends at %+v (a PID namespace's edge)", up[len(up)-1].Key)
	}
	// The same PID with another start is somebody else.
	m.Observe(&event.Fork{Header: event.Header{Process: event.ProcessKey{PID: k.PID, Start: k.Start + 5*second}, Time: 1}, Child: key(1)})
	if p := m.Process(event.ProcessKey{PID: k.PID, Start: k.Start + 5*second}); p == nil || len(p.Argv) != 0 {
		t.Errorf("took another process's arguments: %+v", p)
	}
}

// Ensure lost exits are noticed.
func TestReconcile(t *testing.T) {
	m := newMachine(t)
	m.exec(key(1), event.ProcessKey{}, "/bin/x")
	m.now += 60 * second
	m.reconcile()
	if p := m.Process(key(1)); p == nil || !p.Exited {
		t.Errorf("got %+v", p)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := newMachine(b)
	parent := key(1)
	m.exec(parent, event.ProcessKey{}, "/bin/sh")
	here := event.DirectoryID{Inode: 1}
	m.cwds[here] = cwd{"/", 1 << 62}
	b.Run("fork-exec-exit", func(b *testing.B) {
		b.ReportAllocs()
		n := uint32(100)
		for b.Loop() {
			n++
			m.fork(parent, key(n))
			m.Observe(&event.Exec{
				Header: event.Header{Time: m.now, Process: key(n), Parent: parent}, Cwd: here,
				Path: []byte("/usr/bin/ls"), Filename: []byte("/usr/bin/ls"), Argv: [][]byte{[]byte("ls"), []byte("-l")},
			})
			m.exit(key(n))
		}
	})
	b.Run("flow", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.accept(parent, "10.0.0.9:1", 0)
		}
	})
}

// Ensure that all may be called at once.
func TestConcurrent(t *testing.T) {
	m := newMachine(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range uint32(200) {
			if p := m.Process(key(i)); p != nil {
				p.Ancestors(10)
			}
			m.Stats()
			m.reconcile()
			m.Seed([]Task{{Key: key(5000 + i), Parent: key(1), InScope: true}})
		}
	}()
	now := m.now
	for i := range uint32(2000) {
		m.Observe(&event.Fork{Header: event.Header{Time: now, Process: key(1)}, Child: key(2 + i)})
		m.Observe(&event.Exec{Header: event.Header{Time: now, Process: key(2 + i), Parent: key(1)}, Path: []byte("/bin/x")})
		m.Observe(&event.Exit{Header: event.Header{Time: now, Process: key(2 + i)}})
	}
	<-done
}
