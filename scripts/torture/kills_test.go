package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// row is the one of that name.
func row(t *testing.T, rows []figure.Row, name string) figure.Row {
	t.Helper()
	i := slices.IndexFunc(rows, func(r figure.Row) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("no row %q in %v", name, rows)
	}
	return rows[i]
}

// Ensure that a failover's figure of few kills, or of none, does not pass for the figure of all,
// and that no difference among no states is no figure either.
func TestKillsAreJudged(t *testing.T) {
	const leaders, p99 = "of these, the leader", "leader killed → writes resume, p99"
	for _, tt := range []struct {
		kills, leaders int
		want           bool
	}{{30, 25, true}, {30, 24, false}, {1000, 833, true}, {1000, 832, false}, {4, 3, true}, {4, 2, false}} {
		k := killed{done: tt.kills, leaders: tt.leaders}
		for range tt.leaders {
			k.first, k.most = append(k.first, time.Second), append(k.most, time.Second)
		}
		rows := k.rows(config{kills: tt.kills}, told{}, nil)
		if got := row(t, rows, leaders); got.OK != tt.want {
			t.Errorf("%d of %d kills: %+v", tt.leaders, tt.kills, got)
		}
		if got := row(t, rows, p99); !got.OK {
			t.Errorf("%d kills: %+v", tt.leaders, got)
		}
		planned := 0
		for _, k := range planKills(3, tt.kills, nodes) {
			if k.leader {
				planned++
			}
		}
		if planned < leadersOf(tt.kills) {
			t.Errorf("of %d kills the plan has %d of leaders, which is judged as too few", tt.kills, planned)
		}
	}
	if got := row(t, (&killed{}).rows(config{}, told{}, nil), "entries at which several nodes told their states"); got.OK {
		t.Errorf("nothing was compared: %+v", got)
	}
	var none killed
	if got := row(t, none.rows(config{kills: 30}, told{}, nil), p99); got.OK || !strings.Contains(got.Note, "no leader") {
		t.Errorf("without a kill: %+v", got)
	}
}

// Ensure that who waits for an hour of kills is told what was lost so far.
func TestProgress(t *testing.T) {
	k := killed{done: 50, leaders: 41, visits: newVisits(), tally: tally{lost: 2, doubled: 1}}
	k.reached["commit.after"] = 2
	if got, want := k.progress(1000), "torture: 50 of 1000 kills, 41 of leaders, 1 of 30 places reached, acknowledged lost 2, doubled 1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Ensure that a place which no node ever came to is told by its name, once each had its turn, and
// that one which was missed at one turn alone is not.
func TestPlacesNeverReached(t *testing.T) {
	const never = "places never reached"
	all := newVisits()
	for _, p := range points {
		all.reached[p.name]++
	}
	all.missed["commit.after"]++
	if got := all.row(killsOfAllPlaces()); !got.OK || got.Value != 0 || got.Target == "" || strings.Contains(got.Note, "commit.after") {
		t.Errorf("each was reached: %+v", got)
	}
	delete(all.reached, "commit.after")
	delete(all.reached, "migrate.after") // not even tried: a run that ended before its turn
	if got := all.row(killsOfAllPlaces()); got.OK || got.Value != 2 || !strings.Contains(got.Note, "commit.after, migrate.after") {
		t.Errorf("two were not reached: %+v", got)
	}
	if got := all.row(killsOfAllPlaces() - 1); !got.OK || got.Value != 2 || got.Target != "" || !strings.Contains(got.Note, "commit.after;") {
		t.Errorf("not each had its turn: %+v", got)
	}
	k := killed{visits: newVisits()}
	if got := row(t, k.rows(config{kills: killsOfAllPlaces()}, told{}, nil), never); got.OK || got.Value != float64(len(points)) {
		t.Errorf("of kills that came to no place: %+v", got)
	}
}
