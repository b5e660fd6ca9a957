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
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

// A fleet over real sessions in which campaigns of every kind move, and pushes look like them.
const (
	moveWindow = time.Hour
	moveEvery  = 2 * time.Second
	// moveLearn is how many windows go before the first: habits must be older than a day. All of
	// the campaigns are within the day that the coordinator looks back.
	moveLearn   = 27
	moveWindows = moveLearn + 4 + 2*8 + 2
	// joinWithin is how soon after the last report all of them are to be whole.
	joinWithin = 5 * time.Second
)

func moveWorld(seed uint64, hosts int) world.Config {
	return world.Config{Seed: seed, Hosts: hosts, Window: moveWindow, Campaigns: max(6, hosts/25), CampaignStart: moveLearn, Kinds: true, Pushes: max(1, hosts/150)}
}

// moves plays them and holds the campaigns against what was played.
func moves(ctx context.Context, cfg Config) []figure.Row {
	const name = "campaigns joined into one, over real sessions"
	s, err := newStage(ctx, cfg, "campaigns", moveWorld(cfg.Seed, cfg.Size))
	if err != nil {
		return []figure.Row{figure.Missing(name, "%", "≥ 95", err)}
	}
	defer s.close()
	growing, cancel := context.WithTimeoutCause(ctx, enrolLimit, fmt.Errorf("not enrolled and connected within %s", enrolLimit))
	defer cancel()
	if err = s.fleet.Grow(growing, s.world.Size()); err == nil {
		s.cfg.Log(fmt.Sprintf("%d hosts live %d windows of %s, each in %s", s.world.Size(), moveWindows, moveWindow, moveEvery))
		err = s.fleet.Pace(ctx, 0, moveWindows, moveEvery)
	}
	if err != nil {
		return []figure.Row{figure.Missing(name, "%", "≥ 95", err)}
	}
	ended := time.Now()
	for {
		t, err := s.moved(ctx)
		if err != nil {
			return []figure.Row{figure.Missing(name, "%", "≥ 95", err)}
		}
		took := time.Since(ended)
		if t.joined == t.all || took > 2*joinWithin || pause(ctx, 200*time.Millisecond) != nil {
			weeks := float64(s.world.Size()) / 1000 * (moveWindows * moveWindow).Hours() / (7 * 24)
			return []figure.Row{
				figure.AtLeast(name, 100*float64(t.joined)/float64(t.all), 95, "%", fmt.Sprintf("%d of %d, %d hosts, seed %d, time compressed; %s", t.joined, t.all, s.world.Size(), cfg.Seed, none(strings.Join(t.apart, "; ")))),
				figure.AtLeast("hosts named by campaigns that are in them", float64(t.right)/float64(max(1, t.named)), 0.98, "", fmt.Sprintf("%d of %d", t.right, t.named)),
				figure.AtMost("false campaigns per 1,000 hosts and week", float64(t.wrong)/weeks, 1, "", fmt.Sprintf("%d beside %d pushes of 20 hosts", t.wrong, len(s.world.Pushes()))),
				figure.AtMost("all campaigns whole after the last report", took.Seconds(), joinWithin.Seconds(), "s", ""),
			}
		}
	}
}

// tally is how the campaigns stand beside the truth.
type tally struct {
	all, joined, named, right, wrong int
	apart                            []string
}

func (s *stage) moved(ctx context.Context) (t tally, err error) {
	var all []*raftv1.Campaign
	for c, err := range s.client.Campaigns(ctx, &operatorv1.ListCampaignsRequest{Status: "open"}) {
		if err != nil {
			return t, err
		}
		all = append(all, c)
	}
	of := make(map[int][]*raftv1.Campaign)
	for _, c := range all {
		count := make(map[int]map[string]bool)
		for _, m := range c.GetMembers() {
			var n, place int
			if _, err := fmt.Sscanf(m.GetStoryline(), "campaign-%d-%d", &n, &place); err == nil {
				if count[n] == nil {
					count[n] = make(map[string]bool)
					of[n] = append(of[n], c)
				}
				count[n][m.GetHost()] = true
			}
		}
		if len(count) == 0 {
			t.wrong++
			continue
		}
		most := 0
		for _, hosts := range count {
			most = max(most, len(hosts))
		}
		t.named, t.right = t.named+len(c.GetHosts()), t.right+most
	}
	for _, c := range s.world.Campaigns() {
		t.all++
		whole := len(of[c.N]) == 1
		for _, n := range c.Path {
			whole = whole && slices.Contains(of[c.N][0].GetHosts(), s.fleet.ID(n))
		}
		if whole {
			t.joined++
		} else {
			t.apart = append(t.apart, fmt.Sprintf("%s over %d hosts is in %d", c.Kind, len(c.Path), len(of[c.N])))
		}
	}
	return t, nil
}
