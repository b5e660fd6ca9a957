package baseline

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

type clock struct{ now time.Time }

func (c *clock) at() time.Time { return c.now }

func config(c *clock) Config {
	return Config{Window: time.Minute, KnownWindows: 3, LearnFor: 10 * time.Minute, FlushEvery: time.Hour, TellKnownEvery: -1, Now: c.at}
}

func open(t testing.TB, path string, cfg Config) *Baseline {
	t.Helper()
	b, err := Open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func exec(at time.Time, parent, image string) *event.Observation {
	return execIn(at, parent, image, event.ProcessKey{PID: 10, Start: 1})
}

func execIn(at time.Time, parent, image string, anchor event.ProcessKey) *event.Observation {
	return &event.Observation{Event: &event.Exec{}, Time: at, Process: &event.Process{
		Image: image, Anchor: anchor, Parent: &event.Process{Image: parent, Anchor: anchor},
	}}
}

// Ensure a behaviour becomes known by distinct windows and not by being repeated.
func TestKnown(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	for range 100 {
		b.Observe(exec(c.now, "/bin/sh", "/bin/ls"))
	}
	for window := range 4 {
		v := b.Observe(exec(c.now, "/bin/sh", "/bin/ls"))
		if want := window == 3; v.Known != want {
			t.Errorf("window %d: known %v, want %v", window, v.Known, want)
		}
		if v.New || !v.Tracked || v.Seen == 0 || v.ImageNew {
			t.Errorf("window %d: got %+v", window, v)
		}
		c.now = c.now.Add(time.Minute)
	}
	if v := b.Observe(exec(c.now, "/bin/sh", "/bin/new")); !v.New || !v.ImageNew || v.Known || v.Seen != 0 {
		t.Errorf("a new one: got %+v", v)
	}
	if s := b.State(); s.Behaviours != 2 || s.Known != 1 || !s.Learning || s.Confidence <= 0 || s.Confidence >= 1 {
		t.Errorf("state %+v", s)
	}
}

// Ensure learning ends after observed time, over restarts, and not by time switched off.
func TestLearningTime(t *testing.T) {
	c := &clock{epoch}
	path := filepath.Join(t.TempDir(), "b.db")
	for restart := range 5 {
		b, err := Open(path, config(c))
		if err != nil {
			t.Fatal(err)
		}
		if want := restart < 4; b.State().Learning != want {
			t.Errorf("restart %d: learning %v, want %v", restart, b.State().Learning, want)
		}
		for range 5 {
			c.now = c.now.Add(30 * time.Second)
			b.Harvest(c.now, event.Health{}, nil)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		c.now = c.now.Add(100 * time.Hour)
	}
}

// Ensure that a machine's sleep is not time in which it was observed.
func TestSleepIsNotObserved(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	c.now = c.now.Add(100 * time.Hour)
	if v := b.Observe(exec(c.now, "/bin/sh", "/bin/ls")); !v.Learning || v.Watched > 2*time.Minute {
		t.Errorf("got %+v", v)
	}
}

// Ensure nothing is learnt from a marked storyline or in a window with losses.
func TestNeverLearnt(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	bad, good := event.ProcessKey{PID: 66, Start: 1}, event.ProcessKey{PID: 77, Start: 1}
	b.Observe(execIn(c.now, "/bin/sh", "/tmp/evil", bad)) // just before its finding
	b.Observe(execIn(c.now, "/bin/sh", "/bin/ls", bad))
	b.Observe(execIn(c.now, "/bin/sh", "/bin/ls", good))
	b.MarkTainted(bad)
	for range 6 {
		v := b.Observe(execIn(c.now, "/bin/sh", "/tmp/evil", bad))
		if !v.New || v.Known || !v.ImageNew || v.Seen == 0 {
			t.Fatalf("a marked storyline taught: %+v", v)
		}
		c.now = c.now.Add(time.Minute)
	}
	if v := b.Observe(execIn(c.now, "/bin/sh", "/bin/ls", good)); v.New {
		t.Errorf("what another storyline did as well was forgotten: %+v", v)
	}
	for range 6 {
		b.Observe(execIn(c.now, "/bin/sh", "/bin/lossy", good))
		b.MarkLoss()
		c.now = c.now.Add(time.Minute)
	}
	if v := b.Observe(execIn(c.now, "/bin/sh", "/bin/lossy", good)); v.Known {
		t.Errorf("windows with losses taught: %+v", v)
	}
}

// Ensure surprise orders things as a person would.
func TestSurprise(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	for i := range 60 {
		b.Observe(exec(c.now, "/usr/sbin/nginx", "/usr/sbin/nginx"))
		b.Observe(exec(c.now, "/bin/bash", "/bin/ls"))
		b.Observe(exec(c.now, "/bin/bash", fmt.Sprintf("/usr/bin/tool-%c%c", 'a'+i/10, 'a'+i%10)))
		b.Observe(exec(c.now, "/usr/sbin/cron", "/bin/sh"))
		b.Observe(exec(c.now, "/usr/bin/make", "/bin/sh"))
		c.now = c.now.Add(time.Minute)
	}
	usual := b.Observe(exec(c.now, "/bin/bash", "/bin/ls")).Surprise
	newTool := b.Observe(exec(c.now, "/bin/bash", "/usr/bin/never")).Surprise
	newChild := b.Observe(exec(c.now, "/usr/sbin/nginx", "/usr/bin/never2")).Surprise
	shell := b.Observe(exec(c.now, "/usr/sbin/nginx", "/bin/sh")).Surprise
	if !(usual < newTool && newTool < newChild && shell < newChild && shell > usual) {
		t.Errorf("usual %.1f, new tool of a shell %.1f, shell of nginx %.1f, new child of nginx %.1f", usual, newTool, shell, newChild)
	}
}

// Ensure the deltas add up to what was observed, whatever is harvested, restarted and cut.
func TestDeltasExact(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n), "b.db")
		c := &clock{epoch}
		cfg := config(c)
		cfg.TellKnownEvery = rapid.SampledFrom([]time.Duration{-1, time.Hour}).Draw(rt, "every")
		cfg.SummaryBytes = rapid.IntRange(200, 2000).Draw(rt, "bytes")
		b, err := Open(path, cfg)
		if err != nil {
			rt.Fatal(err)
		}
		want, got := map[event.BehaviourKey]uint64{}, map[event.BehaviourKey]uint64{}
		named := map[event.BehaviourKey]int{}
		take := func() int {
			s := b.Harvest(c.now, event.Health{}, nil)
			for _, d := range s.Deltas {
				got[d.Key] += d.Count
				if named[d.Key] == 0 && !containsKey(s.New, d.Key) {
					rt.Fatalf("a delta of a behaviour that was never named")
				}
				named[d.Key] = max(named[d.Key], 1)
			}
			if len(s.New) != len(s.FirstSeen) {
				rt.Fatalf("%d new, %d times", len(s.New), len(s.FirstSeen))
			}
			return len(s.Deltas)
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				take()
			case 1:
				if err := b.Close(); err != nil {
					rt.Fatal(err)
				}
				if b, err = Open(path, cfg); err != nil {
					rt.Fatal(err)
				}
			case 2:
				c.now = c.now.Add(time.Minute)
			default:
				v := b.Observe(exec(c.now, "/bin/sh", rapid.StringMatching(`/bin/[a-d]`).Draw(rt, "image")))
				want[v.Behaviour.Key]++
			}
		}
		// Counts of what is known wait for their hour.
		for c.now = c.now.Add(time.Hour); take() > 0; c.now = c.now.Add(time.Hour) {
		}
		if fmt.Sprint(want) != fmt.Sprint(got) {
			rt.Errorf("got %v, want %v", got, want)
		}
		if err := b.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func containsKey(list []event.Behaviour, key event.BehaviourKey) bool {
	for _, b := range list {
		if b.Key == key {
			return true
		}
	}
	return false
}

