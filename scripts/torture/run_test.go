package main

import (
	"testing"
	"time"
)

// Ensure that a night is all that was asked of one, and that it has the time for it: also when
// each part takes all that it has, there are two hours and more for the operations and one for
// a follower that was away.
func TestNight(t *testing.T) {
	cfg := config{nightly: true}
	cfg.night()
	if size, err := mebibytes(cfg.size); cfg.kills != 1000 || cfg.ops != 1_000_000 || size != 2048 || err != nil || cfg.away != 10*time.Minute {
		t.Errorf("a night is %d kills, %d operations, %s and %s away; %v", cfg.kills, cfg.ops, cfg.size, cfg.away, err)
	}
	left, got := time.Duration(cfg.minutes*float64(time.Minute)), map[string]time.Duration{}
	for i, p := range parts {
		got[p.name] = allotted(cfg, left, parts[i:])
		left -= got[p.name]
	}
	for name, want := range map[string]time.Duration{"kills": 75 * time.Minute, "answers": 130 * time.Minute, "catch-up": 60 * time.Minute} {
		if got[name] < want {
			t.Errorf("of a night's %.0f minutes %s has %s, needs %s", cfg.minutes, name, got[name], want)
		}
	}
	if left != 0 {
		t.Errorf("%s are nobody's", left)
	}
}

// Ensure that an ordinary run gives most of its time to the kills, and all of it to a part that
// is alone.
func TestShares(t *testing.T) {
	if got, want := allotted(config{}, 37*time.Minute, parts), 18*time.Minute; got != want {
		t.Errorf("the kills have %s of 37 minutes, want %s", got, want)
	}
	if got := allotted(config{}, time.Hour, parts[5:6]); got != time.Hour {
		t.Errorf("a part alone has %s of an hour", got)
	}
}
