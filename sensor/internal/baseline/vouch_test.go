package baseline

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure what a person called benign is new no more and is learnt, in storylines with findings too; that what such a
// storyline does beside it is not; that it is so over a restart; and that forgetting takes the word back.
func TestVouch(t *testing.T) {
	c := &clock{epoch}
	path := filepath.Join(t.TempDir(), "b.db")
	cfg := config(c)
	cfg.LearnFor = -1
	b := open(t, path, cfg)
	bad := event.ProcessKey{PID: 10, Start: 1}
	backup, beside := KeyOf(event.BehaviourExec, "/usr/sbin/cron", "/opt/backup"), "/opt/beside"
	run := func(want, wantBeside bool, what string) {
		t.Helper()
		b.MarkTainted(bad)
		if v := b.Observe(execIn(c.now, "/usr/sbin/cron", "/opt/backup", bad)); v.New != want {
			t.Errorf("%s: new is %v", what, v.New)
		}
		if v := b.Observe(execIn(c.now, "/usr/sbin/cron", beside, bad)); v.New != wantBeside {
			t.Errorf("%s: what is beside it: new is %v", what, v.New)
		}
		b.MarkTainted(bad)
		c.now = c.now.Add(time.Minute)
	}
	run(true, true, "first")
	run(true, true, "before anybody spoke")
	if have := b.Vouch(backup, event.BehaviourKey{9}); have != 1 {
		t.Errorf("the host has %d of them", have)
	}
	for range 4 {
		run(false, true, "after somebody did")
	}
	if v := b.Observe(execIn(c.now, "/usr/sbin/cron", "/opt/backup", bad)); !v.Known {
		t.Error("after four windows it is not known")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, cfg)
	run(false, true, "after a restart")
	if !b.entries[backup].vouched {
		t.Error("after a restart nobody spoke for it")
	}
	if n, _ := b.Unlearn(func(event.Behaviour, time.Time) bool { return false }, backup); n != 1 {
		t.Errorf("%d forgotten", n)
	}
	run(true, true, "forgotten")
	run(true, true, "forgotten, a window later")
}
