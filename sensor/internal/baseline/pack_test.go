package baseline

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// common is what every host of a role does: so many programs of cron.
func common(n int) (p Pack) {
	p.Of = 5
	for i := range n {
		p.Behaviours = append(p.Behaviours, Packed{event.BehaviourExec, "/usr/sbin/cron", tool(i), 5})
	}
	return p
}

func tool(i int) string { return fmt.Sprintf("/usr/bin/tool-%c%c", 'a'+i/26, 'a'+i%26) }

// Ensure a pack that a node made leaves nothing unjudged that is judged without it: it counts
// while the host learns, and when that ends what is in it is as new as anything.
func TestNodesPack(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	p := common(60)
	b.UsePack(&p)
	observe := func(image string) event.Verdict { return b.Observe(exec(c.now, "/usr/sbin/cron", image)) }
	for i := range fitSeen {
		if v := observe(tool(i)); !v.Learning || !v.New || v.Known {
			t.Fatalf("%d: what peers do is judged, or not new: %+v", i, v)
		}
	}
	if v := observe("/usr/bin/implant"); v.Learning || !v.New || !v.ImageNew {
		t.Errorf("what peers do not do is not judged: %+v", v)
	}
	if v := observe(tool(30)); !v.Learning || !v.New {
		t.Errorf("what peers do: %+v", v)
	}
	if v := observe(tool(31)); v.Group != (event.Share{Have: 5, Of: 5}) || v.Surprise >= v.HostBits {
		t.Errorf("its peers are not asked: %+v", v)
	}
	for range 30 { // learning ends
		c.now = c.now.Add(30 * time.Second)
		b.Harvest(c.now, event.Health{}, nil)
	}
	for _, image := range []string{tool(50), "/usr/bin/implant2"} {
		if v := observe(image); v.Learning || !v.New || !v.ImageNew || v.Group.Of != 0 || v.Surprise != v.HostBits {
			t.Errorf("%s after learning: %+v, want it judged and new, by this host alone", image, v)
		}
	}
	b.UsePack(&p)
	if v := observe(tool(52)); v.Learning || !v.New {
		t.Errorf("a host that has learnt takes a node's pack: %+v", v)
	}
}

// Ensure a host that is no such one learns as if it had no pack, from its first to its last behaviour.
func TestPackOfAnotherRole(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	p := common(60)
	b.UsePack(&p)
	for i := range 3 * fitSeen {
		image := fmt.Sprintf("/opt/own/%c%c", 'a'+i/26, 'a'+i%26)
		if i%2 == 0 {
			image = tool(i % 60)
		}
		if v := b.Observe(exec(c.now, "/usr/sbin/cron", image)); !v.Learning {
			t.Fatalf("behaviour %d, of which half are the pack's, is judged: %+v", i, v)
		}
	}
}

// Ensure an operator's pack makes its behaviours not new, for as long as it counts, and nothing known.
func TestOperatorsPack(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.LearnFor = -1
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	p := common(60)
	p.Trusted, p.Until = true, epoch.Add(time.Hour)
	b.UsePack(&p)
	if v := b.Observe(exec(c.now, "/usr/sbin/cron", tool(1))); v.New || v.ImageNew || v.Known || v.Learning {
		t.Errorf("what the pack has: %+v", v)
	}
	if v := b.Observe(exec(c.now, "/usr/sbin/nginx", tool(2))); !v.New {
		t.Errorf("what another image does: %+v", v)
	}
	if b.Keep(7, KeyOf(event.BehaviourExec, "/usr/sbin/cron", tool(1))) {
		t.Error("the kernel keeps back what only a pack knows")
	}
	c.now = p.Until
	if v := b.Observe(exec(c.now, "/usr/sbin/cron", tool(3))); !v.New || !v.ImageNew {
		t.Errorf("after its end: %+v", v)
	}
}