// Ensure the bound holds, and that what is not kept is counted.
func TestBounded(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.MaxBehaviours = 100
	path := filepath.Join(t.TempDir(), "b.db")
	b := open(t, path, cfg)
	image := func(i int) string { return fmt.Sprintf("/bin/x-%c%c%c", 'a'+i/100, 'a'+i/10%10, 'a'+i%10) }
	for i := range 250 {
		b.Observe(exec(c.now, "/bin/sh", image(i)))
	}
	s := b.Harvest(c.now, event.Health{}, []event.Loss{{Where: "ring:bulk", Cause: "full", Count: 1}})
	if len(s.New) != 100 || len(s.Losses) != 2 || s.Losses[1] != (event.Loss{Where: "baseline", Cause: "full", Count: 150}) {
		t.Errorf("%d new, losses %v", len(s.New), s.Losses)
	}
	for i := 250; i < 300; i++ {
		b.Observe(exec(c.now, "/bin/sh", image(i)))
	}
	s = b.Harvest(c.now, event.Health{}, nil)
	if len(s.New) != 50 || b.State().Behaviours != 100 || len(s.Losses) != 1 || s.Losses[0].Cause != "evicted" || s.Losses[0].Count != 50 {
		t.Errorf("%d new, state %+v, losses %v", len(s.New), b.State(), s.Losses)
	}
	var left int
	b.mu.Lock()
	for range b.images {
		left++
	}
	b.mu.Unlock()
	if left != 101 {
		t.Errorf("%d images are counted, want 101", left)
	}
}

