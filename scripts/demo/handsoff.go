package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// handsOffIntent is what the demo's people set beforehand, so that nobody has to type when it
// happens: db1 acts at once, the others unless somebody says no within ten seconds.
const handsOffIntent = `reason: nobody types tonight
veto_seconds: 10
groups:
  - name: servers
    labels: {role: web}
  - name: apps
    labels: {role: app}
  - name: db
    labels: {role: db}
policy: |
  @id("db-at-once")
  permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"db")
  when { context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("0.3")) };

  @id("others-unless-vetoed")
  permit (principal, action == Vedette::Action::"isolate", resource)
  when { context.level <= 3 && (resource in Vedette::Group::"servers" || resource in Vedette::Group::"apps") };
`

// investigated is what the story reads of an incident's investigations.
type investigated struct {
	Host     string    `json:"host"`
	Verdict  string    `json:"verdict"`
	Because  string    `json:"because"`
	Account  string    `json:"account"`
	Answered int       `json:"answered"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
}

// investigation wants each of the three hosts' part of the incident looked into, by its own
// recorder, within 30 s and with nobody asking.
func (s *story) investigation(ctx context.Context) error {
	names, err := s.names(ctx)
	if err != nil {
		return err
	}
	var all []investigated
	err = s.until(ctx, 30*time.Second, "web1, app1 and db1 to be investigated", func(ctx context.Context) (bool, error) {
		if err := s.cluster.JSON(ctx, &all, "investigation", "list"); err != nil {
			return false, err
		}
		for _, name := range []string{"web1", "app1", "db1"} {
			if !slices.ContainsFunc(all, func(i investigated) bool { return names[i.Host] == name && i.Answered > 0 }) {
				return false, nil
			}
		}
		return slices.ContainsFunc(all, func(i investigated) bool { return i.Verdict == "incident" }), nil
	})
	if err != nil {
		return errors.Join(err, s.show(ctx, "investigation", "list", "-o", "wide"))
	}
	longest := time.Duration(0)
	for _, i := range all {
		if n := strings.Count(i.Account, "\n") + 1; n > 10 {
			return fmt.Errorf("the account of %s has %d lines", names[i.Host], n)
		}
		longest = max(longest, i.Ended.Sub(i.Began))
	}
	s.say.proved("web1, app1 and db1 are investigated with nobody asking: %d storylines, each within %.0f s", len(all), max(longest.Seconds(), 1))
	worst := slices.IndexFunc(all, func(i investigated) bool { return i.Verdict == "incident" })
	for line := range strings.Lines(all[worst].Account) {
		s.say.line("    %s", strings.TrimRight(line, "\n"))
	}
	return nil
}

// contained wants the three hosts cut off by what people set beforehand, with nobody typing.
func (s *story) contained(ctx context.Context) error {
	hosts, err := s.cluster.Hosts(ctx)
	if err != nil {
		return err
	}
	var rows []isolation
	for _, h := range s.world.hosts[:3] {
		err := s.until(ctx, 40*time.Second, h.name+" to be isolated", func(ctx context.Context) (bool, error) {
			if err := s.cluster.JSON(ctx, &rows, "isolation", "list", "--active"); err != nil {
				return false, err
			}
			return slices.ContainsFunc(rows, func(i isolation) bool { return i.Host == hosts[h.name].ID && i.State == "applied" }), nil
		})
		if err != nil {
			return errors.Join(err, s.show(ctx, "isolation", "list", "-o", "wide"), s.show(ctx, "operation", "list", "-o", "wide"))
		}
		if err := isCut(ctx, h, s.world.away); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if strings.HasPrefix(row.RequestedBy, "operator:") {
			return fmt.Errorf("somebody typed: %s asked for the isolation of %s", row.RequestedBy, row.Host)
		}
	}
	s.say.proved("web1, app1 and db1 are isolated with nobody typing: db1 at once, the others as nobody said no within 10 s")
	return nil
}
