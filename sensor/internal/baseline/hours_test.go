package baseline

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that what only ever happens at night is odd at noon, that what happens at all
// hours never is, and that a few days say nothing.
func TestHours(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.Window = 10 * time.Minute
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	verdict := func(d, hour int, image string) event.Verdict {
		c.now = epoch.AddDate(0, 0, d).Add(time.Duration(hour)*time.Hour + 5*time.Minute)
		return b.Observe(exec(c.now, "/usr/sbin/cron", image))
	}
	var early event.Verdict
	for d := range 14 {
		verdict(d, 2, "/bin/backup")
		for hour := 3; hour < 24; hour += 3 {
			verdict(d, hour, "/bin/poll")
			if d == 2 && hour == 15 {
				early = verdict(d, hour, "/bin/backup")
			}
		}
	}
	night, noon := verdict(14, 2, "/bin/backup"), verdict(14, 11, "/bin/backup")
	poll := verdict(14, 13, "/bin/poll")
	if early.HourBits != 0 || night.HourBits != 0 || noon.HourBits < 3 || noon.HourBits > maxHourBits || poll.HourBits > 1.5 {
		t.Errorf("bits: after 2 days %.1f, at night %.1f, at noon %.1f, of what always happens %.1f", early.HourBits, night.HourBits, noon.HourBits, poll.HourBits)
	}
	if noon.Hours != "02:00-03:00, 15:00-16:00 UTC" || !noon.Timed || poll.Timed || noon.New {
		t.Errorf("got %q, timed %v and %v", noon.Hours, noon.Timed, poll.Timed)
	}
	// And it is known after a restart.
	path := b.path
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, cfg)
	if again := verdict(15, 17, "/bin/backup"); again.HourBits < 2.5 || !again.Known {
		t.Errorf("after a restart: %+v", again)
	}
}

// Ensure that a nightly behaviour which the kernel keeps back before its hours say anything is
// taken back from it when they do, once, and that what comes at all hours is not.
func TestKeptTimed(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.Window = 10 * time.Minute
	b := open(t, filepath.Join(t.TempDir(), "b.db"), cfg)
	at := func(d, hour int) {
		c.now = epoch.AddDate(0, 0, d).Add(time.Duration(hour)*time.Hour + 5*time.Minute)
	}
	see := func(image string) event.Verdict { return b.Observe(exec(c.now, "/usr/sbin/cron", image)) }
	told := 0
	for d := range 10 {
		for hour := 0; hour < 24; hour += 3 {
			at(d, hour)
			if poll := see("/bin/poll"); poll.Known && !b.Keep(9, poll.Behaviour.Key) {
				t.Fatal("what comes at all hours is not kept")
			}
			if hour == 3 && d < 4 {
				if v := see("/bin/backup"); d == 3 && (v.Timed || !b.Keep(7, v.Behaviour.Key) || !b.Keep(8, v.Behaviour.Key)) {
					t.Fatalf("not kept after some nights: %+v", v)
				}
			} else if hour == 3 && b.Kept() == 3 {
				b.Count(7, 1, c.now)
			}
			keys := b.KeptTimed()
			for _, key := range keys {
				if key != 7 && key != 8 {
					t.Fatalf("key %d is taken back", key)
				}
				b.Unkeep(key)
			}
			if told += len(keys); len(keys) > 0 && len(keys) != 2 {
				t.Errorf("%d keys of it are taken back", len(keys))
			}
		}
	}
	if told != 2 {
		t.Fatalf("%d keys were taken back", told)
	}
	at(10, 12)
	noon := see("/bin/backup")
	if !noon.Known || !noon.Timed || noon.HourBits < 2 || b.Keep(7, noon.Behaviour.Key) {
		t.Errorf("at noon: %+v", noon)
	}
}

// Ensure that what is known fades by observed time, and not while the machine is off.
func TestFades(t *testing.T) {
	c := &clock{epoch}
	cfg := config(c)
	cfg.Window, cfg.HalfLife = 10*time.Minute, 10*24*time.Hour
	path := filepath.Join(t.TempDir(), "b.db")
	b := open(t, path, cfg)
	watch := func(d time.Duration, images ...string) (last event.Verdict) {
		for end := c.now.Add(d); c.now.Before(end); c.now = c.now.Add(cfg.Window) {
			for _, image := range images {
				last = b.Observe(exec(c.now, "/bin/sh", image))
			}
		}
		return last
	}
	watch(time.Hour, "/bin/once", "/bin/always")
	if v := watch(24*time.Hour, "/bin/always"); !v.Known {
		t.Fatal("not learnt")
	}
	if v := b.Observe(exec(c.now, "/bin/sh", "/bin/once")); !v.Known || v.New {
		t.Fatalf("not learnt: %+v", v)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.AddDate(1, 0, 0)
	b = open(t, path, cfg)
	before := b.Observe(exec(c.now, "/bin/sh", "/bin/once"))
	if !before.Known {
		t.Error("a year switched off made the host forget")
	}
	known := b.State().Known
	watch(45*24*time.Hour, "/bin/always")
	after := b.Observe(exec(c.now, "/bin/sh", "/bin/once"))
	if after.Known || after.New || after.Surprise <= before.Surprise+2 || b.State().Known != known-1 {
		t.Errorf("after 45 days: %+v, was %+v", after, before)
	}
	if v := b.Observe(exec(c.now, "/bin/sh", "/bin/always")); !v.Known {
		t.Error("what goes on faded")
	}
}

// Ensure that what a suspect storyline does is not learnt while it is suspect, and that
// suspicion ends sooner than a finding's mark and never shortens it.
func TestSuspect(t *testing.T) {
	c := &clock{epoch}
	b := open(t, filepath.Join(t.TempDir(), "b.db"), config(c))
	odd, told := event.ProcessKey{PID: 66, Start: 1}, event.ProcessKey{PID: 67, Start: 1}
	b.Observe(execIn(c.now, "/bin/sh", "/bin/odd", odd))
	b.Observe(execIn(c.now, "/bin/sh", "/bin/told", told))
	b.MarkSuspect(odd)
	b.MarkTainted(told)
	b.MarkSuspect(told)
	for range 59 {
		if v := b.Observe(execIn(c.now, "/bin/sh", "/bin/odd", odd)); !v.New {
			t.Fatalf("a suspect storyline taught: %+v", v)
		}
		c.now = c.now.Add(time.Minute)
	}
	for range 10 {
		c.now = c.now.Add(time.Minute)
		b.Observe(execIn(c.now, "/bin/sh", "/bin/odd", odd))
		b.Observe(execIn(c.now, "/bin/sh", "/bin/told", told))
	}
	if v := b.Observe(execIn(c.now, "/bin/sh", "/bin/odd", odd)); v.New {
		t.Error("suspicion does not end")
	}
	if v := b.Observe(execIn(c.now, "/bin/sh", "/bin/told", told)); !v.New {
		t.Error("suspicion ended a finding's mark")
	}
}

func FuzzDecodeModel(f *testing.F) {
	e := &entry{weight: 3.5, seen: time.Hour, days: 6, lastHour: 490000}
	e.hours.note(3)
	f.Add(e.encodeModel())
	f.Fuzz(func(t *testing.T, value []byte) {
		var e, again entry
		if !e.decodeModel(value) {
			return
		}
		if !again.decodeModel(e.encodeModel()) || again != e {
			t.Errorf("got %+v, want %+v", again, e)
		}
	})
}