// Ensure a file that cannot be read is moved aside and said to be lost.
func TestCorruptFile(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"garbage":      func([]byte) []byte { return []byte(strings.Repeat("no database ", 1000)) },
		"emptied":      func([]byte) []byte { return nil },
		"cut":          func(raw []byte) []byte { return raw[:len(raw)/3] },
		"broken pages": func(raw []byte) []byte { return append(raw[:8192:8192], make([]byte, len(raw)-8192)...) },
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{epoch}
			dir := t.TempDir()
			path := filepath.Join(dir, "b.db")
			b, err := Open(path, config(c))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 200 {
				b.Observe(exec(c.now, "/bin/sh", fmt.Sprintf("/bin/x%c%c", 'a'+i/20, 'a'+i%20)))
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, spoil(raw), 0o600); err != nil {
				t.Fatal(err)
			}
			b = open(t, path, config(c))
			s := b.Harvest(c.now, event.Health{}, nil)
			if len(s.Losses) == 0 || s.Losses[0].Cause != "corrupt-file" {
				t.Errorf("losses %v", s.Losses)
			}
			if aside, _ := filepath.Glob(path + ".corrupt-*"); len(aside) != 1 {
				t.Errorf("moved aside: %v", aside)
			}
			if v := b.Observe(exec(c.now, "/bin/sh", "/bin/ls")); !v.New {
				t.Errorf("got %+v", v)
			}
		})
	}
}

// Ensure two sensors do not share a file.
func TestInUse(t *testing.T) {
	c := &clock{epoch}
	path := filepath.Join(t.TempDir(), "b.db")
	open(t, path, config(c))
	if _, err := Open(path, config(c)); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}