// Ensure the fleet's pack makes what many do less surprising, on a host with or without its role's pack, and changes
// nothing else: not what is new, judged or learnt; that nobody's word counts for nothing, and that it ends.
func TestFleetPack(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.LearnFor = -1
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	for range 50 {
		b.Observe(exec(c.now, "/usr/sbin/cron", "/usr/sbin/cron"))
		c.now = c.now.Add(cfg.Window)
	}
	fleet := common(60)
	fleet.Of, fleet.Until = 40, c.now.Add(time.Hour)
	for i := range fleet.Behaviours {
		fleet.Behaviours[i].Hosts = 20
	}
	n := 0
	observe := func() event.Verdict { n++; return b.Observe(exec(c.now, "/usr/sbin/cron", tool(n))) }
	b.UseFleet(&fleet)
	if v := observe(); v.Fleet.Of != 0 || v.Surprise != v.HostBits {
		t.Errorf("a fleet's pack that nobody signed counts: %+v", v)
	}
	fleet.Trusted = true
	b.UseFleet(&fleet)
	if v := observe(); v.Fleet != (event.Share{Have: 20, Of: 40}) || v.Group.Of != 0 || v.Surprise > v.HostBits-2 || !v.New || !v.ImageNew || v.Known || v.Learning {
		t.Errorf("what half of the fleet does: %+v", v)
	}
	if v := b.Observe(exec(c.now, "/usr/sbin/cron", "/opt/own")); v.Fleet.Of != 0 || v.Surprise != v.HostBits || v.Learning {
		t.Errorf("what nobody does: %+v", v)
	}
	role := common(60)
	role.Trusted = true
	b.UsePack(&role)
	if v := observe(); v.Fleet.Of != 40 || v.Group.Of != 5 || v.New {
		t.Errorf("beside the role's: %+v", v)
	}
	b.UsePack(nil)
	b.Unlearn(func(event.Behaviour, time.Time) bool { return false }, KeyOf(event.BehaviourExec, "/usr/sbin/cron", tool(n+1)))
	if v := observe(); v.Fleet.Of != 0 {
		t.Errorf("of what was forgotten the fleet is asked: %+v", v)
	}
	if v := observe(); v.Fleet.Of != 40 {
		t.Errorf("without the role's: %+v", v)
	}
	c.now = fleet.Until
	if v := observe(); v.Fleet.Of != 0 || v.Surprise != v.HostBits {
		t.Errorf("after its end: %+v", v)
	}
}

