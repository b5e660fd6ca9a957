package scale

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

const (
	// lifeSize is how many hosts live at most: what is shown is that all of it works
	// together, and the whole fleet is measured elsewhere.
	lifeSize    = 300
	lifeWindows = 40
	lifeEvery   = 2 * time.Second
	// lifeWindow is the simulated time of one of them: 40 are an hour and 20 minutes.
	lifeWindow = 2 * time.Minute
	// joinLimit is how long the cluster may take to see a campaign after its last hop.
	joinLimit = 15 * time.Second
)

// lifeWorld is a world in which everything happens.
func lifeWorld(seed uint64, hosts int) world.Config {
	return world.Config{Seed: seed, Hosts: hosts, Window: lifeWindow, Late: 50, LateWindows: lifeWindows / 2, Slow: 40, Hostile: 60, Churn: 60,
		RolloutEvery: 30 * time.Minute, StormEvery: 25 * time.Minute, Campaigns: 2, CampaignStart: 4, CampaignEvery: 8}
}

// life lets a small fleet live.
func life(ctx context.Context, cfg Config) []figure.Row {
	const name = "records of honest sensors not acknowledged, in a fleet with everything"
	s, err := newStage(ctx, cfg, "life", lifeWorld(cfg.Seed, min(cfg.Size, lifeSize)))
	var rows []figure.Row
	if err == nil {
		defer s.close()
		rows, err = s.live(ctx, name)
	}
	if err != nil {
		rows = append(rows, figure.Missing(name, "records", "= 0", err))
	}
	return rows
}

func (s *stage) live(ctx context.Context, name string) ([]figure.Row, error) {
	size := s.world.Size()
	growing, cancel := context.WithTimeoutCause(ctx, enrolLimit, fmt.Errorf("not enrolled and connected within %s", enrolLimit))
	defer cancel()
	if err := s.fleet.Grow(growing, size); err != nil {
		return nil, err
	}
	s.cfg.Log(fmt.Sprintf("%d hosts live %d windows of %s", size, lifeWindows, lifeWindow))
	if err := s.fleet.Pace(ctx, 0, lifeWindows, lifeEvery); err != nil {
		return nil, err
	}
	drain, stop := context.WithTimeoutCause(ctx, drainLimit, fmt.Errorf("within %s", drainLimit))
	defer stop()
	away, left := s.fleet.Drain(drain)
	t := s.fleet.Tally()
	note := fmt.Sprintf("of %d; %d goodbyes, %d hosts born, %d sessions ended by storms, %d records wait on hosts that are away", t.Made, t.Goodbyes, t.Born, t.Stormed, away)
	if left != nil {
		note = left.Error() + "; " + note
	}
	times := s.fleet.TakeTimes()
	rows := []figure.Row{
		figure.Exactly(name, float64(t.Made-t.Acknowledged-away), 0, "records", note),
		figure.AtMost("report → acknowledged beside slow and hostile sensors, p99", millis(fleet.Quantile(times, 0.99)), millis(ackMost), "ms",
			fmt.Sprintf("storms and reconnects in it; p50 %.1f ms, max %.0f ms", millis(fleet.Quantile(times, 0.5)), millis(fleet.Quantile(times, 1)))),
		figure.Exactly("sessions lost that nobody ended", float64(fleet.Sum(t.Lost)), 0, "sessions", fleet.Causes(t.Lost, nil)),
	}
	var taken int64
	var each, lawful []string
	for kind, m := range sortedKinds(t.Misdeeds) {
		text := fmt.Sprintf("%s: %d of %d refused", kind, m.Refused, m.Tried)
		if kind == world.Flood || kind == world.Liar {
			lawful = append(lawful, fmt.Sprintf("%s: %d of %d taken", kind, m.Taken, m.Tried))
			continue
		}
		taken += m.Taken
		each = append(each, text)
	}
	rows = append(rows,
		figure.Exactly("messages that break the protocol, taken", float64(taken), 0, "messages", strings.Join(each, "; ")),
		figure.Info("floods of new behaviours and false times, taken", float64(t.Misdeeds[world.Flood].Taken+t.Misdeeds[world.Liar].Taken), "reports",
			strings.Join(lawful, "; ")+": well-formed, and so stored; beyond a bound for each host a finding about its sensor"))
	return append(rows, s.campaigns(ctx)), nil
}

// sortedKinds goes over misdeeds in the order of their kinds.
func sortedKinds(misdeeds map[world.Kind]fleet.Misdeeds) func(func(world.Kind, fleet.Misdeeds) bool) {
	return func(yield func(world.Kind, fleet.Misdeeds) bool) {
		for kind := world.Gap; kind <= world.Liar; kind++ {
			if m, done := misdeeds[kind]; done && !yield(kind, m) {
				return
			}
		}
	}
}

// campaigns holds the incidents against what was played.
func (s *stage) campaigns(ctx context.Context) figure.Row {
	const name = "campaigns that are not one incident with all their hosts"
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	for {
		wrong, err := s.unjoined(ctx)
		if err != nil {
			return figure.Missing(name, "campaigns", "= 0", err)
		}
		if len(wrong) == 0 || pause(ctx, time.Second) != nil {
			return figure.Exactly(name, float64(len(wrong)), 0, "campaigns", fmt.Sprintf("of %d, over %d to %d hosts; %s", len(s.world.Campaigns()), 3, 5, none(strings.Join(wrong, "; "))))
		}
	}
}

// unjoined says of each campaign that is not exactly one incident what is.
func (s *stage) unjoined(ctx context.Context) (wrong []string, err error) {
	var all []*raftv1.Incident
	for incident, err := range s.client.Incidents(ctx, &operatorv1.ListIncidentsRequest{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, incident)
	}
	for _, c := range s.world.Campaigns() {
		want := make([]string, 0, len(c.Path))
		for _, n := range c.Path {
			want = append(want, s.fleet.ID(n))
		}
		slices.Sort(want)
		var touching []string
		exact := false
		for _, incident := range all {
			hosts := slices.Sorted(slices.Values(incident.GetHosts()))
			if slices.ContainsFunc(hosts, func(h string) bool { return slices.Contains(want, h) }) {
				touching = append(touching, fmt.Sprintf("%s names %d hosts", incident.GetId(), len(hosts)))
				exact = slices.Equal(hosts, want)
			}
		}
		if len(touching) != 1 || !exact {
			wrong = append(wrong, fmt.Sprintf("campaign %d over %d hosts: %s", c.N, len(c.Path), none(strings.Join(touching, ", "))))
		}
	}
	return wrong, nil
}