// Ensure flows and names are normalised.
func TestNormalise(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	flow := func(dir event.Direction, proto uint8, local, remote, name string) string {
		l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
		return b.Observe(&event.Observation{
			Event: &event.FlowOpen{Proto: proto, Dir: dir, Local: l, Remote: r}, Time: c.now,
			Process: &event.Process{Image: "/usr/bin/x"}, Flow: &event.Flow{Name: name, Remote: r},
		}).Behaviour.Object
	}
	for _, tt := range []struct{ got, want string }{
		{flow(event.Outbound, 6, "10.0.0.1:40000", "198.51.100.7:443", ""), "out tcp 198.51.100.0/24 443"},
		{flow(event.Outbound, 6, "10.0.0.1:40000", "198.51.100.7:443", "a.b.example.co.uk"), "out tcp example.co.uk 443"},
		{flow(event.Outbound, 17, "10.0.0.1:40000", "10.0.0.53:53", ""), "out udp 10.0.0.53 53"},
		{flow(event.Outbound, 6, "10.0.0.1:40000", "10.0.0.9:22", "db1.corp.example"), "out tcp db1.corp.example 22"},
		{flow(event.Outbound, 6, "[::1]:40000", "[::1]:8080", ""), "out tcp loopback 8080"},
		{flow(event.Outbound, 6, "127.0.0.1:40000", "127.0.0.1:45000", ""), "out tcp loopback ephemeral"},
		{flow(event.Outbound, 6, "[2001:db8::1]:40000", "[2001:db8:1:2::3]:443", ""), "out tcp 2001:db8:1::/48 443"},
		{flow(event.Outbound, 6, "[fd00::1]:40000", "[fd00::2]:22", ""), "out tcp fd00::2 22"},
		{flow(event.Inbound, 6, "10.0.0.1:22", "10.0.0.5:51234", ""), "in tcp 10.0.0.5 22"},
		{flow(event.Inbound, 6, "[::ffff:10.0.0.1]:22", "[::ffff:10.0.0.5]:51234", ""), "in tcp 10.0.0.5 22"},
		{flow(event.Outbound, 132, "10.0.0.1:40000", "10.0.0.5:5000", ""), "out proto132 10.0.0.5 5000"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
	object := ""
	for i := range 200 {
		object = flow(event.Inbound, 6, "192.0.2.1:443", fmt.Sprintf("203.%d.113.5:5000", i), "")
	}
	if object != "in tcp internet 443" {
		t.Errorf("a public service's peer: got %q", object)
	}
	lookup := func(name string, response bool) event.Verdict {
		return b.Observe(&event.Observation{Event: &event.DNS{Name: name, Response: response}, Time: c.now, Process: &event.Process{Image: "/usr/bin/x"}})
	}
	for name, want := range map[string]string{"www.example.com": "example.com", "1.0.0.10.in-addr.arpa": "in-addr.arpa", "printer": "printer", "com": "com"} {
		if got := lookup(name, false).Behaviour.Object; got != want {
			t.Errorf("look-up of %s: got %q, want %q", name, got, want)
		}
	}
	if lookup("x.example", true).Tracked {
		t.Error("an answer is no behaviour of its own")
	}
	for path, want := range map[string]string{
		"/usr/bin/python3.11":                  "/usr/bin/python3.11",
		"/usr/lib/gcc/x86_64-linux-gnu/12/cc1": "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
		"/tmp/go-build123456/b001/x.test":      "/tmp/go-build*/b001/x.test",
		"/tmp/tmp.Xa3fGh12/x":                  "/tmp/tmp.*/x",
		"/var/lib/docker/3f2a9c1b77/x":         "/var/lib/docker/*/x",
		"/usr/bin/deadbeef":                    "/usr/bin/deadbeef",
		"/opt/cafebab1/x":                      "/opt/*/x",
		"/run/user/1000/x":                     "/run/user/*/x",
	} {
		if got := normalisePath(path); got != want {
			t.Errorf("path %s: got %s, want %s", path, got, want)
		}
	}
	script := &event.Process{Image: "/usr/bin/python3.11", Script: "x.py", Cwd: "/opt/app"}
	if got := imageName(script); got != "/usr/bin/python3.11 /opt/app/x.py" {
		t.Errorf("script: got %q", got)
	}
	if got := bounded(strings.Repeat("x", 5000)); len(got) > maxName {
		t.Errorf("a name of %d bytes", len(got))
	}
}

func FuzzDecode(f *testing.F) {
	e := &entry{kind: event.BehaviourExec, subject: "/bin/sh", object: "/bin/ls", count: 5, pending: 2, first: 1, last: 2, windows: 3, lastWindow: -1, known: true}
	e.key = KeyOf(e.kind, e.subject, e.object)
	f.Add(e.key[:], e.encode())
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, err := decode(key, value)
		if err != nil {
			return
		}
		again, err := decode(key, e.encode())
		if err != nil || *again != *e {
			t.Errorf("got %+v (%v), want %+v", again, err, e)
		}
	})
}

func FuzzNormalise(f *testing.F) {
	for _, p := range []string{"/tmp/go-build123456/b001/x.test", "/opt/cafebab1/x", "/opt/a1234b", "/x/12a34", "/lib/x86_64-linux-gnu/libc.so.6", "/tmp/tmp.X", "*1234", "abcdef0"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		once := normalisePath(p)
		if len(once) > len(p) && !strings.Contains(p, "tmp.") {
			t.Errorf("%q grew to %q", p, once)
		}
		if got, want := mayBeRandom(p), strings.Contains(p, "tmp.") || starRandom(p) != p; got != want {
			t.Errorf("%q: whether something may be random is %v, want %v", p, got, want)
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	c := &clock{epoch}
	base := open(b, filepath.Join(b.TempDir(), "b.db"), config(c))
	o := exec(c.now, "/usr/bin/bash", "/usr/bin/ls")
	b.ReportAllocs()
	for b.Loop() {
		base.Observe(o)
	}
}

// Ensure that all may be called at once.
func TestConcurrent(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.FlushEvery = time.Millisecond
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	done := make(chan uint64)
	go func() {
		var sum uint64
		for range 20 {
			for _, d := range b.Harvest(epoch, event.Health{}, nil).Deltas {
				sum += d.Count
			}
			b.State()
			b.MarkTainted(event.ProcessKey{PID: 1})
			b.MarkLoss()
		}
		done <- sum
	}()
	for i := range 2000 {
		b.Observe(exec(epoch, "/bin/sh", fmt.Sprintf("/bin/%c", 'a'+i%26)))
	}
	sum := <-done
	for _, d := range b.Harvest(epoch, event.Health{}, nil).Deltas {
		sum += d.Count
	}
	if sum != 2000 {
		t.Errorf("got %d, want 2000", sum)
	}
}