// Ensure what was unlearnt is new, tells the kernel's keys, keeps its counts, and stays so over a
// restart, whatever a pack says.
func TestUnlearn(t *testing.T) {
	c := &clock{epoch}
	path := filepath.Join(t.TempDir(), "b.db")
	b := open(t, path, config(c))
	for range 5 {
		for _, image := range []string{"/tmp/evil", "/usr/bin/ls"} {
			b.Observe(exec(c.now, "/bin/sh", image))
		}
		b.Observe(exec(c.now, "/tmp/evil", "/usr/bin/id"))
		c.now = c.now.Add(time.Minute)
	}
	evil := KeyOf(event.BehaviourExec, "/bin/sh", "/tmp/evil")
	if !b.Keep(71, evil) || !b.Keep(72, evil) || !b.Keep(73, KeyOf(event.BehaviourExec, "/bin/sh", "/usr/bin/ls")) {
		t.Fatal("not known")
	}
	b.Count(71, 4, c.now)
	known := b.State().Known
	inPack := KeyOf(event.BehaviourExec, "/usr/sbin/cron", tool(1))
	n, kernel := b.Unlearn(func(one event.Behaviour, _ time.Time) bool {
		return one.Subject == "/tmp/evil" || one.Object == "/tmp/evil"
	}, inPack)
	if n != 2 || len(kernel) != 2 || kernel[0]+kernel[1] != 71+72 || b.State().Known != known-2 {
		t.Errorf("forgot %d, kernel's keys %v, known %d of %d", n, kernel, b.State().Known, known)
	}
	b.Count(72, 3, c.now) // what the kernel had counted
	if b.Keep(74, evil) {
		t.Error("what was forgotten is kept back again")
	}
	check := func(b *Baseline, when string) {
		t.Helper()
		p := common(60)
		p.Trusted = true
		b.UsePack(&p)
		if v := b.Observe(exec(c.now, "/bin/sh", "/tmp/evil")); !v.New || v.Known || v.Seen < 12 {
			t.Errorf("%s: %+v, want it new, seen 12 times", when, v)
		}
		b.MarkTainted(event.ProcessKey{PID: 10, Start: 1})
		if v := b.Observe(execIn(c.now, "/bin/sh", "/usr/bin/ls", event.ProcessKey{PID: 11, Start: 1})); v.New || !v.Known {
			t.Errorf("%s: what was not forgotten: %+v", when, v)
		}
		if v := b.Observe(exec(c.now, "/usr/sbin/cron", tool(1))); !v.New {
			t.Errorf("%s: what a pack has and somebody forgot: %+v", when, v)
		}
	}
	check(b, "at once")
	var told uint64
	for _, d := range b.Harvest(c.now, event.Health{}, nil).Deltas {
		if d.Key == evil {
			told = d.Count
			if d.Known {
				t.Error("told as known")
			}
		}
	}
	if told != 13 {
		t.Errorf("told %d of 13 times", told)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	check(open(t, path, config(c)), "after a restart")
}

// Ensure a host with an open incident learns nothing, over a restart too, and no longer than a day
// by one word.
func TestPause(t *testing.T) {
	c := &clock{epoch}
	path := filepath.Join(t.TempDir(), "b.db")
	b := open(t, path, config(c))
	b.Observe(exec(c.now, "/bin/sh", "/usr/bin/before"))
	b.Pause(c.now.Add(1000 * time.Hour))
	work := func(b *Baseline) (v event.Verdict) {
		for range 5 {
			v = b.Observe(exec(c.now, "/bin/sh", "/usr/bin/during"))
			c.now = c.now.Add(time.Minute)
		}
		return v
	}
	if v := work(b); !v.New || v.Known || !v.Paused {
		t.Errorf("learnt during an incident: %+v", v)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, config(c))
	if v := work(b); !v.New || v.Known {
		t.Errorf("learnt during an incident, after a restart: %+v", v)
	}
	c.now = epoch.Add(maxPause + time.Minute)
	b.Observe(exec(c.now, "/bin/sh", "/usr/bin/during"))
	if v := work(b); v.New || !v.Known || v.Paused {
		t.Errorf("a day later: %+v", v)
	}
	b.Pause(c.now.Add(time.Hour))
	b.Pause(time.Time{})
	c.now = c.now.Add(time.Minute)
	b.Observe(exec(c.now, "/bin/sh", "/usr/bin/after"))
	if v := b.Observe(exec(c.now, "/bin/sh", "/usr/bin/after")); v.New {
		t.Errorf("after its end: %+v", v)
	}
}

// Ensure an upgraded package's image has what the old one was known for, and nothing else has.
func TestUpgrade(t *testing.T) {
	c := &clock{epoch}
	path := filepath.Join(t.TempDir(), "b.db")
	b := open(t, path, config(c))
	const old, upgraded = "/usr/lib/postgresql/15/bin/postgres", "/usr/lib/postgresql/16.2/bin/postgres"
	for range 4 {
		b.Observe(exec(c.now, old, old))
		b.Observe(exec(c.now, old, "/usr/bin/pgbackrest"))
		b.Observe(exec(c.now, "/tmp/x1", "/tmp/y1"))
		c.now = c.now.Add(time.Minute)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, config(c))
	if v := b.Observe(exec(c.now, upgraded, "/usr/bin/pgbackrest")); v.New || v.ImageNew || v.Known {
		t.Errorf("what the old version did: %+v", v)
	}
	if v := b.Observe(exec(c.now, upgraded, "/usr/bin/dash")); !v.New {
		t.Errorf("what the old version did not do: %+v", v)
	}
	for _, pair := range [][2]string{{"/tmp/x2", "/tmp/y2"}, {"/usr/local/lib/postgresql/17/bin/postgres", "/usr/bin/pgbackrest"}, {"/home/a/postgresql/17/bin/postgres", "/usr/bin/pgbackrest"}} {
		if v := b.Observe(exec(c.now, pair[0], pair[1])); !v.New {
			t.Errorf("%s, where not only packages write: %+v", pair[0], v)
		}
	}
	bad := event.ProcessKey{PID: 66, Start: 1}
	b.MarkTainted(bad)
	if v := b.Observe(execIn(c.now, "/usr/lib/postgresql/17/bin/postgres", "/usr/bin/pgbackrest", bad)); !v.New {
		t.Errorf("in a storyline with findings: %+v", v)
	}
	b.Unlearn(func(one event.Behaviour, _ time.Time) bool { return one.Subject == old || one.Subject == upgraded })
	if v := b.Observe(exec(c.now, "/usr/lib/postgresql/18/bin/postgres", "/usr/bin/pgbackrest")); !v.New {
		t.Errorf("after the old version was forgotten: %+v", v)
	}
	c.now = c.now.Add(time.Minute)
	b.Harvest(c.now, event.Health{}, nil)
}

// Ensure versions are taken for what they are.
func TestFamily(t *testing.T) {
	for name, want := range map[string]string{
		"/usr/bin/python3.11":                  "/usr/bin/python#",
		"/usr/lib/jvm/jdk-17.0.2+8/bin/java":   "/usr/lib/jvm/jdk-#+#/bin/java",
		"/usr/lib/gcc/x86_64-linux-gnu/12/cc1": "/usr/lib/gcc/x#_#-linux-gnu/#/cc#",
		"/usr/bin/ls":                          "/usr/bin/ls",
		"/usr/bin/x.":                          "/usr/bin/x.",
		"/home/a/python3":                      "/home/a/python3",
		"":                                     "",
	} {
		if got := family(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
